"""Fits a `Recalibration` on validation events, and chooses its kind by cross-validation over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.forecasting.count_distributions import log_likelihood
from mf_llm.forecasting.forecast import Forecast
from mf_llm.forecasting.pit import expected_below, pit_bounds
from mf_llm.forecasting.recalibration import Recalibration

KINDS = ("none", "concentration", "horizon", "scaling", "bias", "quantiles")
N_FOLDS = 5
# Fewer events than this do not bear a choice between kinds.
MIN_EVENTS = 5

_LEVELS = np.linspace(0.0, 1.0, 21)
# Differences of a cumulative distribution hold no more digits.
_LEAST = 1e-12
# A map of levels starts from so many events that lie as they should.
_PSEUDO_EVENTS = 2.0
# Standard deviations of the parameters about "nothing is changed", the log concentration about that of 32 people.
_PARAMETERS = {
    "log_concentration": (np.log(32.0), 2.0, (-1.0, 12.0)),
    "horizon": (0.0, 0.5, (-3.0, 3.0)),
    "power": (1.0, 0.5, (0.0, 4.0)),
    "spread": (1.0, 0.5, (0.0, 4.0)),
}
_BIAS = (0.0, 0.5, (-4.0, 4.0))
_FREE = {
    "concentration": ("log_concentration",),
    "horizon": ("log_concentration", "horizon"),
    "scaling": ("log_concentration", "horizon", "power", "spread"),
    "bias": ("log_concentration", "horizon", "power", "spread"),
}


@dataclass(frozen=True, eq=False)
class CalibrationEvent:
    """A forecast and what came of it.

    Attributes:
        forecast: of an event that is not judged.
        counts: human label counts of its windows, `[T, K]` (`window_counts`).
        group: events of one group are held out together; None: by itself.
    """

    forecast: Forecast
    counts: NDArray[np.int64]
    group: str | None = None

    def __post_init__(self) -> None:
        shape = self.forecast.shares.shape[1:]
        if self.counts.shape != shape or self.counts.sum(axis=1).tolist() != list(self.forecast.n_people):
            raise InputError(
                f"`counts` must be {shape} counts of {list(self.forecast.n_people)} people for event "
                f"{self.forecast.event_id!r}, got {self.counts.shape} of {self.counts.sum(axis=-1).tolist()}; "
                "forecast and people would not belong together; make both from one plan."
            )


def fit_recalibration(
    events: Sequence[CalibrationEvent], kinds: Sequence[str] = KINDS, *, n_folds: int = N_FOLDS
) -> Recalibration:
    """The kind with the lowest cross-validated log score, fitted on all events.

    The parameters maximise the likelihood of the counts (of all categories together; an event is one observation: the
    mean over its windows, since they go together) with weak normal priors about "nothing is changed". Kinds are chosen
    by the log score of the counts of each category, which all of them have, and not by CRPS, which hardly moves where
    a forecast is a little too sure.

    Args:
        events: validation events with their forecasts, never test events. A bias is only tried where all have the
            same categories.
        kinds: those that may be chosen; the first of equally good ones is taken, so put simple ones first.
        n_folds: folds of the cross-validation, made of whole groups.

    Raises:
        InputError: there are no events, an event comes twice, or a kind is unknown.
    """
    kinds = _usable_kinds(events, kinds)
    scores: dict[str, float] = {}
    for kind in kinds if len(kinds) > 1 else ():
        held_out = np.empty(len(events))
        for fold in _folds(events, n_folds):
            learned = fit_kind([event for place, event in enumerate(events) if place not in fold], kind)
            for place in fold:
                held_out[place] = log_score(learned.apply(events[place].forecast), events[place].counts)
        scores[kind] = float(held_out.mean())
    best = min(kinds, key=scores.__getitem__) if scores else kinds[0]
    made_from = {
        "events": sorted(event.forecast.event_id for event in events),
        "data_sets": sorted({str(event.forecast.data_set) for event in events}),
        "cross_validated_log_score": scores,
    }
    return replace(fit_kind(events, best), made_from=made_from)


def fit_kind(events: Sequence[CalibrationEvent], kind: str) -> Recalibration:
    """One kind, fitted on all events."""
    if kind == "none":
        return Recalibration()
    if kind == "quantiles":
        return Recalibration(kind=kind, level_map=(tuple(_LEVELS.tolist()), tuple(_images(events).tolist())))
    return _fit_crowd(events, kind)


def log_score(forecast: Forecast, counts: NDArray[np.int64]) -> float:
    """Mean over windows and categories of ``-log P(X_k = counts)``, in nats; smaller is better."""
    low, high = _pit_bounds(forecast, counts)
    return float(-np.log(np.maximum(high - low, _LEAST)).mean())


def _fit_crowd(events: Sequence[CalibrationEvent], kind: str) -> Recalibration:
    from scipy.optimize import minimize

    names = _FREE[kind]
    n_bias = events[0].counts.shape[1] if kind == "bias" else 0
    starts, scales, bounds = (
        list(column) for column in zip(*(_PARAMETERS[name] for name in names), *[_BIAS] * n_bias, strict=True)
    )
    start, scale, batches = np.asarray(starts), np.asarray(scales), _batches(events)

    def recalibration(values: NDArray[np.float64]) -> Recalibration:
        given = dict(zip(names, values.tolist(), strict=False))
        return Recalibration(kind=kind, bias=tuple(values[len(names) :].tolist()), **given)

    def loss(values: NDArray[np.float64]) -> float:
        learned, total = recalibration(values), 0.5 * (((values - start) / scale) ** 2).sum()
        for batch in batches:
            changed = learned.changed(batch.shares, batch.concentration, batch.places)
            total -= batch.weights @ log_likelihood(batch.counts, *changed)
        return float(total)

    return recalibration(minimize(loss, start, method="L-BFGS-B", bounds=bounds).x)


@dataclass(frozen=True, eq=False)
class _Batch:
    """The windows of several events side by side; `weights` is 1 / T for the T windows of an event."""

    shares: NDArray[np.float64]
    concentration: NDArray[np.float64]
    places: NDArray[np.int64]
    counts: NDArray[np.int64]
    weights: NDArray[np.float64]


def _batches(events: Sequence[CalibrationEvent]) -> list[_Batch]:
    """One batch of the events with the same numbers of members and categories: one call to the library for each."""
    alike: dict[tuple[int, int], list[CalibrationEvent]] = {}
    for event in events:
        alike.setdefault((len(event.forecast.shares), event.counts.shape[1]), []).append(event)
    batches = []
    for members in alike.values():
        lengths = [len(event.counts) for event in members]
        batches.append(
            _Batch(
                shares=np.concatenate([event.forecast.shares for event in members], axis=1),
                concentration=np.concatenate([event.forecast.concentration for event in members]),
                places=np.concatenate([np.arange(length) for length in lengths]),
                counts=np.concatenate([event.counts for event in members]),
                weights=np.concatenate([np.full(length, 1 / length) for length in lengths]),
            )
        )
    return batches


def _images(events: Sequence[CalibrationEvent]) -> NDArray[np.float64]:
    """How often the events stayed below each level, each event counted once, strictly increasing from 0 to 1."""
    below = []
    for event in events:
        low, high = _pit_bounds(event.forecast, event.counts)
        below.append([expected_below(low, high, level).mean() for level in _LEVELS])
    total = np.sum(below, axis=0) + _PSEUDO_EVENTS * _LEVELS
    images = total / (len(events) + _PSEUDO_EVENTS)
    images[0], images[-1] = 0.0, 1.0
    return images


def _pit_bounds(forecast: Forecast, counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    bounds = [pit_bounds(cdf, row) for cdf, row in zip(forecast.count_cdf(), counts, strict=True)]
    low, high = (np.stack(part) for part in zip(*bounds, strict=True))
    return low, high


def _folds(events: Sequence[CalibrationEvent], n_folds: int) -> list[list[int]]:
    """Places of the events of each fold; events of one group stay together."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, event in enumerate(events):
        kind, name = ("event", event.forecast.event_id) if event.group is None else ("group", event.group)
        groups.setdefault((str(event.forecast.data_set), kind, name), []).append(place)
    members = [groups[name] for name in sorted(groups)]
    return [list(chain.from_iterable(members[first::n_folds])) for first in range(min(n_folds, len(members)))]


def _usable_kinds(events: Sequence[CalibrationEvent], kinds: Sequence[str]) -> list[str]:
    if not events:
        raise InputError("`events` must hold at least one validation event, got none; a recalibration needs them.")
    ids = [(event.forecast.data_set, event.forecast.event_id) for event in events]
    twice = [one for one in ids if ids.count(one) > 1]
    if twice:
        raise InputError(
            f"`events` must hold each event once, got {twice[0][1]!r} twice; it would be held out and learned from at "
            "once; give one forecast of each event."
        )
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(f"`kinds` must be some of {', '.join(KINDS)}, got {unknown or list(kinds)}.")
    same = len({event.forecast.categories for event in events}) == 1
    usable = [kind for kind in kinds if same or kind != "bias"]
    if not usable:
        raise InputError(
            "`kinds` must not be bias alone for events of several lists of categories; a bias belongs to one "
            "category; fit each data set by itself."
        )
    if len(events) >= MIN_EVENTS and len(_folds(events, 2)) > 1:
        return usable
    # Nothing can be held out: the simplest change is fitted, unchosen.
    return [next((kind for kind in usable if kind != "none"), "none")]
