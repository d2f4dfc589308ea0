"""`judge_forecasts`: forecasts by several methods over the events of data sets, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import N_BOOTSTRAP, event_draws, generator
from mf_llm.evaluation.protocol import PROTOCOL_VERSION
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.evaluation.scoring import Replicated
from mf_llm.forecasting.event_scores import EventScores
from mf_llm.forecasting.forecast import LEVELS
from mf_llm.forecasting.forecast_report import ForecastReport, event_row, window_rows
from mf_llm.forecasting.pit import uniformity

# Data set -> method -> scores of its events, the same events for all methods.
Scores = Mapping[str, Mapping[str, Sequence[EventScores]]]
Draws = NDArray[np.int64]


def judge_forecasts(
    scores: Scores, pairs: Sequence[tuple[str, str]] = (), *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> ForecastReport:
    """Means over events, calibration, and differences between methods.

    A score of an event is the mean over its windows and categories, that of a data set the mean over its events, the
    overall difference the unweighted mean over data sets (CRPS of other data sets are of another size). PIT and
    coverage are pooled over all events instead, each event counted once. Intervals are the 95 % bootstrap over events,
    stratified by data set, neighbouring blocks of a stream in runs of 3, with the same draws for all methods, so that
    differences are paired. Surveys have no interval (too few events) and stay out of what is pooled.

    Args:
        scores: data set -> method -> scores.
        pairs: (a, b): the difference a - b is reported; below 0 where a is better.
        seed: of the bootstrap.
        n_bootstrap: bootstrap samples.

    Raises:
        InputError: there is nothing to judge, a pair names an unknown method, or the methods of a data set were not
            judged on the same people.
    """
    if not any(methods and all(methods.values()) for methods in scores.values()):
        raise InputError("`scores` must hold scored events, got none; score forecasts with `score_forecast` first.")
    draws = {name: _draws(name, methods, seed, n_bootstrap) for name, methods in scores.items()}
    _check_pairs(scores, pairs)
    records = {name: _data_set(methods, pairs, draws[name]) for name, methods in scores.items()}
    events = [score.plan.event for methods in scores.values() for score in next(iter(methods.values()))]
    summary = {
        "protocol": PROTOCOL_VERSION,
        "seed": seed,
        "n_bootstrap": n_bootstrap,
        "versions": versions(("numpy", "scipy", "scoringrules")),
        "data_hash": data_hash(events),
        "data_sets": records,
        "overall": _overall(scores, pairs, draws),
    }
    every = [
        (name, method, score)
        for name, methods in scores.items()
        for method, judged in methods.items()
        for score in judged
    ]
    return ForecastReport(
        rows=[event_row(*entry) for entry in every],
        windows=[row for entry in every for row in window_rows(*entry)],
        summary=summary,
    )


def _draws(name: str, methods: Mapping[str, Sequence[EventScores]], seed: int, n_bootstrap: int) -> Draws | None:
    first = next(iter(methods.values()))
    keys = [_key(score) for score in first]
    for method, judged in methods.items():
        if [_key(score) for score in judged] != keys:
            raise InputError(
                f"`scores` of {name!r} must be those of the same windows of the same events for all methods, got "
                f"others for {method!r}; a difference would compare other people; score all on one list of plans."
            )
    plans = [score.plan for score in first]
    if plans[0].windows.waves:
        return None
    label = f"{name}/{plans[0].dimension}"
    draws = event_draws([plan.event for plan in plans], generator(seed, "events", label), n_bootstrap)
    # One event, or one run of blocks that are always drawn together: nothing varies.
    return draws if np.ptp(np.sort(draws, axis=1), axis=0).any() else None


def _key(score: EventScores) -> tuple[Any, ...]:
    return score.plan.event.event_id, tuple(window.tobytes() for window in score.plan.judged)


def _check_pairs(scores: Scores, pairs: Sequence[tuple[str, str]]) -> None:
    for methods in scores.values():
        for name in [name for pair in pairs for name in pair]:
            if name not in methods:
                raise InputError(f"`pairs` must name methods among {', '.join(methods)}, got {name!r}.")


def _data_set(
    methods: Mapping[str, Sequence[EventScores]], pairs: Sequence[tuple[str, str]], draws: Draws | None
) -> dict[str, Any]:
    plans = [score.plan for score in next(iter(methods.values()))]
    return {
        "dimension": plans[0].dimension,
        "categories": list(plans[0].categories),
        "windows": str(plans[0].windows),
        "n_events": len(plans),
        "n_windows": sum(plan.n_windows for plan in plans),
        "methods": {
            name: {
                "crps": _mean(judged, "crps", draws).interval().to_dict(),
                "energy": _mean(judged, "energy", draws).interval().to_dict() if _joint(judged) else None,
                **_calibration(judged, draws),
            }
            for name, judged in methods.items()
        },
        "differences": [_difference(a, b, [(methods, draws)]) for a, b in pairs],
    }


def _overall(scores: Scores, pairs: Sequence[tuple[str, str]], draws: Mapping[str, Draws | None]) -> dict[str, Any]:
    """Everything but surveys and data sets in which nothing can be resampled."""
    known = {name: one for name in scores if (one := draws[name]) is not None}
    names = list(known)
    if not names:
        return {}
    offsets = np.cumsum([0, *(one.shape[1] for one in known.values())])
    together = np.concatenate([one + start for one, start in zip(known.values(), offsets, strict=False)], axis=1)
    methods = [m for m in scores[names[0]] if all(m in scores[name] for name in names)]
    pooled = {method: [score for name in names for score in scores[name][method]] for method in methods}
    parts = [(scores[name], draws[name]) for name in names]
    return {
        "data_sets": names,
        "n_events": int(offsets[-1]),
        "methods": {method: _calibration(judged, together) for method, judged in pooled.items()},
        "differences": [_difference(a, b, parts) for a, b in pairs],
    }


def _difference(
    a: str, b: str, data_sets: Sequence[tuple[Mapping[str, Sequence[EventScores]], Draws | None]]
) -> dict[str, Any]:
    """``a - b`` in CRPS and energy score, the unweighted mean over data sets."""
    found: dict[str, Any] = {"a": a, "b": b}
    for name in ("crps", "energy"):
        known = name == "crps" or all(_joint(data[method]) for data, _ in data_sets for method in (a, b))
        parts = [_mean(data[a], name, draws) - _mean(data[b], name, draws) for data, draws in data_sets if known]
        found[name] = Replicated.mean_of(parts).interval().to_dict() if known else None
    return found


def _joint(judged: Sequence[EventScores]) -> bool:
    """Whether all forecasts have an energy score."""
    return all(score.energy is not None for score in judged)


def _mean(judged: Sequence[EventScores], name: str, draws: Draws | None) -> Replicated:
    return Replicated.mean([getattr(score, name).mean() for score in judged], draws)


def _calibration(judged: Sequence[EventScores], draws: Draws | None) -> dict[str, Any]:
    def mean(values: Sequence[float]) -> dict[str, float | None]:
        return Replicated.mean(values, draws).interval().to_dict()

    return {
        "pit": uniformity([score.pit for score in judged], draws).to_dict(),
        "covered": {f"{level:g}": mean([score.covered[level].mean() for score in judged]) for level in LEVELS},
        "width": {f"{level:g}": mean([score.width[level].mean() for score in judged]) for level in LEVELS},
    }
