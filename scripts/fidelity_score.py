"""From the run folders of the fidelity experiment to its table; whatever is not there is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fidelity_bars import anchored_bars, plain_bars
from fidelity_jobs import FORECASTERS, DataSet, Experiment, Job, MethodEntry, read_record

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import full_name
from mf_llm.evaluation.intervals import LEVEL, N_BOOTSTRAP
from mf_llm.evaluation.judged_event import JudgedEvent, judge_forecast, judge_rollouts
from mf_llm.evaluation.matching import match
from mf_llm.evaluation.method_table import KL_COLUMNS, PAIRED_COLUMNS, Cell, MethodTable
from mf_llm.evaluation.paired import MethodScores, Resampling
from mf_llm.evaluation.protocol import PROTOCOL_VERSION
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.simulation.journal import check_same_run
from mf_llm.simulation.rollout import Rollout

NOTES = (
    "KL(human || simulated) in nats; mean over events, then over training seeds; a mean over data sets is unweighted.",
    "Intervals: 95 % bootstrap over events within each data set (blocks of a stream in runs of 3), in surveys over "
    "respondents, and over training seeds (one draw for all data sets); the same draws for both methods of a pair. "
    "With 3 seeds the bootstrap shows two thirds of the variance between training runs.",
    "A survey's interval is about the people who were asked: its groups (two in vaccine_survey) are not resampled.",
    "For surveys carry-regressed is carry by construction. anchored-zero is carry, computed without a model.",
    "The best baseline is the one with the lowest mean KL on these test events, a choice in favour of the baselines.",
)


@dataclass
class Found:
    """What the run folders hold.

    Attributes:
        table: methods by data sets.
        checkpoints: method -> training seed -> file hashes.
        rollout_versions: the distinct versions, devices and weights that made the rollouts.
    """

    table: MethodTable
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    rollout_versions: list[dict[str, Any]] = field(default_factory=list)


def read_runs(experiment: Experiment, *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP) -> Found:
    """Judges all finished runs of an experiment.

    Args:
        experiment: the table.
        seed: seed of the bootstrap.
        n_bootstrap: bootstrap samples.
    """
    cells: dict[tuple[str, str], Cell] = {}
    training = {name: data_set.training for name, data_set in experiment.data_sets.items()}
    found = Found(MethodTable({}, training, Resampling(seed, n_bootstrap)))
    for method in experiment.methods.values():
        for data_set in experiment.data_sets_of(method):
            if method.forecaster is not None:
                cells[method.name, data_set.name] = _forecast_cell(method, data_set)
            else:
                cells[method.name, data_set.name] = _simulation_cell(experiment, method, data_set, found)
    found.table = MethodTable(cells, training, Resampling(seed, n_bootstrap))
    return found


def save_results(experiment: Experiment, found: Found, folder: Path, command: str) -> dict[str, Any]:
    """Writes ``kl.csv``, ``paired.csv`` and ``summary.json``; returns the summary."""
    table = found.table
    kl_rows, paired_rows = table.kl_rows(), table.paired_rows(experiment.comparisons)
    summary = {
        "protocol": PROTOCOL_VERSION,
        "seed": table.resampling.seed,
        "n_bootstrap": table.resampling.n_bootstrap,
        "level": LEVEL,
        "command": command,
        "table_hash": experiment.table_hash,
        "versions": versions(),
        "rollout_versions": found.rollout_versions,
        "data_sets": {name: _describe(data_set) for name, data_set in experiment.data_sets.items()},
        "methods": {
            method.name: {
                "forecaster": method.forecaster,
                "training_seeds": None if method.forecaster else list(method.seeds),
                "options": {**experiment.options, **method.options},
                "roles": list(method.roles),
                "checkpoints": found.checkpoints.get(method.name, {}),
            }
            for method in experiment.methods.values()
        },
        "bars": {
            "plain": [bar.to_dict() for bar in plain_bars(table)],
            "anchored": [bar.to_dict() for bar in anchored_bars(table)],
        },
        "missing": [
            {"method": method, "data_set": data_set, "missing": cell.missing}
            for (method, data_set), cell in table.cells.items()
            if cell.missing
        ],
        "notes": list(NOTES),
    }
    write_csv(folder / "kl.csv", KL_COLUMNS, kl_rows)
    write_csv(folder / "paired.csv", PAIRED_COLUMNS, paired_rows)
    write_json(folder / "summary.json", summary)
    return summary


def _forecast_cell(method: MethodEntry, data_set: DataSet) -> Cell:
    forecaster = FORECASTERS[method.forecaster]
    judged = [judge_forecast(plan, forecaster, data_set.training) for plan in data_set.plans]
    return Cell(MethodScores(method.name, data_set.name, {0: judged}))


def _simulation_cell(experiment: Experiment, method: MethodEntry, data_set: DataSet, found: Found) -> Cell:
    seeds: dict[int, list[JudgedEvent]] = {}
    lacking = []
    for seed in method.seeds:
        job = experiment.job(method, seed, data_set)
        problem = _problem(job, found)
        if problem:
            lacking.append(f"seed {seed}: {problem}")
        else:
            seeds[seed] = _judge(job, found)
    return Cell(MethodScores(method.name, data_set.name, seeds) if seeds else None, "; ".join(lacking))


def _problem(job: Job, found: Found) -> str:
    """Why the runs of a job cannot be judged; empty where they can."""
    finished, record = job.finished(), read_record(job.folder)
    if not finished or record is None:
        return "no run"
    if len(finished) < len(job.events):
        return f"{len(finished)} of {len(job.events)} events"
    # Scoring does not need the checkpoint: it may lie on the machine that made the runs.
    ours = {"config": job.config.to_dict(), "roles": list(job.method.roles)}
    try:
        check_same_run(ours, {key: record.get(key) for key in ours}, job.folder)
    except InputError as error:
        return f"the run was made with other settings ({str(error).split(' and now')[0].split('made with ')[-1]})"
    known = found.checkpoints.setdefault(job.method.name, {})
    checkpoint = {"model": record.get("model"), "files": record.get("checkpoint")}
    if known.setdefault(str(job.seed), checkpoint) != checkpoint:
        return "the run was made with another checkpoint than on the other data sets"
    return ""


def _judge(job: Job, found: Found) -> list[JudgedEvent]:
    rollouts = [Rollout.load(folder) for folder in job.finished()]
    for rollout in rollouts:
        made = _without_folders(rollout.versions)
        if made not in found.rollout_versions:
            found.rollout_versions.append(made)
    groups = match(rollouts, {job.data_set.name: job.events})
    windows = job.data_set.training.windows
    return [judge_rollouts(event, members, windows) for group in groups.values() for event, members in group]


def _without_folders(made: dict[str, Any]) -> dict[str, Any]:
    """Versions as they may be published: a base that is a local folder keeps its last name only."""
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in made.items()
    }


def _describe(data_set: DataSet) -> dict[str, Any]:
    training = data_set.training
    return {
        "dimension": training.dimension,
        "windows": str(training.windows),
        "n_events": len(data_set.plans),
        "limit": data_set.limit,
        "reference": full_name(training.reference, training),
        "alpha": training.alpha,
        "options": dict(data_set.options),
        "data_hash": data_hash(data_set.events),
        "test_hash": data_hash(plan.event for plan in data_set.plans),
    }
