"""``answers.jsonl``: each answer of a server is on disk as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from mf_llm.atomic_files import writing
from mf_llm.endpoints.chat import Answer
from mf_llm.errors import InputError

ANSWERS = "answers.jsonl"


class AnswerLog:
    """Answers beside the journal of a rollout, one a line, in the order in which they came.

    A line says which step and person it is about (no person: the signal behind the step), what for, and a hash of the
    question. A run that goes on takes from here what an unfinished step knows already, and asks for the rest; failures
    are asked for again. A line that a crash cut short is dropped.

    Args:
        folder: of the rollout, or None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = folder / ANSWERS if folder is not None else None
        self._known: dict[tuple[int, str], Answer] | None = None
        self._file: IO[bytes] | None = None

    def known(self, step: int, key: str) -> Answer | None:
        """What was answered to this question of the step in an earlier run, if anything."""
        if self._known is None:
            found = _read(self.path) if self.path is not None and self.path.exists() else ()
            # The first step that is asked about is the one that was not finished; those before it are in the journal.
            self._known = {
                (line["step"], line["key"]): _answer(line)
                for line in found
                if line["step"] >= step and line["failure"] is None
            }
        return self._known.get((step, key))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Answers can be added while this lasts."""
        if self.path is None:
            yield
            return
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            self._file.truncate(_whole_lines(self._file))
        try:
            yield
        finally:
            with suppress(OSError):  # what is left of a line that could not be written
                self._file.close()
            self._file = None

    def add(self, *, step: int, turn: int | None, purpose: str, key: str, answer: Answer) -> None:
        """Writes one answer; it survives the end of this process, though not that of the machine."""
        if self._file is None or self.path is None:
            return
        line = {"step": step, "turn": turn, "purpose": purpose, "key": key} | asdict(answer)
        with writing(self.path):
            self._file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
            self._file.flush()


def logged_answers(output: Path) -> Iterator[Answer]:
    """All answers of the rollouts in a run folder."""
    for path in (output / ANSWERS, *sorted(output.glob(f"rollouts/*/{ANSWERS}"))):
        if path.exists():
            yield from map(_answer, _read(path))


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                _answer(record), record["step"] + 0, record["key"]
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"{path}, line {number + 1}: is not an answer ({error}); the run cannot be resumed with it; move "
                    "the file away: its answers will be asked for again."
                ) from error
            yield record


def _answer(record: dict[str, Any]) -> Answer:
    names = ("value", "failure", "requests", "faults", "prompt_tokens", "new_tokens")
    return Answer(**{name: record[name] for name in names})


def _whole_lines(file: IO[bytes]) -> int:
    """Bytes up to the end of the last whole line."""
    size = file.seek(0, 2)
    while size:
        start = max(0, size - 65536)
        file.seek(start)
        found = file.read(size - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0
