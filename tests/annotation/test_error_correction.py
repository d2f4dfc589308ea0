"""Correction of measured shares: closed forms, soft readings, priors, and what held-out events say."""

import numpy as np
import pytest
from small_annotators import CATEGORIES, STANCE, FunctionAnnotator, one_hot, worded_event

from mf_llm.annotation import Annotations, correct_shares
from mf_llm.annotation.error_correction import (
    ErrorRates,
    choose_strength,
    corrected,
    error_rates,
    validate_correction,
)
from mf_llm.annotation.replay import replay
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import kl_divergence
from mf_llm.evaluation.forecasters import Training, Uniform
from mf_llm.evaluation.judged_event import judge_forecast
from mf_llm.evaluation.protocol import Windows

RATES = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.05, 0.25, 0.7]])


@pytest.mark.parametrize("truth", [[0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [1 / 3, 1 / 3, 1 / 3]])
def test_exact_shares_are_found_again(truth):
    np.testing.assert_allclose(correct_shares(np.array(truth) @ RATES, RATES), truth, atol=1e-6)


def test_without_errors_nothing_changes_and_rows_are_independent():
    measured = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(correct_shares(measured, np.eye(3)), measured, atol=1e-9)
    both = correct_shares(measured @ RATES, RATES)
    np.testing.assert_allclose(both[0], correct_shares(measured[0] @ RATES, RATES), atol=1e-9)


def test_two_categories_in_closed_form():
    # Sensitivity 0.9, specificity 0.8 (Rogan and Gladen 1978): p = (m + specificity - 1) / (both - 1).
    rates = [[0.9, 0.1], [0.2, 0.8]]
    assert correct_shares([0.41, 0.59], rates)[0] == pytest.approx((0.41 + 0.8 - 1) / 0.7, abs=1e-7)
    assert correct_shares([0.15, 0.85], rates)[0] == pytest.approx(0, abs=1e-6)  # the formula says -0.07


def test_outside_the_simplex_the_nearest_in_kl_is_found():
    from scipy.optimize import minimize

    measured = np.array([0.97, 0.02, 0.01])
    found = correct_shares(measured, RATES)
    assert found.min() >= 0 and found.sum() == pytest.approx(1)

    def loss(logits):
        p = np.exp(logits - logits.max())
        return float(kl_divergence(measured, (p / p.sum()) @ RATES))

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 5000, "xatol": 1e-10}).fun
    assert float(kl_divergence(measured, found @ RATES)) <= best + 1e-7


def test_a_prior_pulls_by_its_strength():
    prior, measured = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.2, 0.2])
    for n, strength in ((16, 8.0), (160, 8.0), (16, 1e6)):
        found = correct_shares(measured, np.eye(3), n=n, prior=prior, strength=strength)
        np.testing.assert_allclose(found, (n * measured + strength * prior) / (n + strength), atol=1e-8)
    with pytest.raises(InputError, match="`n` and `prior` must be given"):
        correct_shares(measured, RATES, strength=2.0)


def test_rates_of_soft_readings_are_mean_probabilities():
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.6, 0.2], [np.nan] * 3, [0.0, 0.2, 0.8]])
    annotations = Annotations(CATEGORIES, p, (None, None, None, "timeout", None))
    rates = error_rates(annotations, [0, 0, 1, 1, 2], pseudo_count=0)
    np.testing.assert_allclose(rates.rates, [[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.0, 0.2, 0.8]])
    np.testing.assert_allclose(rates.prior, [0.5, 0.25, 0.25])
    # In the texts they were counted on, true shares explain the measured ones exactly.
    np.testing.assert_allclose(rates.prior @ rates.rates, np.nanmean(p, axis=0))
    unseen = error_rates(annotations, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(unseen.rates[2], np.nanmean(p, axis=0))
    with pytest.raises(InputError, match="must hold an answer"):
        error_rates(annotations.rows([3]), [0])


def noisy(text: str, topic: str):
    """Reads by `RATES`, the same for the same text."""
    rng = np.random.default_rng(abs(hash_of(text)))
    return one_hot(CATEGORIES[rng.choice(3, p=RATES[CATEGORIES.index(text[0])])])


def hash_of(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode())


def made_events(n: int, length: int, split: str):
    rng = np.random.default_rng(5 if split == "test" else 6)
    shares = rng.dirichlet([8, 1, 1], size=n)
    return [
        worded_event("".join(rng.choice(list(CATEGORIES), size=length, p=p)), f"{split}{e}", split)
        for e, p in enumerate(shares)
    ]


@pytest.mark.parametrize("hard", [False, True])
def test_a_correction_helps_where_windows_are_large(hard):
    windows = Windows(8, 290)
    done = replay(made_events(12, 300, "test"), FunctionAnnotator(noisy), STANCE, windows=windows, hard=hard)
    rates = ErrorRates(RATES, [0.8, 0.1, 0.1], strength=5.0)
    found = validate_correction(done.events, rates)
    assert found.helps and found.change.high < 0
    assert found.after.value < 0.5 * found.before.value
    assert found.change.value == pytest.approx(found.after.value - found.before.value)
    assert found.to_dict()["helps"] is True and found.n_events == 12


def test_in_small_windows_a_prior_keeps_it_from_doing_harm():
    windows = Windows(8, 8)
    rates = ErrorRates(RATES, [0.8, 0.1, 0.1])
    train = replay(made_events(12, 80, "train"), FunctionAnnotator(noisy), STANCE, windows=windows, split="train")
    chosen = choose_strength(train.events, rates)
    assert chosen.strength > 0
    test = replay(made_events(12, 80, "test"), FunctionAnnotator(noisy), STANCE, windows=windows)
    assert validate_correction(test.events, chosen).after.value < validate_correction(test.events, rates).after.value


def test_a_corrected_event_can_be_paired_with_the_measured_one():
    done = replay(made_events(2, 40, "test"), FunctionAnnotator(noisy), STANCE, windows=Windows(8, 16))
    event = done.events[0]
    again = corrected(event, ErrorRates(np.eye(3), np.full(3, 1 / 3)))
    assert again.windows_key == event.windows_key
    np.testing.assert_allclose(again.q, event.q, atol=1e-9)
    training = Training([event.plan.event], Windows(8, 16), "stance", CATEGORIES)
    with pytest.raises(InputError, match="got a forecast"):
        corrected(judge_forecast(event.plan, Uniform(), training), ErrorRates(np.eye(3), np.full(3, 1 / 3)))


@pytest.mark.parametrize(
    ("rates", "prior"), [(np.eye(3), [0.5, 0.5]), (np.eye(2) * 2, [0.5, 0.5]), (np.eye(2), [0.5, 0.6])]
)
def test_rates_that_are_none_are_refused(rates, prior):
    with pytest.raises(InputError, match="`rates` and `prior` must be"):
        ErrorRates(rates, prior)
