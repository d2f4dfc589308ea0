"""The probability integral transform (PIT) of counts: is a forecast as sure as it may be?

If X really follows F, then ``F(x - 1) + v (F(x) - F(x - 1))`` with v uniform on (0, 1) is uniform (Smith 1985; Czado,
Gneiting and Held 2009). A U-shaped histogram means that the forecast is too sure, a hump that it is not sure enough, a
slope that it is biased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 10
BAND = 0.95
# Fewer resampled events say too little about how much chance alone moves a histogram.
MIN_EVENTS = 5

Floats = NDArray[np.float64]


def pit_bounds(cdf: ArrayLike, counts: ArrayLike) -> tuple[Floats, Floats]:
    """``F(x - 1)`` and ``F(x)``.

    Args:
        cdf: ``P(X <= j)`` for j = 0..n, `[..., n + 1]`.
        counts: x, `[...]`.
    """
    cdf, counts = np.asarray(cdf, dtype=np.float64), np.asarray(counts, dtype=np.int64)
    high = np.take_along_axis(cdf, counts[..., None], axis=-1)[..., 0]
    low = np.take_along_axis(cdf, np.maximum(counts - 1, 0)[..., None], axis=-1)[..., 0]
    return np.where(counts > 0, low, 0.0), high


def randomised_pit(low: ArrayLike, high: ArrayLike, v: ArrayLike) -> Floats:
    """``F(x - 1) + v (F(x) - F(x - 1))``.

    Args:
        low, high: of `pit_bounds`.
        v: numbers in (0, 1), keyed by what is forecast so that all forecasts of it share them.
    """
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return np.clip(low + np.asarray(v) * (high - low), 0.0, 1.0)


def expected_below(low: ArrayLike, high: ArrayLike, level: float) -> Floats:
    """Probability over v that the randomised PIT is below a level: the same without the randomness."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    width = high - low
    inside = np.divide(level - low, width, out=np.where(low < level, 1.0, 0.0), where=width > 0)
    return np.clip(inside, 0.0, 1.0)


def pit_histogram(values: ArrayLike, n_bins: int = N_BINS) -> Floats:
    """Shares of PIT values in bins of equal width, `[n_bins]`; ``1 / n_bins`` each if uniform."""
    values = np.asarray(values, dtype=np.float64).ravel()
    bins = np.minimum((values * n_bins).astype(np.int64), n_bins - 1)
    return np.bincount(bins, minlength=n_bins) / len(values)


@dataclass(frozen=True, eq=False)
class PitUniformity:
    """A PIT histogram, how far chance alone takes it, and a test.

    Attributes:
        shares: share of each bin, mean over events.
        low, high: 95 % interval of each bin under resampled events; None where nothing can be resampled.
        binomial: the band in which 95 % of bins would lie if all values were independent: too narrow, since the
            categories and windows of one event go together.
        n_values, n_events: how many values of how many events.
        p_value: of the test of uniformity that resamples events; None for fewer than 5 events.
    """

    shares: Floats
    low: Floats | None
    high: Floats | None
    binomial: tuple[float, float]
    n_values: int
    n_events: int
    p_value: float | None

    def to_dict(self) -> dict[str, object]:
        """As a JSON object."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def uniformity(events: Sequence[ArrayLike], draws: NDArray[np.int64] | None, *, n_bins: int = N_BINS) -> PitUniformity:
    """Judges PIT values whose categories and windows of one event depend on each other.

    Each event counts the same. The statistic is ``sum_b (h_b - 1 / B)^2`` of the histogram h. Its distribution under
    uniformity is that of ``sum_b (h*_b - h_b)^2``, h* the histogram of resampled events: the scatter is that of the
    events, whatever the dependence within them.

    Args:
        events: PIT values of each event, of any shape.
        draws: resampled events `[B, n]` (`mf_llm.evaluation.intervals.event_draws`), or None.
        n_bins: number of bins B.
    """
    histograms = np.stack([pit_histogram(values, n_bins) for values in events])
    n_values = sum(np.size(values) for values in events)
    shares, expected = histograms.mean(axis=0), 1 / n_bins
    low = high = p_value = None
    if draws is not None and len(events) > 1:
        # Counts times histograms: [B, n] @ [n, bins] instead of gathering [B, n, bins].
        drawn = np.stack([np.bincount(row, minlength=len(events)) for row in draws])
        replicates = drawn @ histograms / drawn.sum(axis=1, keepdims=True)
        low, high = np.quantile(replicates, [(1 - BAND) / 2, (1 + BAND) / 2], axis=0)
        if len(events) >= MIN_EVENTS:
            statistic = ((shares - expected) ** 2).sum()
            null = ((replicates - shares) ** 2).sum(axis=1)
            p_value = float((1 + np.count_nonzero(null >= statistic)) / (1 + len(null)))
    return PitUniformity(shares, low, high, binomial_band(n_values, n_bins), n_values, len(events), p_value)


def binomial_band(n_values: int, n_bins: int = N_BINS) -> tuple[float, float]:
    """The central 95 % of the share of one bin among independent uniform values."""
    from scipy.stats import binom

    low, high = binom.ppf([(1 - BAND) / 2, (1 + BAND) / 2], n_values, 1 / n_bins) / n_values
    return float(low), float(high)
