"""Measurement protocol, version 1: which reactions are judged, in which windows, and the two yardsticks.

Conventions, all of them part of the version:

* Only labelled turns count, the first 304 of an event. After `W` of them, windows of `win` follow each other; an
  incomplete last window is dropped. Events with fewer than `W + win` labelled turns are left out.
* A survey (every labelled turn has a wave) is judged on its last wave, with weights; the waves before are the warm-up.
* KL of an event is the mean over its windows, KL of a data set the mean over its events.
* *Best constant* is the KL of the shares of the rest of the event (everything labelled after the warm-up, the
  incomplete last window included) against its own windows. It is in-sample, and no bound where the crowd drifts.
* *Sampling alone* is the KL expected when `win` people are drawn from those shares (exact expectation, no seed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mf_llm.argument_checks import check_types, check_whole
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import (
    clamp,
    effective_size,
    expected_sampling_kl,
    kl_divergence,
    label_counts,
    normalise,
)
from mf_llm.events.event import Event, Turn

PROTOCOL_VERSION = 1
MAX_LABELLED = 304
WINDOW_CHOICES = ((48, 16), (16, 16), (8, 8))

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """How an event is cut.

    Attributes:
        warm_up: `W`, labelled turns before the first window (0 in wave mode).
        window: `win`, labelled turns per window (0 in wave mode).
        waves: True for surveys: a window is a wave, the last wave is judged.
        max_labelled: labelled turns of an event that count; None: all of them (long horizons).
    """

    warm_up: int
    window: int
    waves: bool = False
    max_labelled: int | None = MAX_LABELLED

    def __post_init__(self) -> None:
        check_types(self)
        if not self.waves and (self.warm_up < 1 or self.window < 1):
            raise InputError(
                f"`warm_up` and `window` must be at least 1, got {self.warm_up} and {self.window}; there would be "
                "nothing to forecast from or to judge; use for example Windows(48, 16)."
            )
        if self.waves and (self.warm_up, self.window) != (0, 0):
            raise InputError(
                f"`warm_up` and `window` must be 0 with waves=True, got {self.warm_up} and {self.window}; a wave is "
                "as long as it is; use Windows(0, 0, waves=True)."
            )
        if self.max_labelled is not None:
            check_whole("max_labelled", self.max_labelled)

    def __str__(self) -> str:
        return "waves" if self.waves else f"{self.warm_up}/{self.window}"


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """The windows of one event on one dimension, as indices into ``event.turns``.

    Attributes:
        event: the event.
        dimension: name of the dimension.
        categories: its K categories.
        windows: how it was cut.
        warm_up: labelled turns of the warm-up, in time order.
        latest: the part of the warm-up that `last` looks at: its last `win` turns, or its last wave.
        judged: labelled turns of each of the T windows.
        rest: labelled turns after the warm-up, those of an incomplete last window included.
        labels: category index of every turn of the event, -1 where it has no label.
        weights: weight of every turn.
        names: name of each window: its wave, or its number.
    """

    event: Event
    dimension: str
    categories: tuple[str, ...]
    windows: Windows
    warm_up: Indices
    latest: Indices
    judged: tuple[Indices, ...]
    rest: Indices
    labels: Indices
    weights: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def n_windows(self) -> int:
        """T, the number of windows; 0 for an event that is too short."""
        return len(self.judged)

    @cached_property
    def truth(self) -> NDArray[np.float64]:
        """Human shares P, `[T, K]`."""
        if not self.judged:
            return np.empty((0, len(self.categories)))
        return np.stack([normalise(self.counts(members)) for members in self.judged])

    def counts(self, turns: Indices) -> NDArray[np.float64]:
        """Label counts `[K]` of some turns, their weights scaled to a mean of 1."""
        return label_counts(self.labels[turns], len(self.categories), self.weights[turns])

    def restricted(self, members: NDArray[np.bool_]) -> WindowPlan:
        """The same plan for a part of the people (`members`, a mask over the turns of the event)."""
        plan = replace(
            self,
            warm_up=self.warm_up[members[self.warm_up]],
            latest=self.latest[members[self.latest]],
            judged=tuple(window[members[window]] for window in self.judged),
            rest=self.rest[members[self.rest]],
        )
        return plan.selected([len(window) > 0 for window in plan.judged])

    def selected(self, wanted: Sequence[bool]) -> WindowPlan:
        """The same plan with some of its windows only."""
        judged = [pair for pair, keep in zip(zip(self.judged, self.names, strict=True), wanted, strict=True) if keep]
        windows, names = zip(*judged, strict=True) if judged else ((), ())
        return replace(self, judged=windows, names=names)

    def score(self, q: NDArray[np.float64]) -> NDArray[np.float64]:
        """``KL(P || Q)`` per window, `[T]`, of an exact Q `[K]` or `[T, K]` (clamped here)."""
        return kl_divergence(self.truth, clamp(q))

    def best_constant(self) -> float | None:
        """KL of the shares of the rest of the event; None for one judged wave, where it is 0 by construction."""
        if self.windows.waves and self.n_windows == 1:
            return None
        return float(self.score(self._rest_shares()).mean())

    def sampling_alone(self) -> float:
        """KL expected when as many people as in a window are drawn from the shares of the rest of the event.

        Windows of weighted people count with their effective size (Kish).
        """
        shares = self._rest_shares()
        sizes = [max(1, round(effective_size(self.weights[window]))) for window in self.judged]
        expected = {size: expected_sampling_kl(shares, size) for size in set(sizes)}
        return float(np.mean([expected[size] for size in sizes]))

    def _rest_shares(self) -> NDArray[np.float64]:
        return normalise(self.counts(self.rest))


def labelled_length(event: Event, dimension: str) -> int:
    """Number of turns that are labelled on a dimension."""
    return sum(dimension in turn.labels for turn in event.turns)


def is_survey(events: Iterable[Event], dimension: str) -> bool:
    """True if every labelled turn of the events belongs to a wave (and there is one)."""
    waves = [turn.wave is not None for event in events for turn in event.turns if dimension in turn.labels]
    return bool(waves) and all(waves)


def first_dimension(events: Sequence[Event]) -> str:
    """The first dimension that an event declares.

    Raises:
        InputError: no event has a dimension.
    """
    for event in events:
        for dimension in event.dimensions:
            return dimension
    raise InputError(
        f"`events` must have a dimension that is counted, got {len(events)} events without one; nothing can be "
        "judged; add `dimensions` to the events, or annotate them."
    )


def choose_windows(events: Sequence[Event], dimension: str | None = None) -> Windows:
    """The windows of a data set: the largest of 48/16, 16/16 and 8/8 that its typical event can fill once.

    The event of median labelled length among train and validation (among all events, if there are none) must have
    `W + win` labelled turns; `test` events are not looked at where others exist. If even 8/8 is too large, 8/8 is
    returned and the events that are too short are left out later. Surveys are cut by wave.

    Args:
        events: the events of one data set, of all splits.
        dimension: what is counted (default: the first dimension of the events).

    Raises:
        InputError: there are no events, or none has a dimension.
    """
    dimension = first_dimension(events) if dimension is None else dimension
    if is_survey(events, dimension):
        return Windows(0, 0, waves=True)
    lengths = [labelled_length(event, dimension) for event in events if event.split in ("train", "validation")]
    lengths = lengths or [labelled_length(event, dimension) for event in events]
    median = float(np.median(lengths)) if lengths else 0.0
    for warm_up, window in WINDOW_CHOICES:
        if median >= warm_up + window:
            return Windows(warm_up, window)
    return Windows(*WINDOW_CHOICES[-1])


def plan_event(
    event: Event, windows: Windows, dimension: str | None = None, *, start: int | None = None
) -> WindowPlan:
    """Cuts one event into warm-up and windows.

    Args:
        event: the event.
        windows: how to cut it.
        dimension: what is counted (default: the event's first dimension).
        start: index of the first turn that is judged, where something else than `windows` decided it (a rollout). The
            labelled turns before it are the warm-up. In wave mode every wave from there on is a window.

    Returns:
        The plan; it has no windows (``n_windows == 0``) where the event is too short.

    Raises:
        InputError: the event does not have the dimension.
    """
    dimension = first_dimension([event]) if dimension is None else dimension
    if dimension not in event.dimensions:
        raise InputError(
            f"`dimension` must be one of {list(event.dimensions)} of event {event.event_id!r}, got {dimension!r}; its "
            "shares cannot be counted; choose one of them."
        )
    categories = tuple(event.dimensions[dimension])
    index = {category: position for position, category in enumerate(categories)}
    labels = np.asarray([index.get(turn.labels.get(dimension, ""), -1) for turn in event.turns], dtype=np.int64)
    labelled = np.flatnonzero(labels >= 0)
    cut = _cut_waves if windows.waves else _cut_windows
    warm_up, latest, judged, rest, names = cut(event.turns, labelled, windows, start)
    return WindowPlan(
        event=event,
        dimension=dimension,
        categories=categories,
        windows=windows,
        warm_up=warm_up,
        latest=latest,
        judged=tuple(judged),
        rest=rest,
        labels=labels,
        weights=np.asarray([turn.weight for turn in event.turns], dtype=np.float64),
        names=tuple(names),
    )


Cut = tuple[Indices, Indices, list[Indices], Indices, list[str]]


def _cut_windows(turns: Sequence[Turn], labelled: Indices, windows: Windows, start: int | None) -> Cut:
    labelled = labelled[: windows.max_labelled]
    place = windows.warm_up if start is None else int(np.searchsorted(labelled, start))
    warm_up, rest = labelled[:place], labelled[place:]
    size = windows.window
    judged = [rest[first : first + size] for first in range(0, len(rest) - size + 1, size)]
    return warm_up, warm_up[-size:], judged, rest, [str(number + 1) for number in range(len(judged))]


def _cut_waves(turns: Sequence[Turn], labelled: Indices, windows: Windows, start: int | None) -> Cut:
    waves: dict[str, list[int]] = {}
    for turn in labelled.tolist():
        waves.setdefault(str(turns[turn].wave), []).append(turn)
    names = list(waves)
    if start is not None:
        names_judged = [name for name in names if waves[name][-1] >= start]
        first = start
    else:
        names_judged = names[-1:] if len(names) > 1 else []
        first = waves[names_judged[0]][0] if names_judged else len(turns)
    before = [name for name in names if name not in names_judged]
    groups = {name: np.asarray(members, dtype=np.int64) for name, members in waves.items()}
    judged = [groups[name][groups[name] >= first] for name in names_judged]
    none = np.empty(0, dtype=np.int64)
    warm_up = np.concatenate([groups[name] for name in before]) if before else none
    rest = np.concatenate(judged) if judged else none
    return warm_up, groups[before[-1]] if before else none, judged, rest, names_judged
