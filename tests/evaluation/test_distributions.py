"""Divergences against scipy and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import rel_entr

from mf_llm.evaluation import distributions as d

COUNTS = arrays(np.float64, 4, elements=st.integers(0, 50).map(float)).filter(lambda counts: counts.sum() > 0)


@given(p=COUNTS, q=COUNTS)
def test_kl_is_that_of_scipy_and_never_negative(p, q):
    p, q = d.normalise(p), d.smooth(q)
    assert d.kl_divergence(p, q) == pytest.approx(rel_entr(p, q).sum(), abs=1e-12)
    assert d.kl_divergence(p, q) >= 0


@given(p=COUNTS, q=COUNTS)
def test_kl_is_zero_only_for_equal_distributions(p, q):
    p, q = d.smooth(p), d.smooth(q)
    assert d.kl_divergence(p, p) == 0
    assert (d.kl_divergence(p, q) < 1e-12) == np.allclose(p, q, atol=1e-6)


@given(p=COUNTS, q=COUNTS)
def test_bounds_of_the_other_divergences(p, q):
    p, q = d.normalise(p), d.normalise(q)
    assert -1e-12 <= d.js_divergence(p, q) <= math.log(2) + 1e-12
    assert d.js_divergence(p, q) == pytest.approx(d.js_divergence(q, p))
    assert d.total_variation(p, q) <= d.wasserstein_1(p, q) + 1e-9
    # Pinsker
    assert 2 * d.total_variation(p, d.clamp(q)) ** 2 <= d.kl_divergence(p, d.clamp(q)) + 1e-9


def test_kl_is_infinite_where_q_has_no_room():
    assert d.kl_divergence([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert d.kl_divergence([1.0, 0.0], [1.0, 0.0]) == 0


def test_functions_work_step_by_step():
    p, q = d.normalise([[1, 3], [2, 2]]), d.normalise([[2, 2], [2, 2]])
    assert d.kl_divergence(p, q).shape == (2,)
    assert d.kl_divergence(p, q)[1] == 0
    assert d.wasserstein_1(p, q) == pytest.approx([0.25, 0])
    assert d.entropy(q) == pytest.approx([math.log(2)] * 2)


def test_wasserstein_counts_categories_moved():
    assert d.wasserstein_1([1, 0, 0], [0, 0, 1]) == 2
    assert d.wasserstein_1([0.5, 0.5, 0], [0, 0.5, 0.5]) == 1
    p, q = [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]
    assert d.wasserstein_1(p, q) == pytest.approx(np.abs(np.cumsum(p) - np.cumsum(q)).sum())


def test_entropy_is_that_of_scipy():
    assert d.entropy([0.2, 0.3, 0.5]) == pytest.approx(stats.entropy([0.2, 0.3, 0.5]))
    assert d.entropy([1.0, 0.0]) == 0


def test_miller_madow_takes_the_bias_out_of_small_samples():
    rng, shares = np.random.default_rng(0), np.array([0.5, 0.3, 0.2])
    samples = rng.multinomial(30, shares, size=4000) / 30
    corrected = np.mean([d.miller_madow_entropy(sample, 30) for sample in samples])
    true = stats.entropy(shares)
    assert abs(corrected - true) < 0.003 < true - d.entropy(samples).mean()


def test_entropies_of_an_event():
    real, simulated = d.corrected_entropies([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]], n_real=10)
    assert real == pytest.approx(math.log(2) + 1 / 20)
    assert simulated == pytest.approx(math.log(2))
    assert d.corrected_entropies([0.5, 0.5], [[0.5, 0.5]], 10, 20)[1] == pytest.approx(math.log(2) + 1 / 40)


def test_dtw_forgives_a_shift_in_time():
    p = d.normalise([[9, 1], [9, 1], [1, 9], [1, 9]])
    late = d.normalise([[9, 1], [9, 1], [9, 1], [1, 9]])
    assert d.dynamic_time_warping(p, p) == 0
    assert d.dynamic_time_warping(p, late) == pytest.approx(0)
    assert d.total_variation(p, late).mean() == pytest.approx(0.2)
    assert d.dynamic_time_warping(p, 1 - p) <= d.total_variation(p, 1 - p).mean()
    assert d.dynamic_time_warping(p[:1], p) == pytest.approx(2 * 0.8 / 4)


def test_sampling_alone_is_the_expectation_of_a_monte_carlo():
    rng, shares = np.random.default_rng(0), np.array([0.6, 0.3, 0.1, 0.0])
    draws = rng.multinomial(16, shares, size=40_000) / 16
    expected = d.kl_divergence(draws, d.clamp(shares)).mean()
    assert d.expected_sampling_kl(shares, 16) == pytest.approx(expected, abs=0.002)


def test_f1_of_people():
    micro, macro = d.f1_scores([0, 0, 1, 2], [0, 1, 1, 1], 4)
    assert micro == 0.5
    assert macro == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert d.f1_scores([0, 1], [0, 0], 2, weights=[3, 1])[0] == 0.75
    assert d.f1_scores([0, 1], [0, 1], 3) == (1.0, 1.0)


def test_nll_of_people():
    assert d.negative_log_likelihood([0, 1], [[0.5, 0.5], [0.75, 0.25]]) == pytest.approx(np.log(8) / 2)
    assert d.negative_log_likelihood([1], [[1.0, 0.0]]) == pytest.approx(-math.log(1e-4 / 1.0001))
    assert d.negative_log_likelihood([0, 1], [[0.5, 0.5], [0.1, 0.9]], [1, 0]) == pytest.approx(math.log(2))


@given(weights=st.lists(st.floats(0.1, 10), min_size=3, max_size=3), unit=st.floats(0.01, 100))
def test_weights_are_scaled_to_a_mean_of_one(weights, unit):
    once = d.label_counts([0, 1, 1], 2, weights)
    assert once == pytest.approx(d.label_counts([0, 1, 1], 2, [unit * weight for weight in weights]))
    assert once.sum() == pytest.approx(3)


def test_effective_size():
    assert d.effective_size([2, 2, 2]) == pytest.approx(3)
    assert d.effective_size([1, 0, 0]) == pytest.approx(1)
    assert d.effective_size([]) == 0
