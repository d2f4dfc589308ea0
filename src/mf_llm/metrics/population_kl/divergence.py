"""Arithmetic of the metric: shares, KL, Jensen-Shannon, total variation, entropy. numpy alone; natural logarithms.

P is the human distribution, Q the simulated one. Every function works along the last axis, of length K.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLAMP = 1e-4
SMOOTHING = 0.5

Floats = NDArray[np.float64]


def label_counts(indices: ArrayLike, n_categories: int, weights: ArrayLike | None = None) -> Floats:
    """Counts `[K]` of category indices `[n]`.

    Weights `[n]` are scaled to a mean of 1 first, so that n weighted people count as n people whatever their unit.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if weights is None or indices.size == 0:
        return np.bincount(indices, minlength=n_categories).astype(np.float64)
    weights = np.asarray(weights, dtype=np.float64)
    return np.bincount(indices, weights=weights / weights.mean(), minlength=n_categories).astype(np.float64)


def normalise(counts: ArrayLike) -> Floats:
    """Counts `[..., K]` divided by their sum."""
    counts = np.asarray(counts, dtype=np.float64)
    return counts / counts.sum(axis=-1, keepdims=True)


def clamp(q: ArrayLike, floor: float = CLAMP) -> Floats:
    """An exact Q `[..., K]`, no share below `floor`, renormalised: one unforeseen person costs at most 9.2 nats."""
    return normalise(np.maximum(np.asarray(q, dtype=np.float64), floor))


def smooth(counts: ArrayLike, pseudo_count: float = SMOOTHING) -> Floats:
    """A sampled Q `[..., K]` from counts: `pseudo_count` is added to every category."""
    return normalise(np.asarray(counts, dtype=np.float64) + pseudo_count)


def kl_divergence(p: ArrayLike, q: ArrayLike) -> Floats:
    """``KL(P || Q) = sum_k P_k log(P_k / Q_k)`` in nats, `[...]`; infinite where Q is 0 and P is not."""
    p, q = np.broadcast_arrays(np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64))
    terms = np.zeros(p.shape)
    with np.errstate(divide="ignore"):
        np.log(np.divide(p, q, out=np.full(p.shape, np.inf), where=q > 0), out=terms, where=p > 0)
    # A divergence is never negative; rounding can leave -1e-17.
    return np.maximum((p * terms).sum(axis=-1), 0.0)


def js_divergence(p: ArrayLike, q: ArrayLike) -> Floats:
    """Jensen-Shannon divergence in nats, `[...]`, between 0 and log 2 (not its square root)."""
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (p + q) / 2
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def total_variation(p: ArrayLike, q: ArrayLike) -> Floats:
    """``sum_k |P_k - Q_k| / 2``, `[...]`: the share of people who would have to answer differently."""
    return np.abs(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64)).sum(axis=-1) / 2


def entropy(p: ArrayLike) -> Floats:
    """Shannon entropy in nats, `[...]` (plug-in: too low for small samples)."""
    p = np.asarray(p, dtype=np.float64)
    return -(p * np.log(p, out=np.zeros(p.shape), where=p > 0)).sum(axis=-1)


def entropy_ratio(p: ArrayLike, q: ArrayLike) -> Floats:
    """``H(Q) / H(P)``, `[...]`: below 1 where the simulated crowd is too uniform; nan where all people agree in P."""
    real = entropy(p)
    return np.divide(entropy(q), real, out=np.full(np.shape(real), np.nan), where=real > 0)
