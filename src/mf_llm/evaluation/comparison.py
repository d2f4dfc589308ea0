"""`compare`: methods side by side on the test events of several data sets, with yardsticks and intervals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import kl_divergence
from mf_llm.evaluation.forecasters import Method, default_methods, full_name, method_name
from mf_llm.evaluation.intervals import N_BOOTSTRAP, Interval, generator, window_interval
from mf_llm.evaluation.judged_event import judge_forecast
from mf_llm.evaluation.judging_task import JudgingTask, judging_tasks
from mf_llm.evaluation.method_table import KL_COLUMNS, PAIRED_COLUMNS, Cell, MethodTable
from mf_llm.evaluation.paired import MethodScores, Resampling, mean_kl
from mf_llm.evaluation.protocol import PROTOCOL_VERSION, WindowPlan, Windows
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.evaluation.scoring import Gains, Replicated, intervals_of
from mf_llm.evaluation.subgroups import SUBGROUPS, subgroup_scores
from mf_llm.events.event import Event
from mf_llm.json_records import digest

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


class SimulatedMethod(Protocol):
    """A method whose answers are rollouts, of one or several training seeds."""

    name: str
    readout: str

    def judge(self, task: JudgingTask) -> Cell:
        """The judged events of a task, for every training seed; what is missing is said."""
        ...


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        rows: one dict per event and method, with the keys `COLUMNS`; a KL is the mean over training seeds. `kl_low`
            and `kl_high` are the 95 % bootstrap over the windows of the event (surveys: over the respondents of the
            judged wave); None with one window. `best_constant` is None for one judged wave. `reference` names the
            reference method with its alpha.
        summary: per data set and method KL and gain with intervals, yardsticks, windows, alpha; surveys with their
            subgroups; G and pooled skill; what was skipped or is missing and why; versions, data hash, protocol
            version, seed.
        methods: methods by data sets, for paired differences and means.
        pairs: the pairs whose differences are written.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    methods: MethodTable | None = None
    pairs: tuple[tuple[str, str], ...] = ()

    def save(self, folder: str | Path) -> Path:
        """Writes ``results.csv`` and ``summary.json``, each whole or not at all.

        With pairs also ``methods.csv`` (data sets and training seeds) and ``pairs.csv`` (paired differences). The last
        one holds the checksums of all, so that the report shows nothing that was changed, or is of another comparison.
        """
        folder = Path(folder)
        write_csv(folder / "results.csv", COLUMNS, self.rows)
        written = ["results.csv"]
        if self.methods is not None and self.pairs:
            write_csv(folder / "methods.csv", KL_COLUMNS, self.methods.kl_rows())
            write_csv(folder / "pairs.csv", PAIRED_COLUMNS, self.methods.paired_rows(self.pairs))
            written += ["methods.csv", "pairs.csv"]
        sums = {name: digest((folder / name).read_bytes()) for name in written}
        sums["summary.json"] = digest(self.summary)
        write_json(folder / "summary.json", {**self.summary, "sha256": sums})
        return folder

    def table(self, width: int = 120) -> str:
        """The methods side by side, as text for a terminal `width` columns wide."""
        from mf_llm.evaluation.tables import comparison_table

        return comparison_table(self.summary, width)


def compare(
    event_sets: Mapping[str, Sequence[Event]],
    methods: Sequence[Method | SimulatedMethod] | None = None,
    *,
    seed: int = 0,
    splits: Sequence[str | None] = ("test",),
    windows: Mapping[str, Windows] | None = None,
    subgroups: Sequence[str] = SUBGROUPS,
    n_bootstrap: int = N_BOOTSTRAP,
    limit: int | None = None,
    pairs: Sequence[tuple[str, str]] = (),
) -> Comparison:
    """Judges methods by protocol version 1.

    Args:
        event_sets: data set name -> its events, of all splits: prior, alpha and reference are learned on `train` and
            `validation`.
        methods: callables ``method(event, plan, training) -> [T, K]`` with a ``name`` (see
            `mf_llm.evaluation.forecasters`), or simulated methods. Default: uniform, prior, carry, last.
        seed: seed of the bootstrap.
        splits: splits that are judged.
        windows: data set name -> windows, where they should not be chosen by `choose_windows`.
        subgroups: fields of the respondents' states by which surveys are also judged.
        n_bootstrap: bootstrap samples.
        limit: at most so many events of each data set, the first by their ids; all by default.
        pairs: (a, b): names of methods whose difference ``KL_a - KL_b`` is told with a paired interval.

    Returns:
        The comparison. Data sets that cannot be judged (no labels, no event of these splits, all events too short)
        are listed under ``summary["skipped"]`` with the reason, what a simulated method lacks under
        ``summary["missing"]``.

    Raises:
        InputError: two methods have one name, a pair names another, a method returns something else than
            distributions, or a dimension has other categories in some event of its data set.
    """
    methods = tuple(default_methods() if methods is None else methods)
    names = [method_name(method) for method in methods]
    _check_names(names, pairs)
    skipped: list[dict[str, Any]] = []
    tasks: list[JudgingTask] = []
    for name, events in event_sets.items():
        for dimension, task in judging_tasks(name, list(events), splits, (windows or {}).get(name), limit=limit):
            if isinstance(task, JudgingTask):
                tasks.append(task)
            else:
                logger.warning("%s is skipped: %s", name, task)
                skipped.append({"data_set": name, "dimension": dimension, "reason": task})
    cells = {(method_name(method), task.label): judge(method, task) for method in methods for task in tasks}
    table = MethodTable(cells, {task.label: task.training for task in tasks}, Resampling(seed, n_bootstrap))
    rows: list[dict[str, Any]] = []
    records: dict[str, list[dict[str, Any]]] = {"data_sets": [], "surveys": []}
    gains = {name: Gains() for name in names}
    for task in tasks:
        if task.windows.waves:
            record, task_rows = _judge_survey(task, methods, table, subgroups)
        else:
            record, task_rows = _judge(task, methods, table, gains)
        records["surveys" if task.windows.waves else "data_sets"].append(task.describe() | record)
        rows += [row | {"protocol": PROTOCOL_VERSION, "seed": seed} for row in task_rows]
    whole = [name for name in names if len(gains[name].gains) == len(records["data_sets"])]
    summary = {
        "protocol": PROTOCOL_VERSION,
        "seed": seed,
        "splits": list(splits),
        "limit": limit,
        "n_bootstrap": n_bootstrap,
        "versions": versions(),
        "data_hash": data_hash(event for events in event_sets.values() for event in events),
        "methods": names,
        **records,
        # A mean over some of the data sets would not be comparable.
        "overall": {name: gains[name].to_dict() for name in whole if gains[name].gains},
        "skipped": skipped,
        "missing": [
            {"method": method, "data_set": label, "missing": cell.missing}
            for (method, label), cell in cells.items()
            if cell.missing
        ],
    }
    return Comparison(rows, summary, table, tuple(pairs))


def judge(method: Method | SimulatedMethod, task: JudgingTask) -> Cell:
    """The judged events of one method on one task."""
    if hasattr(method, "judge"):
        return method.judge(task)
    judged = [judge_forecast(plan, method, task.training) for plan in task.plans]
    return Cell(MethodScores(method_name(method), task.label, {0: judged}))


def _check_names(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    if len(set(names)) != len(names):
        raise InputError(
            f"`methods` must have different names, got {names}; their rows would be mixed up; rename one."
        )
    for name in (name for pair in pairs for name in pair):
        if name not in names:
            raise InputError(
                f"`pairs` must name methods of this comparison, got {name!r}; it was not judged; add it to `methods`."
            )


def _judge(
    task: JudgingTask, methods: Sequence[Method | SimulatedMethod], table: MethodTable, gains: dict[str, Gains]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    training, plans, resampling = task.training, task.plans, table.resampling
    best = [plan.best_constant() for plan in plans]
    reference = [judge_forecast(plan, training.reference, training) for plan in plans]
    reference_kl = mean_kl(MethodScores("reference", task.label, {0: reference}), resampling)
    best_kl = Replicated.mean([one for one in best if one is not None], resampling.of_events(task.label, plans))
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
        name = method_name(method)
        cell = table.cells[name, task.label]
        entry: dict[str, Any] = {"full_name": full_name(method, training)}
        record["methods"][name] = entry
        if cell.missing:
            entry["missing"] = cell.missing
        if cell.scores is None:
            continue
        for place, (plan, best_score, one) in enumerate(zip(plans, best, reference, strict=True)):
            seeds = [events[place] for events in cell.scores.seeds.values()]
            windows = np.mean([kl_divergence(plan.truth, judged.q) for judged in seeds], axis=0)
            # The same windows are drawn for every method: intervals of one event can be compared.
            rng = generator(resampling.seed, "windows", task.label, plan.event.event_id)
            bounds = window_interval(windows, rng, resampling.n_bootstrap)
            rows.append(_row(task, plan, method, bounds, best_score, one.kl))
        kl = table.kl(name, task.label)
        assert kl is not None  # its scores are here
        gain = reference_kl - kl
        if not cell.missing:
            gains[name].add(task.label, gain, reference_kl - best_kl)
        entry |= intervals_of({"kl": kl, "gain": gain})
    return record, rows


def _judge_survey(
    task: JudgingTask,
    methods: Sequence[Method | SimulatedMethod],
    table: MethodTable,
    subgroups: Sequence[str],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    training, names = task.training, [method_name(method) for method in methods]
    cells = {name: table.cells[name, task.label] for name in names}
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    totals: dict[str, tuple[list[Replicated], list[Replicated]]] = {
        name: ([], []) for name in names if cells[name].scores is not None
    }
    for place, plan in enumerate(task.plans):
        parts = subgroup_scores(
            plan, place, methods, cells, training, label=task.label, resampling=table.resampling, fields=subgroups
        )
        for part in parts:
            gains = {name: part.reference - kl for name, kl in part.scores.items()}
            if part.field is None:
                for method in methods:
                    if (kl := part.scores.get(method_name(method))) is None:
                        continue
                    totals[method_name(method)][0].append(kl)
                    totals[method_name(method)][1].append(gains[method_name(method)])
                    rows.append(_row(task, plan, method, kl.interval(), plan.best_constant(), part.reference.value))
            events.append(
                {
                    "event": plan.event.event_id,
                    "subgroup": part.field,
                    "value": part.value,
                    "waves": list(plan.names),
                    "n_people": part.n_people,
                    "sampling_alone": part.sampling_alone,
                    "methods": {
                        name: intervals_of({"kl": kl, "gain": gains[name]}) for name, kl in part.scores.items()
                    },
                }
            )
    record: dict[str, Any] = {"methods": {}, "events": events}
    for method in methods:
        name = method_name(method)
        entry: dict[str, Any] = {"full_name": full_name(method, training)}
        if cells[name].missing:
            entry["missing"] = cells[name].missing
        if name in totals:
            kl, gain = (Replicated.mean_of(part) for part in totals[name])
            entry |= intervals_of({"kl": kl, "gain": gain})
        record["methods"][name] = entry
    return record, rows


def _row(
    task: JudgingTask,
    plan: WindowPlan,
    method: Method | SimulatedMethod,
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
