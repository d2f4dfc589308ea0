"""`judge_forecasts`: forecasts by several methods over the events of data sets, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import N_BOOTSTRAP, event_draws, generator
from mf_llm.evaluation.protocol import PROTOCOL_VERSION, WindowPlan
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.evaluation.scoring import Replicated, respondent_draws
from mf_llm.forecasting.event_scores import EventScores, survey_crps
from mf_llm.forecasting.forecast import LEVELS
from mf_llm.forecasting.forecast_report import ForecastReport, event_row, window_rows
from mf_llm.forecasting.pit import uniformity

# Data set -> method -> scores of its events, the same events for all methods.
Scores = Mapping[str, Mapping[str, Sequence[EventScores]]]


@dataclass(frozen=True)
class _DataSet:
    """The judged forecasts of a data set and what is resampled in it: events, or the respondents of a survey.

    Args:
        methods: method -> scores of the events, the same events for all.
        draws: `[B, n]`, the events of each bootstrap sample; None where nothing varies, and in surveys.
        people: of each event of a survey, for each judged wave, how often each respondent is drawn; None elsewhere.
    """

    methods: Mapping[str, Sequence[EventScores]]
    draws: NDArray[np.int64] | None
    people: Sequence[Sequence[NDArray[np.float64]]] | None

    @classmethod
    def of(cls, name: str, methods: Mapping[str, Sequence[EventScores]], seed: int, n_bootstrap: int) -> _DataSet:
        plans = _same_plans(name, methods)
        label = f"{name}/{plans[0].dimension}"
        if plans[0].windows.waves:
            names = [(plan, f"{label}/{plan.event.event_id}") for plan in plans]
            people = [respondent_draws(plan, generator(seed, "respondents", one), n_bootstrap) for plan, one in names]
            return cls(methods, None, people)
        draws = event_draws([plan.event for plan in plans], generator(seed, "events", label), n_bootstrap)
        # One event, or one run of blocks that are always drawn together: nothing varies.
        return cls(methods, draws if np.ptp(np.sort(draws, axis=1), axis=0).any() else None, None)

    @property
    def plans(self) -> list[WindowPlan]:
        return [score.plan for score in next(iter(self.methods.values()))]

    def joint(self, method: str) -> bool:
        """Whether all forecasts of a method have an energy score."""
        return all(score.energy is not None for score in self.methods[method])

    def crps(self, method: str) -> Replicated:
        judged = self.methods[method]
        if self.people is None:
            return Replicated.mean([score.crps.mean() for score in judged], self.draws)
        return Replicated.mean_of(
            [survey_crps(score, drawn) for score, drawn in zip(judged, self.people, strict=True)]
        )

    def energy(self, method: str) -> Replicated:
        known = [score.energy.mean() for score in self.methods[method] if score.energy is not None]
        return Replicated.mean(known, self.draws)


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
    data_sets = {name: _DataSet.of(name, methods, seed, n_bootstrap) for name, methods in scores.items()}
    _check_pairs(scores, pairs)
    records = {name: _record(data_set, pairs) for name, data_set in data_sets.items()}
    events = [plan.event for data_set in data_sets.values() for plan in data_set.plans]
    summary = {
        "protocol": PROTOCOL_VERSION,
        "seed": seed,
        "n_bootstrap": n_bootstrap,
        "versions": versions(("numpy", "scipy", "scoringrules")),
        "data_hash": data_hash(events),
        "data_sets": records,
        "overall": _overall(data_sets, pairs),
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


def _same_plans(name: str, methods: Mapping[str, Sequence[EventScores]]) -> list[WindowPlan]:
    """The plans of the events, checked to be those of all methods."""
    first = next(iter(methods.values()))
    for method, judged in methods.items():
        if [_key(score) for score in judged] != [_key(score) for score in first]:
            raise InputError(
                f"`scores` of {name!r} must be those of the same windows of the same events for all methods, got "
                f"others for {method!r}; a difference would compare other people; score all on one list of plans."
            )
    return [score.plan for score in first]


def _key(score: EventScores) -> tuple[Any, ...]:
    return score.plan.event.event_id, tuple(window.tobytes() for window in score.plan.judged)


def _check_pairs(scores: Scores, pairs: Sequence[tuple[str, str]]) -> None:
    for methods in scores.values():
        for name in [name for pair in pairs for name in pair]:
            if name not in methods:
                raise InputError(f"`pairs` must name methods among {', '.join(methods)}, got {name!r}.")


def _record(data_set: _DataSet, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    plans = data_set.plans
    return {
        "dimension": plans[0].dimension,
        "categories": list(plans[0].categories),
        "windows": str(plans[0].windows),
        "n_events": len(plans),
        "n_windows": sum(plan.n_windows for plan in plans),
        "methods": {
            name: {
                "crps": data_set.crps(name).interval().to_dict(),
                "energy": data_set.energy(name).interval().to_dict() if data_set.joint(name) else None,
                **_calibration(judged, data_set.draws),
            }
            for name, judged in data_set.methods.items()
        },
        "differences": [_difference(a, b, [data_set]) for a, b in pairs],
    }


def _overall(data_sets: Mapping[str, _DataSet], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Everything but data sets in which nothing can be resampled; of surveys the CRPS alone."""
    drawn = {name: one.draws for name, one in data_sets.items() if one.draws is not None}
    if not drawn:
        return {}
    offsets = np.cumsum([0, *(draws.shape[1] for draws in drawn.values())])
    together = np.concatenate([draws + start for draws, start in zip(drawn.values(), offsets, strict=False)], axis=1)
    known = [data_sets[name] for name in drawn]
    methods = [method for method in known[0].methods if all(method in one.methods for one in known)]
    pooled = {method: [score for one in known for score in one.methods[method]] for method in methods}
    surveys = {name: one for name, one in data_sets.items() if one.people is not None}
    return {
        "data_sets": list(drawn),
        "surveys": list(surveys),
        "n_events": int(offsets[-1]),
        "methods": {method: _calibration(judged, together) for method, judged in pooled.items()},
        "differences": [_difference(a, b, [*known, *surveys.values()]) for a, b in pairs],
    }


def _difference(a: str, b: str, data_sets: Sequence[_DataSet]) -> dict[str, Any]:
    """``a - b`` in CRPS and energy score, the unweighted mean over data sets."""
    crps = [one.crps(a) - one.crps(b) for one in data_sets]
    judged = [one for one in data_sets if len(data_sets) == 1 or one.people is None]
    joint = all(one.joint(method) for one in judged for method in (a, b))
    energy = [one.energy(a) - one.energy(b) for one in judged] if joint else []
    return {
        "a": a,
        "b": b,
        "crps": Replicated.mean_of(crps).interval().to_dict(),
        "energy": Replicated.mean_of(energy).interval().to_dict() if energy else None,
    }


def _calibration(judged: Sequence[EventScores], draws: NDArray[np.int64] | None) -> dict[str, Any]:
    def mean(values: Sequence[float]) -> dict[str, float | None]:
        return Replicated.mean(values, draws).interval().to_dict()

    return {
        "pit": uniformity([score.pit for score in judged], draws).to_dict(),
        "covered": {f"{level:g}": mean([score.covered[level].mean() for score in judged]) for level in LEVELS},
        "width": {f"{level:g}": mean([score.width[level].mean() for score in judged]) for level in LEVELS},
    }
