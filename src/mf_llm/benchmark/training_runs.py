"""`TrainingRuns`: how the checkpoints of the tuned methods are trained, each for several seeds."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.argument_checks import check_mapping, check_whole
from mf_llm.atomic_files import write_json
from mf_llm.benchmark.job import checkpoint_hashes
from mf_llm.benchmark.method_entry import check_keys, check_known
from mf_llm.errors import InputError
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.events import Event
from mf_llm.events.validation import one_line, show
from mf_llm.folder_lock import only_writer
from mf_llm.json_records import read_record
from mf_llm.models.checkpoints import ADAPTER_WEIGHTS_FILE
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.journal import check_same_run
from mf_llm.yaml_files import read_yaml

if TYPE_CHECKING:
    from datasets import Dataset

    from mf_llm.training import IBTuneTrainer, PolicySFTTrainer

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
RECORD, FINISHED = "run.json", "trained.json"


@dataclass(frozen=True, eq=False)
class TrainingRuns:
    """The runs of a table and their folders; a run that was interrupted goes on where it stopped.

    Test events, the judged waves of a survey among them, are not looked at.

    Attributes:
        table: as ``mf_llm/data/benchmark_training.yaml``, where the format is explained.
        event_sets: data set -> its events.
        folder: of all checkpoints; a run has ``FOLDER/RUN-seedN``.
        model: backbone of both roles.
        dtype: of the frozen weights.
    """

    table: Mapping[str, Any]
    event_sets: Mapping[str, Sequence[Event]]
    folder: Path
    model: str = DEFAULT_BACKBONE
    dtype: str = "auto"

    def folder_of(self, name: str, seed: int) -> Path:
        """Where a run's checkpoint is."""
        return self.folder / f"{name}-seed{seed}"

    def finished(self, name: str, seed: int) -> dict[str, Any] | None:
        """What a finished run says of itself; None as long as it is not finished."""
        return finished_record(self.folder_of(name, seed))

    def with_needed(self, names: Sequence[str]) -> list[str]:
        """The runs, each behind those it starts from or takes its budget from.

        Raises:
            InputError: the table has no such run.
        """
        found: list[str] = []
        for name in names:
            if name not in self.table["runs"]:
                raise InputError(f"`names` must be runs out of {', '.join(self.table['runs'])}, got {name!r}.")
            needed = [self.table["runs"][name].get(key) for key in ("start", "budget")]
            found += [one for one in self.with_needed([one for one in needed if one]) if one not in found]
            found += [name] if name not in found else []
        return found

    def train(self, name: str, seed: int) -> None:
        """Trains one run, or goes on with it.

        Raises:
            InputError: a run it needs is not finished, a data set is missing, or the folder holds another run.
        """
        from mf_llm.benchmark.trainers import ib_tune_trainer, sft_trainer
        from mf_llm.training.last_checkpoint import last_checkpoint

        folder, run = self.folder_of(name, seed), self.table["runs"][name]
        start = self._needed(name, "start", seed)
        budget = self._needed(name, "budget", seed)
        transitions = self.transitions(name, seed)
        record: dict[str, Any] = {
            "run": name,
            "seed": seed,
            "settings": {key: self.table[key] for key in ("common", "adapters")} | {"run": run},
            "data_sets": self._settings(name),
            "transitions": len(transitions),
            "transitions_version": _transitions_version(),
            "start": self._weights(run["start"], seed) if start else None,
            "budget_tokens": budget["policy_tokens"] if budget else None,
            "model": self.model if not Path(self.model).is_dir() else Path(self.model).name,
        }
        with only_writer(folder):
            found = _read(folder / RECORD)
            if found is not None:
                check_same_run(record, found, folder)
            else:
                write_json(folder / RECORD, record)
            self._copy_signals(name, seed)
            began = time.perf_counter()
            trainer: IBTuneTrainer | PolicySFTTrainer
            if run.get("sft"):
                trainer = sft_trainer(self, name, seed, transitions, record["budget_tokens"])
            else:
                trainer = ib_tune_trainer(self, name, seed, transitions)
            last = last_checkpoint(folder)
            trainer.train(resume_from_checkpoint=last)
            trainer.save_model(str(folder))
            if not trainer.is_world_process_zero():
                return
            finished = {
                "policy_tokens": int(trainer.state.num_input_tokens_seen),
                "steps": trainer.state.global_step,
                "seconds": round(time.perf_counter() - began),
                "resumed": last is not None,
                "log": trainer.state.log_history,
                "data_hash": {one: data_hash(self.event_sets[one]) for one in self._settings(name)},
                "versions": versions(PACKAGES),
            }
            write_json(folder / FINISHED, record | finished)

    def transitions(self, name: str, seed: int) -> Dataset:
        """The transitions of a run, of its data sets together.

        Raises:
            InputError: a data set is missing.
        """
        from datasets import concatenate_datasets

        from mf_llm.training.transition_settings import TransitionSettings
        from mf_llm.training.transitions import build_transitions

        settings, run = self._settings(name), self.table["runs"][name]
        missing = [one for one in settings if one not in self.event_sets]
        if missing:
            raise InputError(
                f"`event_sets` must hold the data sets that {name!r} is trained on, got none named {missing[0]!r}; "
                "give a folder with all of them, or a table with fewer."
            )
        parts = [
            build_transitions({one: self.event_sets[one]}, TransitionSettings(**options, seed=seed))
            for one, options in settings.items()
        ]
        rows = concatenate_datasets(parts)
        at_most = run.get("max_transitions", len(rows))
        return rows if at_most >= len(rows) else _evenly(rows, at_most, seed)

    def settings_of(self, name: str) -> Any:
        """`TransitionSettings` of the first data set: how an action is asked for is alike in all of them."""
        from mf_llm.training.transition_settings import TransitionSettings

        return TransitionSettings(**next(iter(self._settings(name).values())))

    def _settings(self, name: str) -> dict[str, dict[str, Any]]:
        known, run = self.table["data_sets"], self.table["runs"][name]
        wanted = run.get("data_sets") or {one: {} for one in known}
        own = run.get("transitions") or {}
        return {one: {**known[one], **own, **(changes or {})} for one, changes in wanted.items()}

    def _needed(self, name: str, key: str, seed: int) -> dict[str, Any] | None:
        other = self.table["runs"][name].get(key)
        found = self.finished(other, seed) if other else None
        if other and found is None:
            raise InputError(f"`{key}` of {name!r} must be trained first, got no {other!r} of seed {seed}; train it.")
        return found

    def _weights(self, name: str, seed: int) -> str:
        return (checkpoint_hashes(str(self.folder_of(name, seed))) or {})[ADAPTER_WEIGHTS_FILE]

    def _copy_signals(self, name: str, seed: int) -> None:
        """Takes over the signals of a run with the same frozen mean field; the trainer uses those that are alike."""
        from mf_llm.training.signal_file import SIGNALS_FILE

        file, start = SIGNALS_FILE.format(process=0), self.table["runs"][name].get("start")
        own = self.folder_of(name, seed) / file
        for other, run in self.table["runs"].items():
            found = self.folder_of(other, seed) / file
            if start and run.get("start") == start and found.exists() and not own.exists():
                shutil.copyfile(found, own)


def _evenly(rows: Dataset, count: int, seed: int) -> Dataset:
    """So many rows, by turns of each data set as long as it has some left: results are means over data sets, too."""
    rows = rows.shuffle(seed=seed)
    turns: Counter[str] = Counter()
    order = []
    for index, data_set in enumerate(rows["data_set"]):
        order.append((turns[data_set], index))
        turns[data_set] += 1
    chosen = [index for _, index in sorted(order)[:count]]
    return rows.select(chosen).shuffle(seed=seed)


def finished_record(folder: Path) -> dict[str, Any] | None:
    """What a training run that was finished in a folder says of itself; None if there is none."""
    return _read(folder / FINISHED)


def load_training_table(path: Path | None = None) -> dict[str, Any]:
    """Reads a table of training runs; that of the package by default.

    Raises:
        InputError: it cannot be read, or no run could be trained with what it says.
    """
    place = path or resources.files("mf_llm") / "data" / "benchmark_training.yaml"
    table = read_yaml(place, "table")
    try:
        table = {key: check_mapping(table[key], f"`{key}`") for key in ("common", "adapters", "data_sets", "runs")}
        _check_table(table)
        return table
    except (KeyError, TypeError, InputError) as error:
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"{place} must be a table of training runs with common, adapters, data_sets and runs, got {why}; nothing "
            "can be trained; see mf_llm/data/benchmark_training.yaml."
        ) from error


def _check_table(table: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses what no run could be trained with, before the first of them has taken hours."""
    known, runs = table["data_sets"], table["runs"]
    for name in known:
        _check_settings(table, {}, name, f"`data_sets`, {name!r}")
    check_keys(table["adapters"], ("r", "alpha", "dropout", "layers"), "`adapters`")
    if not runs:
        raise InputError("`runs` must have at least one run, got none.")
    for name, run in runs.items():
        if not check_mapping(run, f"run {name!r}"):
            raise InputError(f"run {name!r} must say what is trained, got nothing.")
        for key in ("start", "budget"):
            if run.get(key) is not None:
                check_known(run[key], runs, f"{key} of run {name!r}")
        if not isinstance(run.get("sft", False), bool):
            raise InputError(f"`sft` of run {name!r} must be true or false, got {show(run['sft'])}.")
        if run.get("sft") and run.get("budget") is None:
            raise InputError(f"`budget` of run {name!r} must be the run whose tokens it gets, got none.")
        if "max_transitions" in run:
            check_whole(f"max_transitions of run {name!r}", run["max_transitions"])
        of_all = check_mapping(run.get("transitions"), f"`transitions` of run {name!r}")
        changes = check_mapping(run.get("data_sets"), f"`data_sets` of run {name!r}") or dict.fromkeys(known)
        for one, own in changes.items():
            check_known(one, known, f"data_sets of run {name!r}")
            where = f"run {name!r}, {one!r}"
            _check_settings(table, {**of_all, **check_mapping(own, where)}, one, where)
    for name in runs:
        _check_order(runs, name, ())


def _check_settings(table: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any], name: str, where: str) -> None:
    from mf_llm.training.transition_settings import TransitionSettings

    settings = {**check_mapping(table["data_sets"][name], where), **own}
    check_keys(settings, [f.name for f in fields(TransitionSettings) if f.name != "seed"], where)
    try:
        TransitionSettings(**settings)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_order(runs: Mapping[str, Mapping[str, Any]], name: str, before: tuple[str, ...]) -> None:
    """Refuses runs that wait for one another."""
    if name in before:
        raise InputError(f"run {name!r} must not need itself, but does so through {' and '.join(before)}.")
    for key in ("start", "budget"):
        if runs[name].get(key) in runs:
            _check_order(runs, runs[name][key], (*before, name))


def _transitions_version() -> int:
    from mf_llm.training.transitions import TRANSITIONS_VERSION

    return TRANSITIONS_VERSION


def _read(path: Path) -> dict[str, Any] | None:
    return read_record(path, "the training") if path.is_file() else None
