"""`Benchmark`: methods, data sets, and the rollouts that the methods need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mf_llm.benchmark.job import Job
from mf_llm.benchmark.method_entry import REPLAY, MethodEntry
from mf_llm.benchmark.method_list import MethodList
from mf_llm.benchmark.replay_method import ReplayMethod
from mf_llm.benchmark.rollout_method import RolloutMethod
from mf_llm.benchmark.training_runs import TrainingRuns
from mf_llm.evaluation.comparison import Comparison, compare
from mf_llm.evaluation.forecasters import Method, all_forecasters
from mf_llm.evaluation.intervals import N_BOOTSTRAP
from mf_llm.evaluation.judging_task import JudgingTask, judging_tasks
from mf_llm.evaluation.protocol import Windows
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.events import Event
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.simulation_config import SimulationConfig

SPLIT = "test"


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What is compared on which events.

    Attributes:
        event_sets: data set -> its events, of all splits.
        methods: the methods.
        method_list: where they come from: options and pairs.
        rollouts: folder of the rollouts.
        checkpoints: folder of the checkpoints.
        base: the backbone of methods without a checkpoint.
        limit: at most so many test events of each data set.
        windows: data set -> how its events are cut, where the protocol should not choose.
        options: fields of `SimulationConfig` of all simulations, whatever the list says.
        read: let annotators read what they have not read yet.
    """

    event_sets: Mapping[str, Sequence[Event]]
    methods: Sequence[MethodEntry]
    method_list: MethodList
    rollouts: Path
    checkpoints: str = "."
    base: str = DEFAULT_BACKBONE
    limit: int | None = None
    windows: Mapping[str, Windows] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    read: bool = True

    @cached_property
    def tasks(self) -> dict[str, JudgingTask]:
        """Data set -> its test events on its first dimension; data sets that cannot be judged are left out."""
        tasks = {}
        for name, events in self.event_sets.items():
            windows = self.windows.get(name)
            for _, task in judging_tasks(name, list(events), (SPLIT,), windows, limit=self.limit)[:1]:
                if isinstance(task, JudgingTask):
                    tasks[name] = task
        return tasks

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of the list whose methods are both compared."""
        names = {method.name for method in self.methods}
        return tuple(pair for pair in self.method_list.pairs if set(pair) <= names)

    def runs_to_train(self, runs: TrainingRuns) -> list[tuple[str, int]]:
        """The training runs (name, seed) whose checkpoints are asked for and not finished, in an order that works.

        Args:
            runs: their folder must be `checkpoints`; a checkpoint that no run makes is left out.
        """
        wanted: list[tuple[str, int]] = []
        for method in self.methods:
            for seed in method.seeds:
                folder = Path(method.checkpoint_of(seed, self.checkpoints) or "")
                name = folder.name.removesuffix(f"-seed{seed}")
                if name in runs.table["runs"] and folder == runs.folder_of(name, seed):
                    wanted += [(one, seed) for one in runs.with_needed([name])]
        return [one for one in dict.fromkeys(wanted) if runs.finished(*one) is None]

    def jobs(self) -> list[Job]:
        """All rollouts that are needed, in the order of the list: those of one checkpoint follow each other."""
        return [job for method in self.methods for seed in method.seeds for job in self.jobs_of(method, seed)]

    def jobs_of(self, method: MethodEntry, seed: int) -> list[Job]:
        """The jobs of one method and training seed, one per data set; none where nothing is simulated."""
        if not method.is_simulated:
            return []
        names = [name for name in self.tasks if method.data_sets is None or name in method.data_sets]
        return [self.job_of(method, seed, name) for name in names]

    def job_of(self, method: MethodEntry, seed: int, data_set: str) -> Job:
        """The job of one method, training seed and data set; made once, since its hashes take time."""
        key = (method.name, seed, data_set)
        if key not in self._jobs:
            self._jobs[key] = self._job(method, seed, self.tasks[data_set])
        return self._jobs[key]

    @cached_property
    def _jobs(self) -> dict[tuple[str, int, str], Job]:
        return {}

    @cached_property
    def _configs(self) -> dict[tuple[str, str], SimulationConfig]:
        return {}

    @cached_property
    def judged_methods(self) -> list[Method | RolloutMethod | ReplayMethod]:
        """The methods as `compare` takes them."""
        forecasters, folder = all_forecasters(), self.rollouts
        found: list[Method | RolloutMethod | ReplayMethod] = []
        for entry in self.methods:
            if entry.forecaster is not None:
                forecaster: Any = forecasters[entry.forecaster]
                found.append(replace(forecaster, name=entry.name))
            elif entry.annotator is not None:
                found.append(ReplayMethod(entry.name, entry.annotator, folder, base=self.base, read=self.read))
            else:
                found.append(RolloutMethod(entry, self))
        return found

    def compare(self, *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP) -> Comparison:
        """Judges what is there; what is missing is named. The summary says how each method was made.

        Args:
            seed: of the bootstrap.
            n_bootstrap: bootstrap samples.
        """
        comparison = compare(
            self.event_sets,
            self.judged_methods,
            seed=seed,
            splits=(SPLIT,),
            windows=self.windows,
            n_bootstrap=n_bootstrap,
            limit=self.limit,
            pairs=self.pairs,
        )
        comparison.summary |= {
            "method_list": self.method_list.sha256,
            "data_set_options": {name: dict(options) for name, options in self.method_list.data_sets.items()},
            "made": {method.name: self._made(method) for method in self.judged_methods},
        }
        return comparison

    def _made(self, method: Method | RolloutMethod | ReplayMethod) -> dict[str, Any]:
        if isinstance(method, ReplayMethod):
            return {"kind": REPLAY, "annotator": method.annotator, "base": self._base_name}
        if not isinstance(method, RolloutMethod):
            return {"kind": "forecaster"}
        entry = method.entry
        return {
            "kind": entry.kind,
            "base": self._base_name if entry.checkpoint is None else None,
            "training_seeds": list(entry.seeds) if entry.checkpoint else None,
            "rollouts_per_seed": entry.n_rollouts,
            "options": {**self.method_list.options, **entry.options, **self.options},
            "trained_with": method.trained_with,
            "roles": list(entry.roles),
            "checkpoints": method.checkpoints,
            "made_with": method.made_with,
        }

    @property
    def _base_name(self) -> str:
        return Path(self.base).name if Path(self.base).is_dir() else self.base

    def _job(self, method: MethodEntry, seed: int, task: JudgingTask) -> Job:
        return Job(
            method=method,
            seed=seed,
            task=task,
            base=self.base,
            checkpoint=method.checkpoint_of(seed, self.checkpoints),
            config=replace(self._config_of(method, task.data_set), seed=method.simulation_seeds(seed)[0]),
            rollouts=self.rollouts,
        )

    def _config_of(self, method: MethodEntry, data_set: str) -> SimulationConfig:
        """How a method is simulated on a data set; made once for all training seeds, since its anchor takes time."""
        key = (method.name, data_set)
        if key not in self._configs:
            options = {**self.method_list.options_of(method, data_set), **self.options}
            self._configs[key] = protocol_config(self.event_sets[data_set], options)
        return self._configs[key]
