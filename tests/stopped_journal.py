"""A journal that stops its run behind a line, as a kill between two writes does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mf_llm.simulation.journal import Journal


class Crash(Exception):
    """Nothing of the package raises or catches it."""


def stop_journal(
    patch: pytest.MonkeyPatch, lines: int, error: type[BaseException] = Crash, *, in_the_middle: bool = False
) -> None:
    """Makes journals raise `error` once `lines` lines are written (the first is the header), or inside the next."""
    append, written = Journal._append, []

    def stopping(self: Journal, record: dict[str, Any]) -> None:
        if len(written) == lines:
            if in_the_middle:
                line = json.dumps(record, ensure_ascii=False).encode()
                self._file.write(line[: len(line) // 2])
                self._file.flush()
            raise error
        append(self, record)
        written.append(record)

    patch.setattr(Journal, "_append", stopping)
