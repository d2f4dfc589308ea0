"""The journal of a run: each finished step is on disk before the next begins."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from mf_llm.argument_checks import check_types
from mf_llm.atomic_files import plain, writing
from mf_llm.errors import UNREADABLE, InputError
from mf_llm.events.validation import one_line
from mf_llm.folder_lock import lock
from mf_llm.json_records import digest
from mf_llm.simulation.rollout import JOURNAL, ActionRow, StepRow
from mf_llm.simulation.rollout_validation import check_action, check_step
from mf_llm.simulation.simulation_config import SimulationConfig


@dataclass(frozen=True, kw_only=True)
class FinishedStep:
    """What one step leaves behind.

    Attributes:
        step: its row.
        actions: its action rows.
        signal: what the mean-field model wrote after it (for the next step), or None.
        signal_failure: why there is none.
        seconds: how long it took (never part of a rollout: it differs between equal runs).
    """

    step: StepRow
    actions: tuple[ActionRow, ...]
    signal: str | None
    signal_failure: str | None
    seconds: float = 0.0


class Journal:
    """Appends finished steps to ``journal.jsonl`` and reads them back after a crash.

    The first line says what is being made; a run with other settings may not go on with it. A line that a crash cut
    short is dropped.

    Args:
        folder: where the rollout will be saved.
        header: what is being made (the rollout's metadata).
        resume: go on with what is there; without it an existing journal or rollout is an error.

    Raises:
        InputError: if something is there and `resume` is False, what is there was made with other settings, or
            another process is writing it.
        OSError: the disk is full.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], *, resume: bool) -> None:
        self.folder, self.path = folder, folder / JOURNAL
        self.finished: list[FinishedStep] = []
        self._header = plain(header)
        self._file: IO[bytes] | None = None
        if not resume and (self.path.exists() or (folder / "rollout.json").exists()):
            raise InputError(
                f"`output` must be a new folder, but {folder} holds a rollout already; nothing was overwritten; use "
                "--resume (resume=True) to go on with it, or name another folder."
            )
        with writing(self.path):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
            except (PermissionError, FileExistsError, NotADirectoryError) as error:
                raise InputError(
                    f"`output` must be a folder that can be written, got {folder} ({error.strerror or error}); its "
                    "event was not simulated; name another folder."
                ) from error
        try:
            lock(self._file.fileno(), self.path)
            length = self._read()
            if self._file.tell() > length:
                self._file.truncate(length)
            if length == 0:
                self._append(self._header)
        except BaseException:
            self.close()
            raise

    def append(self, finished: FinishedStep) -> None:
        """Writes one finished step and waits until it is on the disk."""
        record = {
            "step": asdict(finished.step),
            "actions": [list(asdict(row).values()) for row in finished.actions],
            "signal": finished.signal,
            "signal_failure": finished.signal_failure,
            "seconds": round(finished.seconds, 3),
        }
        self._append(record | {"sha256": digest(record)})

    def close(self, *, remove: bool = False) -> None:
        """Closes the file; removes it once the rollout itself is saved."""
        if self._file is not None:
            with suppress(OSError):  # what is left of a line that could not be written
                self._file.close()
            self._file = None
        if remove:
            self.path.unlink(missing_ok=True)

    @staticmethod
    def discard(folder: Path) -> None:
        """Removes the journal of a rollout that is saved (a crash between the two leaves it behind)."""
        path = folder / JOURNAL
        if path.exists():  # where nothing may be written, removing nothing is an error too
            path.unlink(missing_ok=True)

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError("The journal is closed.")
        try:
            with writing(self.path):
                self._file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError:
            self.close()
            raise

    def _read(self) -> int:
        """Reads whole lines; returns how many bytes they are."""
        length = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise TypeError("no JSON object")
                    if number == 0:
                        check_same_run(self._header, record, self.folder)
                    else:
                        self.finished.append(_finished(record, number - 1, self._header.get("categories", ())))
                except (InputError, *UNREADABLE) as error:
                    if number == 0 and isinstance(error, InputError):
                        raise
                    raise InputError(
                        f"{self.path}, line {number + 1}: is not a line of a journal ({one_line(error)}); the run "
                        "cannot be resumed; move the folder away and start anew."
                    ) from error
                length += len(line)
        return length


def check_same_run(header: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    """Refuses to mix two runs.

    Raises:
        InputError: naming the first setting that differs.
    """
    found = {key: value for key, value in found.items() if key != "n_failed"}
    if isinstance(found.get("config"), dict):
        # A field that was added since then was as it is by default.
        found["config"] = SimulationConfig().to_dict() | found["config"]
    differing = _difference(dict(header), found)
    if differing is not None:
        key, ours, theirs = differing
        raise InputError(
            f"`resume` must go on with the same run, but {folder} was made with {key} = {theirs!r} and now it is "
            f"{ours!r}; mixing them would give a rollout that nobody could repeat; use the same settings or another "
            "folder."
        )


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first key that differs, as a path, and its two values; what the user set before what follows from it."""
    follows = ("resolved", "event_hash", "categories")
    for key in sorted(set(ours) | set(theirs), key=lambda key: (key != "config", key in follows, key)):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            inner = _difference(a, b)
            if inner is not None:
                return f"{key}.{inner[0]}", *inner[1:]
        elif a != b:
            return key, a, b
    return None


def _finished(record: dict[str, Any], number: int, categories: Sequence[str]) -> FinishedStep:
    if record.pop("sha256", None) not in (None, digest(record)):  # older lines have none
        raise ValueError("it was changed after it was written")
    finished = FinishedStep(
        step=StepRow(**_tuples(record["step"])),
        actions=tuple(map(_action, record["actions"])),
        signal=record["signal"],
        signal_failure=record["signal_failure"],
        seconds=record["seconds"],
    )
    check_types(finished)
    check_step(finished.step, len(categories))
    for row in finished.actions:
        check_action(row, categories)
    if {finished.step.step, *(row.step for row in finished.actions)} != {number}:
        raise ValueError(f"it must be step {number}, got another")
    return finished


def _action(values: Sequence[Any]) -> ActionRow:
    names = [f.name for f in fields(ActionRow)]
    if len(values) > len(names):
        raise ValueError(f"an action of {len(values)} fields")
    # A field that was added since the line was written has its default.
    return ActionRow(**_tuples(dict(zip(names, values, strict=False))))


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
