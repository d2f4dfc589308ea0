"""CRPS, energy score, PIT and coverage against closed forms and brute force."""

import numpy as np
import pytest
from scipy.stats import binom

from mf_llm.errors import InputError
from mf_llm.forecasting.coverage import central_coverage, central_width
from mf_llm.forecasting.crps import crps_of_counts, crps_of_ensemble, energy_score
from mf_llm.forecasting.pit import (
    binomial_band,
    expected_below,
    pit_bounds,
    pit_histogram,
    randomised_pit,
    uniformity,
)


def binomial_cdf(n, p):
    return binom.cdf(np.arange(n + 1), n, p)


def brute_force(members, observed, fair):
    m = len(members)
    norm = (lambda x: np.abs(x)) if np.ndim(observed) == 0 else (lambda x: np.sqrt((x**2).sum()))
    spread = sum(norm(a - b) for a in members for b in members) / (m * (m - 1) if fair else m * m)
    return sum(norm(a - observed) for a in members) / m - spread / 2


def test_crps_of_a_certain_forecast_is_the_distance():
    cdf = (np.arange(11) >= 4).astype(float)
    assert crps_of_counts(cdf, 4) == 0
    assert crps_of_counts(cdf, 9) == pytest.approx(0.5)


def test_crps_of_two_equally_likely_counts():
    # E|X - y| - E|X - X'| / 2 with X = 0 or 10 of 10: 1/2 - 1/4.
    cdf = np.array([0.5] * 10 + [1.0])
    assert crps_of_counts(cdf, 3) == pytest.approx(0.5 * 0.3 + 0.5 * 0.7 - 0.25)


def test_exact_crps_is_what_an_ensemble_estimates():
    n, p, rng = 16, 0.3, np.random.default_rng(0)
    draws = rng.binomial(n, p, size=20_000) / n
    for x in (0, 5, 12):
        assert crps_of_counts(binomial_cdf(n, p), x) == pytest.approx(crps_of_ensemble(draws, x / n), abs=2e-3)


@pytest.mark.parametrize("fair", [True, False])
def test_scores_of_ensembles_by_brute_force(fair):
    rng = np.random.default_rng(1)
    members, observed = rng.random(7), 0.4
    assert crps_of_ensemble(members, observed, fair=fair) == pytest.approx(brute_force(members, observed, fair))
    members, observed = rng.dirichlet(np.ones(3), size=7), np.array([0.2, 0.3, 0.5])
    assert energy_score(members, observed, fair=fair) == pytest.approx(brute_force(members, observed, fair))
    several = np.stack([members, members[::-1]], axis=1)
    assert energy_score(several, np.stack([observed] * 2), fair=fair) == pytest.approx(
        [brute_force(members, observed, fair)] * 2
    )


def test_a_fair_score_does_not_depend_on_the_size_of_the_ensemble():
    rng = np.random.default_rng(2)
    small, large = rng.binomial(16, 0.3, size=(2, 40_000)) / 16, rng.binomial(16, 0.3, size=(20, 4_000)) / 16
    observed = 5 / 16
    assert crps_of_ensemble(small, np.full(40_000, observed)).mean() == pytest.approx(
        crps_of_ensemble(large, np.full(4_000, observed)).mean(), abs=2e-3
    )
    unfair = crps_of_ensemble(small, np.full(40_000, observed), fair=False).mean()
    assert unfair > crps_of_ensemble(large, np.full(4_000, observed), fair=False).mean() + 0.01


def test_the_energy_score_of_one_number_is_its_crps():
    rng = np.random.default_rng(3)
    members = rng.random(9)
    assert energy_score(members[:, None], np.array([0.2])) == pytest.approx(crps_of_ensemble(members, 0.2))


def test_crps_is_proper():
    n, truth = 16, binom.pmf(np.arange(17), 16, 0.3)
    expected = {
        p: sum(truth[x] * crps_of_counts(binomial_cdf(n, p), x) for x in range(n + 1)) for p in (0.2, 0.3, 0.4)
    }
    assert min(expected, key=expected.get) == 0.3


@pytest.mark.parametrize("score", [crps_of_ensemble, energy_score])
def test_one_member_has_no_fair_score(score):
    with pytest.raises(InputError, match="at least 2 for a fair score, got 1"):
        score(np.ones((1, 3)), np.ones(3))


def test_pit_of_counts():
    cdf = np.array([[0.1, 0.4, 1.0], [0.1, 0.4, 1.0]])
    low, high = pit_bounds(cdf, [0, 2])
    assert (low.tolist(), high.tolist()) == ([0.0, 0.4], [0.1, 1.0])
    assert randomised_pit(low, high, [0.5, 0.5]) == pytest.approx([0.05, 0.7])
    assert expected_below(low, high, 0.7) == pytest.approx([1.0, 0.5])
    # A count that was impossible has no width.
    assert expected_below([0.3], [0.3], 0.3).tolist() == [0.0]
    assert expected_below([0.3], [0.3], 0.4).tolist() == [1.0]


def test_pit_and_coverage_are_exactly_right_on_average_under_the_truth():
    n, p = 7, 0.35
    cdf, truth = binomial_cdf(n, p), binom.pmf(np.arange(n + 1), n, p)
    low, high = pit_bounds(np.tile(cdf, (n + 1, 1)), np.arange(n + 1))
    for level in (0.1, 0.37, 0.9):
        assert truth @ expected_below(low, high, level) == pytest.approx(level)
    for level in (0.5, 0.8, 0.95):
        assert truth @ central_coverage(low, high, level) == pytest.approx(level)


def test_width_of_the_central_interval():
    cdf = binomial_cdf(10, 0.5)
    assert central_width(cdf, 0.95) == pytest.approx((8 - 2) / 10)
    assert central_width(np.array([0.0, 0.0, 1.0]), 0.95) == 0


def test_histogram():
    assert pit_histogram([0.0, 0.05, 0.55, 1.0], 4).tolist() == [0.5, 0, 0.25, 0.25]


def test_binomial_band():
    low, high = binomial_band(1000, 10)
    assert (low, high) == pytest.approx((0.082, 0.119), abs=1e-3)


def dependent_events(rng, n_events, shift):
    """Values of an event are one value, 12 times: perfectly dependent, uniform for shift = 0."""
    return [np.full(12, value ** (1 + shift)) for value in rng.random(n_events)]


def test_the_test_of_uniformity_holds_its_level_under_dependence_within_events():
    rng = np.random.default_rng(0)
    draws = rng.integers(60, size=(300, 60))
    rejected = [uniformity(dependent_events(rng, 60, 0.0), draws).p_value < 0.05 for _ in range(200)]
    # 200 tests at 5 %: a standard error of 1.5 points. Taking the values as independent would reject nearly always.
    assert np.mean(rejected) < 0.11
    naive = [pit_histogram(dependent_events(rng, 60, 0.0)) for _ in range(50)]
    low, high = binomial_band(720)
    assert np.mean([(row < low).any() or (row > high).any() for row in naive]) > 0.9


def test_the_test_of_uniformity_sees_a_bias():
    rng = np.random.default_rng(0)
    draws = rng.integers(60, size=(300, 60))
    found = uniformity(dependent_events(rng, 60, 3.0), draws)
    assert found.p_value < 0.01
    assert found.low[0] < found.shares[0] < found.high[0]
    assert found.low[0] > 0.1


def test_few_events_have_no_test():
    values = [np.array([0.1, 0.9])] * 4
    found = uniformity(values, np.zeros((20, 4), dtype=int))
    assert found.p_value is None
    assert found.low is not None


def test_one_event_has_no_test():
    found = uniformity([np.array([0.1, 0.9])], None)
    assert (found.p_value, found.low, found.n_values, found.n_events) == (None, None, 2, 1)
    assert found.shares.sum() == pytest.approx(1)
