"""How many of n people choose each category, when a forecast is an equal mixture of R members.

Member r says that a person of step t chooses category k with probability `p[r, t, k]`. With a concentration `c[t]`
the crowd's own probabilities scatter about it, ``Dirichlet(c[t] * p[r, t])``; with ``c = inf`` they do not. Then n
people choose: the counts are Dirichlet-multinomial (multinomial for ``c = inf``), each category's count is
beta-binomial (binomial). All functions are exact but `draw_counts`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# 2 ** -40 is far below what a share of people can show.
_BISECTIONS = 40


def count_probabilities(shares: Floats, concentration: Floats, n: int) -> Floats:
    """``P(X_k = x)`` for x = 0..n.

    Args:
        shares: members `[R, T, K]`, positive.
        concentration: `[T]`, `inf` where people are drawn from the members' shares themselves.
        n: number of people.

    Returns:
        `[T, K, n + 1]`; the last axis sums to 1.
    """
    from scipy.stats import betabinom, binom

    x, found = np.arange(n + 1), np.empty((*shares.shape[1:], n + 1))
    scattered = np.isfinite(concentration)
    p = shares[..., None]
    found[~scattered] = binom.pmf(x, n, p[:, ~scattered]).mean(axis=0)
    c = concentration[scattered, None, None]
    found[scattered] = betabinom.pmf(x, n, c * p[:, scattered], c * (1 - p[:, scattered])).mean(axis=0)
    return found


def log_likelihood(counts: Counts, shares: Floats, concentration: Floats) -> Floats:
    """``log P(X = counts)`` of all categories together, `[T]`, in nats.

    Args:
        counts: `[T, K]`.
        shares: members `[R, T, K]`.
        concentration: `[T]`.
    """
    from scipy.special import logsumexp
    from scipy.stats import dirichlet_multinomial, multinomial

    n, found = counts.sum(axis=1), np.empty(shares.shape[:2])
    scattered = np.isfinite(concentration)
    found[:, ~scattered] = multinomial.logpmf(counts[~scattered], n[~scattered], shares[:, ~scattered])
    alpha = concentration[scattered, None] * shares[:, scattered]
    found[:, scattered] = dirichlet_multinomial.logpmf(counts[scattered], alpha, n[scattered])
    return logsumexp(found, axis=0) - np.log(len(shares))


def share_quantiles(shares: Floats, concentration: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles of the crowd's own probabilities, without the sampling of people, `[L, T, K]`.

    Those of the members where ``c = inf`` (linear between members), else of the mixture of their beta distributions.
    """
    from scipy.special import betainc

    found = np.quantile(shares, levels, axis=0)
    scattered = np.isfinite(concentration)
    if not scattered.any():
        return found
    a = concentration[scattered, None] * shares[:, scattered]
    b = concentration[scattered, None] * (1 - shares[:, scattered])
    wanted = np.asarray(levels)[:, None, None]
    low, high = np.zeros((len(levels), *a.shape[1:])), np.ones((len(levels), *a.shape[1:]))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = betainc(a, b, middle[:, None]).mean(axis=1) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found[:, scattered] = (low + high) / 2
    return found


def count_quantiles(cdf: Floats, levels: Sequence[float]) -> Counts:
    """The smallest count x with ``F(x) >= level``: `[..., n + 1]` to `[L, ...]`."""
    # A cumulative sum may miss 1 by rounding.
    return np.stack([np.argmax(cdf >= min(level, 1.0) - 1e-12, axis=-1) for level in levels])


def draw_counts(shares: Floats, concentration: Floats, n: Sequence[int], size: int, key: int) -> Counts:
    """Keyed draws of the counts, `[size, T, K]`; the first draws of a larger `size` are the same.

    The members take turns, each for a whole trajectory, so that a member's steps stay together; what the
    concentration adds is drawn for each step by itself.

    Args:
        shares: members `[R, T, K]`.
        concentration: `[T]`.
        n: people of each of the T steps.
        size: number of draws.
        key: stream key (`mf_llm.simulation.keyed_draws.stream_key`).
    """
    stream = np.random.Philox(key=np.uint64(key))
    # Two streams that never meet: how much one takes does not move the other.
    crowd, people = np.random.Generator(stream), np.random.Generator(stream.jumped())
    p = shares[np.arange(size) % len(shares)]
    scattered = np.isfinite(concentration)
    if scattered.any():
        gammas = crowd.standard_gamma(concentration[scattered, None] * p[:, scattered])
        # Where all underflow (a concentration far below 1) the shares stand as they are.
        total = gammas.sum(axis=-1, keepdims=True)
        p[:, scattered] = np.divide(gammas, total, out=p[:, scattered], where=total > 0)
    return people.multinomial(np.asarray(n, dtype=np.int64), p / p.sum(axis=-1, keepdims=True))
