"""Closed forms of the forecasters without a language model."""

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Carry, Last, Prior, Training, Uniform, dirichlet, forecast, full_name
from mf_llm.evaluation.protocol import Windows, plan_event

WINDOWS = Windows(4, 2)


def training(*labels: str, windows: Windows = WINDOWS) -> Training:
    events = [make_event(text, f"t{n}", "train") for n, text in enumerate(labels)]
    return Training(events, windows, "stance", CATEGORIES)


def test_prior_is_the_counts_of_train_plus_one_half():
    assert training("aab", "c").prior == pytest.approx(np.array([2.5, 1.5, 1.5]) / 5.5)
    assert training().prior == pytest.approx([1 / 3] * 3)
    assert training("a" * 400).prior == pytest.approx(np.array([304.5, 0.5, 0.5]) / 305.5)


def test_validation_and_test_events_do_not_enter_the_prior():
    events = [make_event("a", "1", "train"), make_event("b", "2", "validation"), make_event("c", "3", "test")]
    assert Training(events, WINDOWS, "stance", CATEGORIES).prior == pytest.approx(np.array([1.5, 0.5, 0.5]) / 2.5)


def test_forecasts():
    known = training("aabbcc")
    plan = plan_event(make_event("aabb" + "ccabc"), WINDOWS)
    assert Uniform()(plan.event, plan, known) == pytest.approx([1 / 3] * 3)
    assert Prior()(plan.event, plan, known) == pytest.approx([1 / 3] * 3)
    assert Carry(alpha=2)(plan.event, plan, known) == pytest.approx(np.array([8, 8, 2]) / 18)
    assert Last(alpha=2)(plan.event, plan, known) == pytest.approx(np.array([1 / 6, 4 / 6, 1 / 6]))
    assert forecast(Carry(alpha=2), plan, known).shape == (2, 3)


def test_dirichlet_limits():
    counts, prior = np.array([3.0, 1.0]), np.array([0.5, 0.5])
    assert dirichlet(counts, prior, 0) == pytest.approx([0.75, 0.25])
    assert dirichlet(counts, prior, 1e9) == pytest.approx(prior)


def test_alpha_has_the_lowest_kl_on_train_and_validation():
    steady = training("a" * 8, "b" * 8, "c" * 8)
    assert steady.alpha == 1
    fickle = training("aabb" + "cc", "bbcc" + "aa", "ccaa" + "bb")
    assert fickle.alpha == 100
    assert full_name(Carry(), steady) == "carry(alpha=1)"
    assert full_name(Carry(alpha=3), steady) == "carry(alpha=3)"
    assert full_name(Prior(), steady) == "prior"


def test_reference_is_the_best_on_train_and_validation():
    assert training("a" * 8, "b" * 8, "c" * 8).reference.name == "carry"
    assert training("aabb" + "cc", "bbcc" + "aa", "ccaa" + "bb").reference.name == "prior"
    assert training("aacc" + "cc", "bbaa" + "aa", "ccbb" + "bb").reference.name == "last"
    assert training().reference.name == "carry"
    assert training().alpha == 10


def test_surveys_carry_the_last_wave_with_ten_pseudo_people_of_the_last_training_wave():
    waves = {"w1": [("c", 1, {})], "w2": [("a", 3, {}), ("b", 1, {})], "w3": [("a", 1, {})]}
    event = make_survey(waves)
    train = make_survey({"w1": [("c", 1, {})], "w2": [("a", 1, {}), ("b", 2, {})]}, "t", "train")
    windows = Windows(0, 0, waves=True)
    known = Training([train, event], windows, "intention", CATEGORIES)
    prior = np.array([2 / 3 + 0.5, 4 / 3 + 0.5, 0.5]) / 3.5
    assert known.prior == pytest.approx(prior)
    plan = plan_event(event, windows)
    expected = (np.array([1.5, 0.5, 0]) + 10 * prior) / 12
    assert Carry()(event, plan, known) == pytest.approx(expected)
    assert Last()(event, plan, known) == pytest.approx(expected)
    assert full_name(known.reference, known) == "carry(alpha=10)"


@pytest.mark.parametrize("answer", [np.ones(2) / 2, np.ones(3), np.array([1.5, -0.5, 0]), np.full(3, np.nan)])
def test_a_method_must_return_distributions(answer):
    plan = plan_event(make_event("aabb" + "ccabc"), WINDOWS)

    def broken(event, plan, training):
        return answer

    with pytest.raises(InputError, match="`broken` must return shares"):
        forecast(broken, plan, training())
