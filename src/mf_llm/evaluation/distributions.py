"""Pure functions on distributions `[K]` and trajectories `[T, K]`, and scores of single people.

KL, Jensen-Shannon, total variation, entropy, clamping and smoothing are those of the metric
(`mf_llm.metrics.population_kl.divergence`). Logarithms are natural; entropies and divergences are in nats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mf_llm.metrics.population_kl.divergence import (
    CLAMP,
    SMOOTHING,
    clamp,
    entropy,
    entropy_ratio,
    js_divergence,
    kl_divergence,
    label_counts,
    normalise,
    smooth,
    total_variation,
)

__all__ = [
    "CLAMP",
    "SMOOTHING",
    "binomial_entropy_terms",
    "clamp",
    "corrected_entropies",
    "dynamic_time_warping",
    "effective_size",
    "entropy",
    "entropy_ratio",
    "expected_sampling_kl",
    "f1_scores",
    "js_divergence",
    "kl_divergence",
    "label_counts",
    "miller_madow_entropy",
    "negative_log_likelihood",
    "normalise",
    "smooth",
    "total_variation",
    "wasserstein_1",
]


def effective_size(weights: ArrayLike) -> float:
    """Kish's effective number of people, ``(sum w)^2 / sum w^2``; n where all weights are equal."""
    weights = np.asarray(weights, dtype=np.float64)
    total = float((weights**2).sum())
    return float(weights.sum()) ** 2 / total if total else 0.0


def wasserstein_1(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Wasserstein-1 between distributions over *ordered* categories, in categories moved per person.

    Args:
        p, q: `[K]` or `[T, K]`; neighbouring categories lie at distance 1.

    Returns:
        A scalar array or `[T]`, between 0 and K - 1.
    """
    from scipy.stats import wasserstein_distance

    p, q = np.broadcast_arrays(np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64))
    places = np.arange(p.shape[-1])
    pairs = zip(np.atleast_2d(p), np.atleast_2d(q), strict=True)
    rows = [wasserstein_distance(places, places, a, b) for a, b in pairs]
    return np.asarray(rows[0] if p.ndim == 1 else rows)


def dynamic_time_warping(p: ArrayLike, q: ArrayLike) -> float:
    """Dynamic time warping distance between two trajectories: how much of the gap is not a shift in time.

    The local cost is the total variation between two steps; the cost of the cheapest monotone path is divided by the
    longer length. For trajectories of one length it is therefore at most the mean total variation per step.

    Args:
        p: `[T, K]`.
        q: `[T', K]`.
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    cost = total_variation(p[:, None, :], q[None, :, :])
    path = np.full((len(p) + 1, len(q) + 1), np.inf)
    path[0, 0] = 0.0
    for i in range(len(p)):
        for j in range(len(q)):
            path[i + 1, j + 1] = cost[i, j] + min(path[i, j], path[i, j + 1], path[i + 1, j])
    return float(path[-1, -1] / max(len(p), len(q)))


def miller_madow_entropy(shares: ArrayLike, n: float) -> float:
    """Entropy of `[K]` shares seen in a sample of n people, plus ``(K_seen - 1) / (2 n)`` (Miller 1955), in nats."""
    shares = np.asarray(shares, dtype=np.float64)
    return float(entropy(shares)) + (np.count_nonzero(shares) - 1) / (2 * n)


def corrected_entropies(
    p: ArrayLike, q: ArrayLike, n_real: float, n_simulated: float | None = None
) -> tuple[float, float]:
    """``H(pooled P)`` and ``H(mean Q over the event)``, the two parts of the entropy ratio ``H(Q) / H(P)``.

    Args:
        p: pooled human shares `[K]`, of `n_real` people; Miller-Madow corrected.
        q: simulated trajectory `[T, K]`; corrected only where it was counted from `n_simulated` sampled people.
    """
    mean_q = np.asarray(q, dtype=np.float64).mean(axis=0)
    simulated = float(entropy(mean_q)) if n_simulated is None else miller_madow_entropy(mean_q, n_simulated)
    return miller_madow_entropy(p, n_real), simulated


def binomial_entropy_terms(shares: ArrayLike, n: int) -> NDArray[np.float64]:
    """``E[X/n log(X/n)]`` for ``X ~ Binomial(n, share)``, for each of `[K]` shares."""
    from scipy.stats import binom

    counts = np.arange(1, n + 1)
    frequencies = counts / n
    probabilities = binom.pmf(counts[None, :], n, np.asarray(shares, dtype=np.float64)[:, None])
    return probabilities @ (frequencies * np.log(frequencies))


def expected_sampling_kl(shares: ArrayLike, n: int) -> float:
    """The KL to be expected when n people are drawn from the very shares that are forecast.

    ``E[KL(X/n || Q)]`` for ``X ~ Multinomial(n, shares)`` and Q the clamped shares. It needs only the binomial
    marginals: ``sum_k E[X_k/n log(X_k/n)] - sum_k shares_k log Q_k``. Exact, hence without a seed.
    """
    shares = np.asarray(shares, dtype=np.float64)
    return float(binomial_entropy_terms(shares, n).sum() - (shares * np.log(clamp(shares))).sum())


def f1_scores(
    truth: ArrayLike, predicted: ArrayLike, n_categories: int, weights: ArrayLike | None = None
) -> tuple[float, float]:
    """Micro and macro F1 of one predicted category per person.

    With one label a person micro F1 is the accuracy. Macro F1 is the mean over the categories that occur among the
    true or predicted labels; a category that is never hit counts 0.

    Args:
        truth, predicted: category indices `[n]`.
        weights: `[n]`, or None.
    """
    truth, predicted = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    weights = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    hit = truth == predicted
    true_positive = np.bincount(truth[hit], weights=weights[hit], minlength=n_categories)
    seen = np.bincount(truth, weights=weights, minlength=n_categories)
    seen = seen + np.bincount(predicted, weights=weights, minlength=n_categories)
    occurs = seen > 0
    macro = float((2 * true_positive[occurs] / seen[occurs]).mean())
    return float(weights[hit].sum() / weights.sum()), macro


def negative_log_likelihood(truth: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean ``-log pi(a_i | s_i)`` of the true categories, in nats per person; probabilities are clamped at 1e-4.

    Args:
        truth: category indices `[n]`.
        probabilities: `[n, K]`.
        weights: `[n]`, or None.
    """
    truth = np.asarray(truth, dtype=np.int64)
    likelihoods = clamp(probabilities)[np.arange(len(truth)), truth]
    weights = None if weights is None else np.asarray(weights, dtype=np.float64)
    return float(np.average(-np.log(likelihoods), weights=weights))
