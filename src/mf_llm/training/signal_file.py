"""Signals on disk, so that a training run that goes on need not draw them again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from mf_llm.training.signal_sampler import DrawnSignals

# In the output folder of a run; one file per process.
SIGNALS_FILE = "signals-{process}.jsonl"


class SignalFile:
    """Signals by the hash of all they depend on, one JSON line each; lines of other runs stay and are not used.

    Signals summarise what people wrote: the file belongs to the run folder and into no repository. A line that a crash
    cut short is left out.

    Args:
        path: the file; made with the first signal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, DrawnSignals]:
        """All signals that are there, by key."""
        found: dict[str, DrawnSignals] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                record = json.loads(line)
                key = record.pop("key")
                found[key] = DrawnSignals(**record)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # what cannot be read is drawn again
        return found

    def append(self, signals: Mapping[str, DrawnSignals]) -> None:
        """Adds signals and waits until they are on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"key": key, **asdict(one)}, separators=(",", ":")) for key, one in signals.items()]
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends_whole():
                lines = ["", *lines]
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def _ends_whole(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
