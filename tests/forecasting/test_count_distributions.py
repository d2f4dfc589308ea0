"""Counts of people under mixtures: closed forms, and draws against them."""

import itertools
from math import comb

import numpy as np
import pytest

from mf_llm.forecasting.count_distributions import (
    count_probabilities,
    count_quantiles,
    draw_counts,
    log_likelihood,
    share_quantiles,
)

INF = np.array([np.inf])


def test_one_member_without_scatter_is_binomial():
    found = count_probabilities(np.array([[[0.3, 0.7]]]), INF, 5)
    expected = [comb(5, x) * 0.3**x * 0.7 ** (5 - x) for x in range(6)]
    assert found[0, 0] == pytest.approx(expected)
    assert found[0, 1] == pytest.approx(expected[::-1])


def test_members_are_mixed_equally():
    shares = np.array([[[0.2, 0.8]], [[0.6, 0.4]]])
    parts = [count_probabilities(member[None], INF, 4) for member in shares]
    assert count_probabilities(shares, INF, 4) == pytest.approx(np.mean(parts, axis=0))


def test_a_flat_beta_makes_every_count_equally_likely():
    # Beta(1, 1): the beta-binomial is uniform on 0..n.
    found = count_probabilities(np.array([[[0.5, 0.5]]]), np.array([2.0]), 9)
    assert found == pytest.approx(np.full((1, 2, 10), 0.1))


def test_a_large_concentration_is_none():
    shares = np.array([[[0.2, 0.5, 0.3]]])
    near = count_probabilities(shares, np.array([1e7]), 16)
    assert near == pytest.approx(count_probabilities(shares, INF, 16), abs=1e-5)


@pytest.mark.parametrize("concentration", [np.inf, 3.0])
def test_likelihoods_of_all_counts_sum_to_one_and_have_the_marginals(concentration):
    shares, c = np.array([[[0.2, 0.5, 0.3]], [[0.1, 0.1, 0.8]]]), np.array([concentration])
    n = 5
    every = [x for x in itertools.product(range(n + 1), repeat=3) if sum(x) == n]
    p = np.exp([log_likelihood(np.array([x]), shares, c)[0] for x in every])
    assert p.sum() == pytest.approx(1)
    marginal = np.bincount([x[0] for x in every], weights=p)
    assert count_probabilities(shares, c, n)[0, 0] == pytest.approx(marginal)


def test_quantiles_of_counts_are_the_smallest_that_reach_the_level():
    cdf = np.array([[0.1, 0.5, 0.9, 1.0]])
    assert count_quantiles(cdf, [0.05, 0.1, 0.11, 0.5, 0.95, 1.0]).tolist() == [[0], [0], [1], [1], [3], [3]]


def test_quantiles_of_a_crowd_are_those_of_its_beta_distribution():
    from scipy.stats import beta

    levels = [0.05, 0.5, 0.9]
    found = share_quantiles(np.array([[[0.3, 0.7]]]), np.array([10.0]), levels)
    assert found[:, 0, 0] == pytest.approx(beta.ppf(levels, 3, 7), abs=1e-9)
    members = np.array([[[0.2, 0.8]], [[0.4, 0.6]]])
    mixed = share_quantiles(members, np.array([10.0]), levels)[:, 0, 0]
    below = (beta.cdf(mixed, 2, 8) + beta.cdf(mixed, 4, 6)) / 2
    assert below == pytest.approx(levels, abs=1e-9)


def test_quantiles_between_members_without_scatter():
    members = np.array([[[0.2, 0.8]], [[0.4, 0.6]], [[0.9, 0.1]]])
    assert share_quantiles(members, INF, [0.5])[0, 0] == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize("concentration", [np.inf, 5.0])
def test_draws_follow_the_probabilities(concentration):
    shares, c = np.array([[[0.2, 0.5, 0.3]], [[0.6, 0.3, 0.1]]]), np.array([concentration])
    draws = draw_counts(shares, c, [6], 20_000, key=3)
    assert draws.shape == (20_000, 1, 3)
    assert (draws.sum(axis=2) == 6).all()
    expected = count_probabilities(shares, c, 6)[0]
    for k in range(3):
        seen = np.bincount(draws[:, 0, k], minlength=7) / len(draws)
        assert seen == pytest.approx(expected[k], abs=0.012)


@pytest.mark.parametrize("concentration", [np.inf, 5.0])
def test_draws_are_keyed_and_more_of_them_begin_alike(concentration):
    shares, c = np.full((3, 2, 3), 1 / 3), np.full(2, concentration)
    few, many = (draw_counts(shares, c, [8, 16], size, key=7) for size in (10, 50))
    assert (few == many[:10]).all()
    assert (few == draw_counts(shares, c, [8, 16], 10, key=7)).all()
    assert (few != draw_counts(shares, c, [8, 16], 10, key=8)).any()


def test_the_given_shares_are_left_as_they_are():
    shares = np.full((1, 1, 3), 1 / 3)
    draw_counts(shares, np.array([2.0]), [8], 10, key=7)
    assert shares == pytest.approx(1 / 3)
