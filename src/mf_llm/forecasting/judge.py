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
from mf_llm.evaluation.scoring import Replicated, respondent_draws
from mf_llm.forecasting.event_scores import EventScores, survey_crps
from mf_llm.forecasting.forecast import LEVELS
from mf_llm.forecasting.forecast_report import ForecastReport, event_row, window_rows
from mf_llm.forecasting.pit import uniformity

# Data set -> method -> scores of its events, the same events for all methods.
Scores = Mapping[str, Mapping[str, Sequence[EventScores]]]
Draws = NDArray[np.int64]
# Of each event of a survey, for each judged wave, how often each respondent is drawn: `[B, n_t]`.
Respondents = Sequence[Sequence[NDArray[np.float64]]]


def judge_forecasts(
    scores: Scores, pairs: Sequence[tuple[str, str]] = (), *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> ForecastReport:
    """Means over events, calibration, and differences between methods.

    A score of an event is the mean over its windows and categories, that of a data set the mean over its events, the
    overall difference the unweighted mean over data sets (CRPS of other data sets are of another size). PIT and
    coverage are pooled over all events instead, each event counted once. Intervals are the 95 % bootstrap over events,
    stratified by data set, neighbouring blocks of a stream in runs of 3, with the same draws for all methods, so that
    differences are paired. In surveys, which are few, respondents are resampled within their event instead, for the
    CRPS alone: they have no interval of anything else, and stay out of the pooled PIT, coverage and energy score.

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
    people = {name: _respondents(name, methods, seed, n_bootstrap) for name, methods in scores.items()}
    _check_pairs(scores, pairs)
    records = {name: _data_set(methods, pairs, draws[name], people[name]) for name, methods in scores.items()}
    events = [score.plan.event for methods in scores.values() for score in next(iter(methods.values()))]
    summary = {
        "protocol": PROTOCOL_VERSION,
        "seed": seed,
        "n_bootstrap": n_bootstrap,
        "versions": versions(("numpy", "scipy", "scoringrules")),
        "data_hash": data_hash(events),
        "data_sets": records,
        "overall": _overall(scores, pairs, draws, people),
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


def _respondents(
    name: str, methods: Mapping[str, Sequence[EventScores]], seed: int, n_bootstrap: int
) -> Respondents | None:
    """Of a survey, how often each respondent of each wave of each event is drawn."""
    plans = [score.plan for score in next(iter(methods.values()))]
    if not plans[0].windows.waves:
        return None
    names = [(plan, f"{name}/{plan.dimension}/{plan.event.event_id}") for plan in plans]
    return [respondent_draws(plan, generator(seed, "respondents", label), n_bootstrap) for plan, label in names]


def _key(score: EventScores) -> tuple[Any, ...]:
    return score.plan.event.event_id, tuple(window.tobytes() for window in score.plan.judged)


def _check_pairs(scores: Scores, pairs: Sequence[tuple[str, str]]) -> None:
    for methods in scores.values():
        for name in [name for pair in pairs for name in pair]:
            if name not in methods:
                raise InputError(f"`pairs` must name methods among {', '.join(methods)}, got {name!r}.")


def _data_set(
    methods: Mapping[str, Sequence[EventScores]],
    pairs: Sequence[tuple[str, str]],
    draws: Draws | None,
    people: Respondents | None,
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
                "crps": _crps(judged, draws, people).interval().to_dict(),
                "energy": _energy(judged, draws).interval().to_dict() if _joint(judged) else None,
                **_calibration(judged, draws),
            }
            for name, judged in methods.items()
        },
        "differences": [_difference(a, b, [(methods, draws, people)]) for a, b in pairs],
    }


def _overall(
    scores: Scores,
    pairs: Sequence[tuple[str, str]],
    draws: Mapping[str, Draws | None],
    people: Mapping[str, Respondents | None],
) -> dict[str, Any]:
    """Everything but data sets in which nothing can be resampled; of surveys the CRPS alone."""
    known = {name: one for name in scores if (one := draws[name]) is not None}
    names = list(known)
    if not names:
        return {}
    offsets = np.cumsum([0, *(one.shape[1] for one in known.values())])
    together = np.concatenate([one + start for one, start in zip(known.values(), offsets, strict=False)], axis=1)
    methods = [m for m in scores[names[0]] if all(m in scores[name] for name in names)]
    pooled = {method: [score for name in names for score in scores[name][method]] for method in methods}
    surveys = [name for name in scores if people[name] is not None]
    parts = [(scores[name], draws[name], people[name]) for name in (*names, *surveys)]
    return {
        "data_sets": names,
        "surveys": surveys,
        "n_events": int(offsets[-1]),
        "methods": {method: _calibration(judged, together) for method, judged in pooled.items()},
        "differences": [_difference(a, b, parts) for a, b in pairs],
    }


def _difference(
    a: str, b: str, data_sets: Sequence[tuple[Mapping[str, Sequence[EventScores]], Draws | None, Respondents | None]]
) -> dict[str, Any]:
    """``a - b`` in CRPS and energy score, the unweighted mean over data sets."""
    crps = [_crps(data[a], draws, people) - _crps(data[b], draws, people) for data, draws, people in data_sets]
    several = len(data_sets) > 1
    judged = [(data, draws) for data, draws, people in data_sets if not several or people is None]
    joint = all(_joint(data[method]) for data, _ in judged for method in (a, b))
    energy = [_energy(data[a], draws) - _energy(data[b], draws) for data, draws in judged if joint]
    return {
        "a": a,
        "b": b,
        "crps": Replicated.mean_of(crps).interval().to_dict(),
        "energy": Replicated.mean_of(energy).interval().to_dict() if energy else None,
    }


def _joint(judged: Sequence[EventScores]) -> bool:
    """Whether all forecasts have an energy score."""
    return all(score.energy is not None for score in judged)


def _crps(judged: Sequence[EventScores], draws: Draws | None, people: Respondents | None) -> Replicated:
    if people is None:
        return Replicated.mean([score.crps.mean() for score in judged], draws)
    return Replicated.mean_of([survey_crps(score, drawn) for score, drawn in zip(judged, people, strict=True)])


def _energy(judged: Sequence[EventScores], draws: Draws | None) -> Replicated:
    return Replicated.mean([score.energy.mean() for score in judged if score.energy is not None], draws)


def _calibration(judged: Sequence[EventScores], draws: Draws | None) -> dict[str, Any]:
    def mean(values: Sequence[float]) -> dict[str, float | None]:
        return Replicated.mean(values, draws).interval().to_dict()

    return {
        "pit": uniformity([score.pit for score in judged], draws).to_dict(),
        "covered": {f"{level:g}": mean([score.covered[level].mean() for score in judged]) for level in LEVELS},
        "width": {f"{level:g}": mean([score.width[level].mean() for score in judged]) for level in LEVELS},
    }
