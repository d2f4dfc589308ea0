"""Coverage of central intervals: how often what happened lies within the band that was to hold it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mf_llm.forecasting.count_distributions import count_quantiles
from mf_llm.forecasting.pit import expected_below

Floats = NDArray[np.float64]


def central_coverage(low: ArrayLike, high: ArrayLike, level: float) -> Floats:
    """How far an observed count lies within the central interval of a level, 0 to 1.

    The bounds of an interval of counts seldom hold exactly the level. A count on the bound is therefore within it for
    that part of its probability ``[F(x - 1), F(x)]`` which lies between ``(1 - level) / 2`` and ``(1 + level) / 2``:
    under a true forecast the mean is exactly the level, however few people a window has.

    Args:
        low, high: ``F(x - 1)`` and ``F(x)``, of `mf_llm.forecasting.pit.pit_bounds`.
        level: such as 0.8.
    """
    return expected_below(low, high, (1 + level) / 2) - expected_below(low, high, (1 - level) / 2)


def central_width(cdf: ArrayLike, level: float) -> Floats:
    """Width of the central interval of a share x / n: how sharp a forecast is.

    Args:
        cdf: ``P(X <= j)`` for j = 0..n, `[..., n + 1]`.
        level: such as 0.8.
    """
    cdf = np.asarray(cdf, dtype=np.float64)
    low, high = count_quantiles(cdf, [(1 - level) / 2, (1 + level) / 2])
    return (high - low) / (cdf.shape[-1] - 1)
