"""`compare`: methods side by side on the test events of several data sets, with yardsticks and intervals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import clamp
from mf_llm.evaluation.forecasters import Method, Training, default_methods, forecast, full_name, method_name
from mf_llm.evaluation.intervals import N_BOOTSTRAP, Interval, event_draws, generator, window_interval
from mf_llm.evaluation.protocol import PROTOCOL_VERSION, WindowPlan, Windows, choose_windows, plan_event
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.evaluation.scoring import Gains, Replicated, intervals_of, respondent_draws, survey_score
from mf_llm.evaluation.subgroups import SUBGROUPS, subgroup_plans
from mf_llm.events.event import Event

logger = logging.getLogger(__name__)

COLUMNS = (
    "dataset",
    "event",
    "method",
    "readout",
    "dimension",
    "kl",
    "kl_low",
    "kl_high",
    "best_constant",
    "reference",
    "gain",
    "n_windows",
    "protocol",
    "seed",
)


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        rows: one dict per event and method, with the keys `COLUMNS`. `kl_low` and `kl_high` are the 95 % bootstrap
            over the windows of the event (surveys: over the respondents of the judged wave); None with one window.
            `best_constant` is None for one judged wave. `reference` names the reference method with its alpha.
        summary: per data set and method KL and gain with intervals, yardsticks, windows, alpha; surveys with their
            subgroups; G and pooled skill; what was skipped and why; versions, data hash, protocol version, seed.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Writes ``results.csv`` and ``summary.json``, each whole or not at all."""
        folder = Path(folder)
        write_csv(folder / "results.csv", COLUMNS, self.rows)
        write_json(folder / "summary.json", self.summary)
        return folder

    def table(self, width: int = 120) -> str:
        """The anchors side by side, as text for a terminal `width` columns wide."""
        from mf_llm.evaluation.tables import comparison_table

        return comparison_table(self.summary, width)


def compare(
    event_sets: Mapping[str, Sequence[Event]],
    methods: Sequence[Method] | None = None,
    *,
    seed: int = 0,
    splits: Sequence[str | None] = ("test",),
    windows: Mapping[str, Windows] | None = None,
    subgroups: Sequence[str] = SUBGROUPS,
    n_bootstrap: int = N_BOOTSTRAP,
) -> Comparison:
    """Judges methods by protocol version 1.

    Args:
        event_sets: data set name -> its events, of all splits: prior, alpha and reference are learned on `train` and
            `validation`.
        methods: callables ``method(event, plan, training) -> [T, K]`` with a ``name``; see
            `mf_llm.evaluation.forecasters`. Default: uniform, prior, carry, last.
        seed: seed of the bootstrap.
        splits: splits that are judged.
        windows: data set name -> windows, where they should not be chosen by `choose_windows`.
        subgroups: fields of the respondents' states by which surveys are also judged.
        n_bootstrap: bootstrap samples.

    Returns:
        The comparison. Data sets that cannot be judged (no labels, no event of these splits, all events too short) are
        listed under ``summary["skipped"]`` with the reason.

    Raises:
        InputError: two methods have one name, a method returns something else than distributions, or a dimension has
            other categories in some event of its data set.
    """
    methods = tuple(default_methods() if methods is None else methods)
    names = [method_name(method) for method in methods]
    if len(set(names)) != len(names):
        raise InputError(
            f"`methods` must have different names, got {names}; their rows would be mixed up; rename one."
        )
    skipped: list[dict[str, Any]] = []
    tasks = []
    for name, events in event_sets.items():
        for dimension, task in _tasks(name, list(events), splits, (windows or {}).get(name)):
            if isinstance(task, _Task):
                tasks.append(task)
            else:
                logger.warning("%s is skipped: %s", name, task)
                skipped.append({"data_set": name, "dimension": dimension, "reason": task})
    rows: list[dict[str, Any]] = []
    records: dict[str, list[dict[str, Any]]] = {"data_sets": [], "surveys": []}
    gains = {name: Gains() for name in names}
    for task in tasks:
        if task.windows.waves:
            record, task_rows = _judge_survey(task, methods, seed, n_bootstrap, subgroups)
        else:
            record, task_rows = _judge(task, methods, seed, n_bootstrap, gains)
        records["surveys" if task.windows.waves else "data_sets"].append(task.describe() | record)
        rows += [row | {"protocol": PROTOCOL_VERSION, "seed": seed} for row in task_rows]
    summary = {
        "protocol": PROTOCOL_VERSION,
        "seed": seed,
        "splits": list(splits),
        "n_bootstrap": n_bootstrap,
        "versions": versions(),
        "data_hash": data_hash(event for events in event_sets.values() for event in events),
        "methods": names,
        **records,
        "overall": {name: gain.to_dict() for name, gain in gains.items() if gain.gains},
        "skipped": skipped,
    }
    return Comparison(rows, summary)


@dataclass(frozen=True, eq=False)
class _Task:
    """One data set on one dimension, ready to be judged."""

    data_set: str
    plans: list[WindowPlan]
    training: Training
    windows: Windows
    n_too_short: int

    @property
    def label(self) -> str:
        return f"{self.data_set}/{self.training.dimension}"

    def describe(self) -> dict[str, Any]:
        training, notes = self.training, []
        if not training.train:
            notes.append("no train events: the prior is uniform (0.5 counts per category)")
        if not training.plans and not self.windows.waves:
            notes.append(f"no train or validation events to choose by: reference carry, alpha = {training.alpha:g}")
        if self.n_too_short:
            notes.append(f"{self.n_too_short} events are too short for windows {self.windows} and left out")
        return {
            "data_set": self.data_set,
            "dimension": training.dimension,
            "categories": list(training.categories),
            "windows": str(self.windows),
            "warm_up": None if self.windows.waves else self.windows.warm_up,
            "window": None if self.windows.waves else self.windows.window,
            "n_events": len(self.plans),
            "n_too_short": self.n_too_short,
            "n_train": len(training.train),
            "n_validation": len(training.validation),
            "prior": training.prior.tolist(),
            "alpha": training.alpha,
            "reference": full_name(training.reference, training),
            "train_and_validation_kl": training.scores,
            "notes": notes,
        }


def _tasks(
    name: str, events: list[Event], splits: Sequence[str | None], windows: Windows | None
) -> list[tuple[str | None, _Task | str]]:
    """The tasks of a data set, by dimension; a text where there is none, saying why."""
    dimensions = list(dict.fromkeys(dimension for event in events for dimension in event.dimensions))
    if not dimensions:
        return [(None, "no event has a dimension: nothing is labelled")]
    return [(dimension, _task(name, events, dimension, splits, windows)) for dimension in dimensions]


def _task(
    name: str, events: list[Event], dimension: str, splits: Sequence[str | None], windows: Windows | None
) -> _Task | str:
    events = [event for event in events if dimension in event.dimensions]
    categories = tuple(events[0].dimensions[dimension])
    for event in events:
        if tuple(event.dimensions[dimension]) != categories:
            raise InputError(
                f"`dimensions.{dimension}` must be the same in all events of {name!r}, got {list(categories)} in "
                f"event {events[0].event_id!r} and {list(event.dimensions[dimension])} in event {event.event_id!r}; "
                "their shares cannot be averaged; give the events one list of categories, or split the data set."
            )
    judged = [event for event in events if event.split in splits]
    if not judged:
        found = sorted({str(event.split) for event in events})
        return f"no event of split {', '.join(map(str, splits))} (splits found: {', '.join(found)})"
    if not any(dimension in turn.labels for event in judged for turn in event.turns):
        return f"no turn of the {len(judged)} judged events has a label on {dimension!r}"
    windows = choose_windows(events, dimension) if windows is None else windows
    plans = [plan_event(event, windows, dimension) for event in judged]
    long_enough = [plan for plan in plans if plan.n_windows]
    if not long_enough:
        return f"all {len(plans)} judged events are too short for windows {windows}"
    training = Training(events, windows, dimension, categories)
    return _Task(name, long_enough, training, windows, len(plans) - len(long_enough))


def _judge(
    task: _Task,
    methods: Sequence[Method],
    seed: int,
    n_bootstrap: int,
    gains: dict[str, Gains],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    training, plans = task.training, task.plans
    draws = event_draws([plan.event for plan in plans], generator(seed, "events", task.label), n_bootstrap)
    best = [plan.best_constant() for plan in plans]
    reference = [plan.score(forecast(training.reference, plan, training)).mean() for plan in plans]
    reference_kl = Replicated.mean(reference, draws)
    best_kl = Replicated.mean(best, draws)
    record: dict[str, Any] = {
        "reference_kl": reference_kl.interval().to_dict(),
        "yardsticks": {
            "best_constant": best_kl.interval().to_dict(),
            "sampling_alone": float(np.mean([plan.sampling_alone() for plan in plans])),
        },
        "methods": {},
    }
    rows = []
    for method in methods:
        name, scores = method_name(method), []
        for plan, reference_score, best_score in zip(plans, reference, best, strict=True):
            windows = plan.score(forecast(method, plan, training))
            # The same windows are drawn for every method: intervals of one event can be compared.
            rng = generator(seed, "windows", task.label, plan.event.event_id)
            score = window_interval(windows, rng, n_bootstrap)
            scores.append(score.value)
            rows.append(_row(task, plan, method, score, best_score, reference_score))
        kl = Replicated.mean(scores, draws)
        gain = reference_kl - kl
        gains[name].add(task.label, gain, reference_kl - best_kl)
        record["methods"][name] = {"full_name": full_name(method, training)} | intervals_of({"kl": kl, "gain": gain})
    return record, rows


def _judge_survey(
    task: _Task,
    methods: Sequence[Method],
    seed: int,
    n_bootstrap: int,
    subgroups: Sequence[str],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    training = task.training
    rows: list[dict[str, Any]] = []
    events, per_method = [], {method_name(method): ([], []) for method in methods}
    for plan in task.plans:
        draws = respondent_draws(plan, generator(seed, "people", task.label, plan.event.event_id), n_bootstrap)
        whole = np.ones(len(plan.event.turns), dtype=bool)
        parts = [(None, None, whole, plan), *subgroup_plans(plan, subgroups)]
        for subgroup, value, members, part in parts:
            reference = survey_score(plan, clamp(forecast(training.reference, part, training)), draws, members=members)
            scores = {}
            for method in methods:
                kl = survey_score(plan, clamp(forecast(method, part, training)), draws, members=members)
                scores[method_name(method)] = (kl, reference - kl)
                if subgroup is None:
                    per_method[method_name(method)][0].append(kl)
                    per_method[method_name(method)][1].append(reference - kl)
                    best = plan.best_constant()
                    rows.append(_row(task, plan, method, kl.interval(), best, reference.value))
            events.append(
                {
                    "event": plan.event.event_id,
                    "subgroup": subgroup,
                    "value": value,
                    "waves": list(plan.names),
                    "n_people": sum(len(window) for window in part.judged),
                    "sampling_alone": part.sampling_alone(),
                    "methods": {name: intervals_of({"kl": kl, "gain": gain}) for name, (kl, gain) in scores.items()},
                }
            )
    record = {
        "methods": {
            method_name(method): {"full_name": full_name(method, training)}
            | intervals_of(
                {
                    "kl": Replicated.mean_of(per_method[method_name(method)][0]),
                    "gain": Replicated.mean_of(per_method[method_name(method)][1]),
                }
            )
            for method in methods
        },
        "events": events,
    }
    return record, rows


def _row(
    task: _Task,
    plan: WindowPlan,
    method: Method,
    kl: Interval,
    best_constant: float | None,
    reference_kl: float,
) -> dict[str, Any]:
    return {
        "dataset": task.data_set,
        "event": plan.event.event_id,
        "method": method_name(method),
        "readout": getattr(method, "readout", "forecast"),
        "dimension": plan.dimension,
        "kl": kl.value,
        "kl_low": kl.low,
        "kl_high": kl.high,
        "best_constant": best_constant,
        "reference": full_name(task.training.reference, task.training),
        "gain": reference_kl - kl.value,
        "n_windows": plan.n_windows,
    }
