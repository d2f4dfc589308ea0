"""`RolloutMethod`: a language-model method as `compare` judges it, out of its finished rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.benchmark.job import Job
from mf_llm.benchmark.method_entry import MethodEntry
from mf_llm.errors import InputError
from mf_llm.evaluation.judged_event import JudgedEvent, judge_rollouts
from mf_llm.evaluation.judging_task import JudgingTask
from mf_llm.evaluation.matching import match
from mf_llm.evaluation.method_table import Cell
from mf_llm.evaluation.paired import MethodScores
from mf_llm.simulation.rollout import Rollout

if TYPE_CHECKING:
    from mf_llm.benchmark.benchmark import Benchmark


class RolloutMethod:
    """One language-model method.

    Args:
        entry: the method.
        benchmark: knows where its rollouts are.

    Attributes:
        name: of the method.
        readout: "exact" or "sampled".
        made_with: the distinct versions, devices and weights of the rollouts that were judged.
        checkpoints: training seed -> file hashes of its checkpoint.
        trained_with: what its checkpoints were trained with where it is simulated otherwise.
    """

    def __init__(self, entry: MethodEntry, benchmark: Benchmark) -> None:
        self.entry, self.benchmark, self.name = entry, benchmark, entry.name
        self.readout = "exact"
        self.made_with: list[dict[str, Any]] = []
        self.checkpoints: dict[str, Any] = {}
        self.trained_with: dict[str, Any] = {}

    def judge(self, task: JudgingTask) -> Cell:
        """The judged events of every training seed that is complete; what is missing is said."""
        if task.training.dimension != self.benchmark.tasks[task.data_set].training.dimension:
            return Cell(None, "simulated on the first dimension only")
        seeds: dict[int, list[JudgedEvent]] = {}
        lacking = []
        if self.entry.data_sets is not None and task.data_set not in self.entry.data_sets:
            return Cell(None, "not asked for")
        for seed in self.entry.seeds:
            job = self.benchmark.job_of(self.entry, seed, task.data_set)
            problem = _problem(job)
            if problem:
                lacking.append(f"seed {seed}: {problem}")
            else:
                seeds[seed] = self._judge(job, task)
        return Cell(MethodScores(self.name, task.label, seeds) if seeds else None, "; ".join(lacking))

    def _judge(self, job: Job, task: JudgingTask) -> list[JudgedEvent]:
        self.readout = job.config.readout
        self.checkpoints[str(job.seed)] = job.record["checkpoint"]
        self.trained_with |= job.trained_with
        rollouts = [Rollout.load(folder) for event in job.events for folder in job.finished(event)]
        for rollout in rollouts:
            made = _without_folders(rollout.versions)
            if made not in self.made_with:
                self.made_with.append(made)
        groups = match(rollouts, {task.data_set: job.events})
        return [judge_rollouts(event, members, task.windows) for group in groups.values() for event, members in group]


def _problem(job: Job) -> str:
    """Why the rollouts of a job cannot be judged; empty where they can."""
    try:
        left = job.unfinished_events()
    except InputError as error:
        return str(error)
    if len(left) == len(job.events):
        return "not simulated"
    return f"{len(left)} of {len(job.events)} events are not simulated" if left else ""


def _without_folders(made: dict[str, Any]) -> dict[str, Any]:
    """Versions as they may be published: a base that is a local folder keeps its last name only."""
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in made.items()
    }
