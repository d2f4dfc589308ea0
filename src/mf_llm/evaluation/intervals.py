"""Bootstrap intervals, vectorised: over events (neighbouring blocks of one stream kept together) and over people."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mf_llm.events.event import Event

N_BOOTSTRAP = 2000
RUN_LENGTH = 3
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % bootstrap interval; `low` and `high` are None where nothing can be resampled."""

    value: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """As a JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator of its own for each use, so that adding a data set does not move the others' intervals."""
    key = hashlib.sha256("\x1f".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(key[:8], "big")])


def interval(value: float, replicates: Floats | None) -> Interval:
    """The percentile interval of bootstrap replicates `[B]`; without bounds where they do not vary or are missing."""
    if replicates is None or not np.all(np.isfinite(replicates)) or np.ptp(replicates) == 0:
        return Interval(float(value), None, None)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def centred(value: float, replicates: Floats) -> Floats:
    """Replicates shifted to have `value` as their mean.

    Resampled people are noisier than people, which adds about (K - 1) / 2n to every KL; without the shift the interval
    of a small subgroup can lie above its own value.
    """
    return replicates - replicates.mean() + value


def event_draws(
    events: Sequence[Event], rng: np.random.Generator, n_bootstrap: int = N_BOOTSTRAP
) -> NDArray[np.int64]:
    """Resampled events of one data set, `[B, n]` indices into `events`.

    Events without a group are drawn one by one. Blocks of one group are drawn in runs of 3 that follow each other
    (the run wraps from the last block to the first; a group of fewer than 3 blocks is one run), since neighbouring
    blocks of a stream resemble each other. Runs are drawn until n events are together; the last run is cut short.
    Starts are drawn so that every event is equally likely to be in a run.
    """
    n = len(events)
    groups: dict[str, list[int]] = {}
    for place, event in enumerate(events):
        groups.setdefault(f"group:{event.group}" if event.group is not None else f"event:{place}", []).append(place)
    runs = np.zeros((n, RUN_LENGTH), dtype=np.int64)
    lengths = np.ones(n, dtype=np.int64)
    for members in groups.values():
        members = sorted(members, key=lambda place: (events[place].block is None, events[place].block or 0, place))
        length = min(RUN_LENGTH, len(members))
        for position, place in enumerate(members):
            lengths[place] = length
            runs[place, :length] = [members[(position + step) % len(members)] for step in range(length)]
    starts = rng.choice(n, size=(n_bootstrap, n), p=(1 / lengths) / (1 / lengths).sum())
    drawn = runs[starts].reshape(n_bootstrap, -1)
    valid = (np.arange(RUN_LENGTH) < lengths[starts][..., None]).reshape(n_bootstrap, -1)
    first = np.argsort(~valid, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(drawn, first, axis=1)


def mean_interval(values: Sequence[float] | Floats, draws: NDArray[np.int64] | None) -> Interval:
    """Mean of values `[n]` and its interval under resampled indices `[B, n]`."""
    values = np.asarray(values, dtype=np.float64)
    return interval(values.mean(), None if draws is None else values[draws].mean(axis=1))


def window_interval(values: Floats, rng: np.random.Generator, n_bootstrap: int = N_BOOTSTRAP) -> Interval:
    """Mean of window scores `[T]` of one event, with windows resampled one by one; no bounds with one window."""
    if len(values) < 2:
        return Interval(float(values.mean()), None, None)
    return mean_interval(values, rng.integers(len(values), size=(n_bootstrap, len(values))))


def people_draws(n: int, rng: np.random.Generator, n_bootstrap: int = N_BOOTSTRAP) -> NDArray[np.float64]:
    """How often each of n respondents is drawn, `[B, n]`: n draws with replacement; multiplies survey weights."""
    return rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)
