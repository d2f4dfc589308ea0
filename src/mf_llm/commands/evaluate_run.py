"""``mf-llm evaluate``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mf_llm.errors import InputError
from mf_llm.events import Event, load_event_sets
from mf_llm.json_records import read_record
from mf_llm.simulation.rollout import Rollout, load_rollouts
from mf_llm.simulation.run_folder import rollout_name

if TYPE_CHECKING:
    from mf_llm.evaluation import EvaluationReport

MAX_PLOTS = 20


def run_evaluate(run_dir: Path, *, events: str | None, plots: bool, seed: int) -> EvaluationReport:
    """Scores the rollouts of a run folder; writes ``evaluation.csv``, ``evaluation.json`` and plots into it.

    Args:
        run_dir: the run folder.
        events: where the real events are; where the run found them by default.
        plots: draw trajectories (at most 20 events).
        seed: seed of the bootstrap.
    """
    from mf_llm.evaluation import evaluate_rollouts

    rollouts = load_rollouts(run_dir)
    sets = load_event_sets(events or _source(run_dir))
    report = evaluate_rollouts(rollouts, sets, seed=seed)
    report.save(run_dir)
    print(report.table(terminal_width()))
    print(f"Scores: {run_dir / 'evaluation.csv'}")
    if plots:
        judged = {row["event"] for row in report.rows}
        _plot([rollout for rollout in rollouts if rollout.event_id in judged], sets, run_dir / "plots")
    return report


def terminal_width() -> int:
    """Columns of the terminal; 120 where there is none."""
    return shutil.get_terminal_size((120, 40)).columns if sys.stdout.isatty() else 120


def _source(run_dir: Path) -> str:
    path = run_dir / "run.json"
    if not path.is_file():
        raise InputError(
            f"`RUN_DIR` must be a run folder of `mf-llm simulate`, got {run_dir} without run.json; it is not known "
            "where the real events are; name them with --events."
        )
    return str(read_record(path, "`mf-llm simulate`", {"events": str})["events"])


def _plot(rollouts: Sequence[Rollout], sets: dict[str, list[Event]], folder: Path) -> None:
    from mf_llm.evaluation import plot_trajectory

    by_hash = {event.content_hash(): (event, events) for events in sets.values() for event in events}
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        if rollout.categories and rollout.event_hash in by_hash:
            groups.setdefault(rollout.event_hash, []).append(rollout)
    for key in list(groups)[:MAX_PLOTS]:
        event, events = by_hash[key]
        path = folder / rollout_name(event.event_id, 0).removesuffix("-seed0")
        plot_trajectory(groups[key], event, path, events=events, title=f"{event.event_id}: {event.topic}")
    if groups:
        print(f"Plots: {folder}" + (f" (the first {MAX_PLOTS} events)" if len(groups) > MAX_PLOTS else ""))
