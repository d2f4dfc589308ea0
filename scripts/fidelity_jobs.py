"""The table of the fidelity experiment: methods, data sets, and the run folder of each (method, seed, data set)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import plain
from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Carry, Last, Method, Prior, Training, Uniform
from mf_llm.evaluation.protocol import WindowPlan, choose_windows, first_dimension, plan_event
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.evaluation.regression import CarryRegressed
from mf_llm.events import Event, load_event_sets
from mf_llm.models.checkpoints import find_simulation_checkpoint
from mf_llm.models.configuration_mf_llm import ROLES
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.run_folder import rollout_name
from mf_llm.simulation.simulation_config import SimulationConfig

FORECASTERS: dict[str, Method] = {
    method.name: method for method in (Uniform(), Prior(), Carry(), Last(), CarryRegressed())
}
_METHOD_KEYS = ("forecaster", "checkpoint", "seeds", "options", "roles", "data_sets")


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One method of the table.

    Attributes:
        name: its name.
        forecaster: name of a forecaster without a language model; nothing else is then needed.
        checkpoint: folder or name of a checkpoint, ``{seed}`` in it stands for the training seed; None: the base.
        seeds: training seeds, also those of the simulation.
        options: fields of `SimulationConfig`.
        roles: whose adapters are kept; those of the other role are set to zero.
        data_sets: only these; None: all.
    """

    name: str
    forecaster: str | None = None
    checkpoint: str | None = None
    seeds: tuple[int, ...] = (0,)
    options: Mapping[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = ROLES
    data_sets: tuple[str, ...] | None = None

    def checkpoint_of(self, seed: int) -> str | None:
        """The checkpoint of one training seed."""
        return None if self.checkpoint is None else self.checkpoint.replace("{seed}", str(seed))


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set and its test events that the protocol judges."""

    name: str
    events: list[Event]
    options: Mapping[str, Any]
    limit: int | None = None

    @cached_property
    def training(self) -> Training:
        """What the forecasters learn from."""
        dimension = first_dimension(self.events)
        categories = next(event.dimensions[dimension] for event in self.events if dimension in event.dimensions)
        return Training(self.events, choose_windows(self.events, dimension), dimension, categories)

    @cached_property
    def plans(self) -> list[WindowPlan]:
        """The plans of the test events that are long enough, in the order of the file; at most `limit`."""
        windows, dimension = self.training.windows, self.training.dimension
        plans = [plan_event(event, windows, dimension) for event in self.events if event.split == "test"]
        return [plan for plan in plans if plan.n_windows][: self.limit]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run folder: the rollouts of one model on the test events of one data set."""

    method: MethodEntry
    seed: int
    data_set: DataSet
    base: str
    config: SimulationConfig
    folder: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.method.name}, seed {self.seed}, {self.data_set.name}"

    @property
    def events(self) -> list[Event]:
        """The events to simulate."""
        return [plan.event for plan in self.data_set.plans]

    @property
    def model(self) -> str:
        """What is loaded."""
        return self.method.checkpoint_of(self.seed) or self.base

    def finished(self) -> list[Path]:
        """The folders of finished rollouts of this job's events."""
        folders = [self.folder / "rollouts" / rollout_name(event.event_id, self.seed) for event in self.events]
        return [folder for folder in folders if (folder / "rollout.json").is_file()]

    def record(self) -> dict[str, Any]:
        """What the run was made from (``run.json``), without where it lay."""
        return plain(
            {
                "method": self.method.name,
                "data_set": self.data_set.name,
                "seed": self.seed,
                "model": Path(self.model).name if Path(self.model).is_dir() else self.model,
                "checkpoint": checkpoint_files(self.method.checkpoint_of(self.seed)),
                "roles": list(self.method.roles),
                "config": self.config.to_dict(),
            }
        )


@dataclass(frozen=True, eq=False)
class Experiment:
    """The whole table."""

    methods: dict[str, MethodEntry]
    data_sets: dict[str, DataSet]
    comparisons: tuple[tuple[str, str], ...]
    options: Mapping[str, Any]
    runs: Path
    base: str = DEFAULT_BACKBONE
    table_hash: str = ""

    def jobs(self) -> list[Job]:
        """All run folders, methods in the order of the table."""
        return [
            self.job(method, seed, data_set)
            for method in self.methods.values()
            if method.forecaster is None
            for seed in method.seeds
            for data_set in self.data_sets_of(method)
        ]

    def data_sets_of(self, method: MethodEntry) -> list[DataSet]:
        """The data sets a method is judged on."""
        return [
            data_set
            for name, data_set in self.data_sets.items()
            if method.data_sets is None or name in method.data_sets
        ]

    def job(self, method: MethodEntry, seed: int, data_set: DataSet) -> Job:
        """The job of one method, training seed and data set."""
        options = {**self.options, **data_set.options, **method.options, "seed": seed}
        return Job(
            method=method,
            seed=seed,
            data_set=data_set,
            base=self.base,
            config=protocol_config(data_set.events, options),
            folder=self.runs / method.name / f"seed{seed}" / data_set.name,
        )


def load_experiment(
    table: Path,
    data: Path,
    runs: Path,
    *,
    only: Sequence[str] = (),
    data_sets: Sequence[str] = (),
    limit: int | None = None,
    base: str = DEFAULT_BACKBONE,
) -> Experiment:
    """Reads the table and the events.

    Args:
        table: a YAML file like ``scripts/fidelity_methods.yaml``.
        data: folder of the data sets.
        runs: folder of the run folders.
        only: only these methods; all by default.
        data_sets: only these data sets; all by default.
        limit: at most this many test events of each data set.
        base: the backbone of methods without a checkpoint.

    Raises:
        InputError: the table names something that is not there.
    """
    import yaml

    text = table.read_text(encoding="utf-8")
    record = yaml.safe_load(text)
    if not isinstance(record, dict):
        raise InputError(f"{table} must hold the keys methods and data_sets, got no mapping; see its first lines.")
    _check_keys(record, ("options", "data_sets", "methods", "comparisons"), str(table))
    methods = {name: _method(name, entry or {}) for name, entry in record.get("methods", {}).items()}
    sets = record.get("data_sets", {})
    for name in only:
        _check_known(name, methods, "--only")
    for name in [*data_sets, *(name for method in methods.values() for name in method.data_sets or ())]:
        _check_known(name, sets, "data_sets")
    comparisons = tuple((a, b) for a, b in record.get("comparisons", ()))
    for name in {name for pair in comparisons for name in pair}:
        _check_known(name, methods, "comparisons")
    wanted = {name: options or {} for name, options in sets.items() if not data_sets or name in data_sets}
    return Experiment(
        methods={name: method for name, method in methods.items() if not only or name in only},
        data_sets={name: DataSet(name, load_data_set(data, name), options, limit) for name, options in wanted.items()},
        comparisons=tuple(pair for pair in comparisons if not only or set(pair) <= set(only)),
        options=record.get("options") or {},
        runs=runs,
        base=base,
        table_hash=hashlib.sha256(text.encode()).hexdigest(),
    )


def checkpoint_files(name: str | None) -> dict[str, str] | None:
    """SHA-256 (16 digits) of the files of a checkpoint: weights, configuration and training settings; None for a base.

    Raises:
        InputError: it is not there.
    """
    if name is None:
        return None
    folder = find_simulation_checkpoint(name, local_files_only=True)
    if folder is None:
        raise InputError(
            f"`checkpoint` must be a checkpoint of this package, got {name!r}, which is not there; its runs cannot be "
            "made; train it first, or correct the table."
        )
    endings = (".json", ".safetensors", ".bin", ".yaml")
    files = sorted(path for path in folder.iterdir() if path.suffix in endings)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def read_record(folder: Path) -> dict[str, Any] | None:
    """``run.json`` of a run folder; None where there is none."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _method(name: str, entry: Mapping[str, Any]) -> MethodEntry:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", name):
        raise InputError(f"`methods` must have names of letters, digits and . + _ -, got {name!r}; they name folders.")
    _check_keys(entry, _METHOD_KEYS, f"method {name!r}")
    forecaster, roles = entry.get("forecaster"), tuple(entry.get("roles", ROLES))
    if forecaster is not None:
        _check_known(forecaster, FORECASTERS, f"method {name!r}, forecaster")
        if len(entry) > 1 and set(entry) != {"forecaster", "data_sets"}:
            raise InputError(
                f"method {name!r} must be a forecaster or a simulation, got keys of both; split it in two."
            )
    for role in roles:
        _check_known(role, ROLES, f"method {name!r}, roles")
    seeds = tuple(entry.get("seeds", (0,)))
    checkpoint = entry.get("checkpoint")
    if not seeds or len(set(seeds)) < len(seeds) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise InputError(f"`seeds` of method {name!r} must be different whole numbers, got {list(seeds)}.")
    if checkpoint is not None and len(seeds) > 1 and "{seed}" not in checkpoint:
        raise InputError(
            f"`checkpoint` of method {name!r} must hold {{seed}} where there are several training seeds, got "
            f"{checkpoint!r}; one model would pass for {len(seeds)}."
        )
    names = entry.get("data_sets")
    return MethodEntry(
        name=name,
        forecaster=forecaster,
        checkpoint=checkpoint,
        seeds=seeds,
        options=entry.get("options") or {},
        roles=roles,
        data_sets=None if names is None else tuple(names),
    )


def load_data_set(data: Path, name: str) -> list[Event]:
    """The events of one data set of a folder, of all splits."""
    path = data / f"{name}.jsonl.gz"
    if not path.is_file():
        path = data / f"{name}.jsonl"
    return load_event_sets(str(path))[name]


def _check_keys(record: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = sorted(set(record) - set(known))
    if unknown:
        raise InputError(f"{where} must have no keys but {', '.join(known)}, got {', '.join(unknown)}; correct them.")


def _check_known(name: str, known: Any, where: str) -> None:
    if name not in known:
        raise InputError(f"`{where}` must be one of {', '.join(known)}, got {name!r}; correct the name.")
