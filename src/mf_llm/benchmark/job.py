"""`Job`: the rollouts of one model on the judged events of one data set, and the folder they are kept in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import plain
from mf_llm.benchmark.method_entry import MethodEntry
from mf_llm.errors import InputError
from mf_llm.evaluation.judging_task import JudgingTask
from mf_llm.events import Event
from mf_llm.models.checkpoints import (
    check_simulation_options,
    checkpoint_files,
    find_simulation_checkpoint,
    read_config,
)
from mf_llm.simulation.run_folder import rollout_name
from mf_llm.simulation.simulation_config import SimulationConfig

RECORD = "run.json"
# What people are shown and how they are read: a model that was trained with other values knows other prompts.
_TRAINED = ("signal", "shown_answers", "anchored", "choice_temperature")


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """The rollouts of one method and training seed on one data set.

    Attributes:
        method: the method.
        seed: the training seed.
        task: the data set and its judged events.
        base: the backbone of methods without a checkpoint.
        checkpoint: the checkpoint; None: the base.
        config: how the events are simulated; its seed is that of the first rollout.
        rollouts: folder of all rollouts of the benchmark.
    """

    method: MethodEntry
    seed: int
    task: JudgingTask
    base: str
    checkpoint: str | None
    config: SimulationConfig
    rollouts: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.method.name}, seed {self.seed}, {self.task.data_set}"

    @property
    def events(self) -> list[Event]:
        """The events to simulate."""
        return [plan.event for plan in self.task.plans]

    @property
    def model(self) -> str:
        """What is loaded."""
        return self.checkpoint or self.base

    @property
    def configs(self) -> list[SimulationConfig]:
        """One configuration per rollout of an event."""
        return [replace(self.config, seed=seed) for seed in self.method.simulation_seeds(self.seed)]

    @cached_property
    def trained_with(self) -> dict[str, Any]:
        """Of what the checkpoint was trained with, what is simulated otherwise: fields of `SimulationConfig`."""
        folder = find_simulation_checkpoint(self.checkpoint, local_files_only=True) if self.checkpoint else None
        told = read_config(folder).get("simulation") if folder is not None else None
        if not told:
            return {}
        try:
            before, now = SimulationConfig(**check_simulation_options(told)), self.config
        except InputError:  # said when it is loaded, and the other jobs go on
            return {}
        return {name: getattr(before, name) for name in _TRAINED if getattr(before, name) != getattr(now, name)}

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the rollouts are made from: weights by their hashes, not by where they lie.

        Raises:
            InputError: the checkpoint is not there.
        """
        return plain(
            {
                "data_set": self.task.data_set,
                "model": Path(self.model).name if Path(self.model).is_dir() else self.model,
                "checkpoint": checkpoint_hashes(self.checkpoint),
                "roles": list(self.method.roles),
                "config": self.config.changes(),
            }
        )

    @cached_property
    def folder(self) -> Path:
        """Where the rollouts are kept: named by the hash of `record`, so that other settings never meet them.

        Raises:
            InputError: the checkpoint is not there.
        """
        return self.rollouts / self.method.name / f"seed{self.seed}" / folder_name(self.task.data_set, self.record)

    def finished(self, event: Event) -> list[Path]:
        """The folders of the finished rollouts of an event."""
        folders = [self.folder / "rollouts" / rollout_name(event.event_id, one.seed) for one in self.configs]
        return [folder for folder in folders if (folder / "rollout.json").is_file()]

    def unfinished_events(self) -> list[Event]:
        """The events that still lack a rollout."""
        return [event for event in self.events if len(self.finished(event)) < self.method.n_rollouts]


def folder_name(data_set: str, record: Mapping[str, Any]) -> str:
    """The name of the folder whose rollouts are made from `record`."""
    text = json.dumps(record, sort_keys=True)
    return f"{data_set}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def checkpoint_hashes(name: str | None) -> dict[str, str] | None:
    """SHA-256 (16 digits) of the files that make up a checkpoint, its card apart; None for a base.

    Raises:
        InputError: it is not there.
    """
    if name is None:
        return None
    folder = find_simulation_checkpoint(name, local_files_only=True)
    if folder is None:
        raise InputError(
            f"`checkpoint` must be a checkpoint of this package, got {name!r}, which is not there; its rollouts "
            "cannot be made; train it first, or name the folder of the checkpoints."
        )
    files = [path for path in checkpoint_files(folder) if path.suffix in (".json", ".safetensors", ".txt", ".model")]
    return {path.as_posix(): hashlib.sha256((folder / path).read_bytes()).hexdigest()[:16] for path in files}
