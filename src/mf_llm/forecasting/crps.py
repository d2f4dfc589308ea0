"""Continuous ranked probability score and energy score: how far a forecast distribution is from what happened.

Both are proper, in the unit of the shares (0 to 1), 0 for a certain and true forecast, and smaller is better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mf_llm.errors import InputError

Floats = NDArray[np.float64]


def crps_of_counts(cdf: ArrayLike, counts: ArrayLike) -> Floats:
    """CRPS of the share x / n under the distribution of a count: ``sum_{j < n} (F(j) - 1{x <= j})^2 / n``.

    Exact, hence without an ensemble's sampling noise (and without a choice of its size).

    Args:
        cdf: ``P(X <= j)`` for j = 0..n, `[..., n + 1]`.
        counts: what was counted, `[...]`.
    """
    cdf = np.asarray(cdf, dtype=np.float64)
    n = cdf.shape[-1] - 1
    reached = np.asarray(counts)[..., None] <= np.arange(n)
    return ((cdf[..., :-1] - reached) ** 2).sum(axis=-1) / n


def crps_of_ensemble(members: ArrayLike, observed: ArrayLike, *, fair: bool = True) -> Floats:
    """``mean |x_i - y| - mean |x_i - x_j| / 2`` of an ensemble.

    Args:
        members: `[M, ...]`.
        observed: `[...]`.
        fair: leave i = j out of the second mean: unbiased for the distribution that the members were drawn from
            (Ferro 2014), so that ensembles of different sizes can be compared. Otherwise the score of the M members
            taken as the whole distribution.

    Raises:
        InputError: a fair score was asked of one member.
    """
    import scoringrules

    members = _members(members, fair)
    return np.asarray(
        scoringrules.crps_ensemble(
            np.asarray(observed, dtype=np.float64),
            np.moveaxis(members, 0, -1),
            # The same numbers as "fair" and "nrg" (by sorting), without all pairs of members in memory.
            estimator="pwm" if fair else "qd",
            backend="numpy",
        )
    )


def energy_score(members: ArrayLike, observed: ArrayLike, *, fair: bool = True) -> Floats:
    """``mean ||x_i - y|| - mean ||x_i - x_j|| / 2``, Euclidean over the K categories: CRPS of whole distributions.

    Args:
        members: `[M, ..., K]`.
        observed: `[..., K]`.
        fair: as in `crps_of_ensemble`.

    Raises:
        InputError: a fair score was asked of one member.
    """
    import scoringrules

    members = _members(members, fair)
    return np.asarray(
        scoringrules.es_ensemble(
            np.asarray(observed, dtype=np.float64),
            np.moveaxis(members, 0, -2),
            estimator="fair" if fair else "nrg",
            backend="numpy",
        )
    )


def _members(members: ArrayLike, fair: bool) -> Floats:
    members = np.asarray(members, dtype=np.float64)
    if len(members) < 1 + fair:
        raise InputError(
            f"`members` must be at least {1 + fair} for {'a fair' if fair else 'a'} score, got {len(members)}; the "
            "distance between members is not known; draw more, or set fair=False."
        )
    return members
