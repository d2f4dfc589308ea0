"""What every result carries: versions, data hash, protocol; and files written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mf_llm
from mf_llm.events.event import Event

_PACKAGES = ("numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages the numbers come from."""
    found = {"mf_llm": mf_llm.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def data_hash(events: Iterable[Event]) -> str:
    """SHA-256 over the sorted content hashes of the events: the same for the same events in any order."""
    hashes = sorted(event.content_hash() for event in events)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place and moves it there: a crash never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes strict JSON: what is not a number becomes null."""
    write_text(path, json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows with exactly these columns; None and nan become empty, numbers get 6 significant digits."""
    from io import StringIO

    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    write_text(path, buffer.getvalue())


def plain(value: Any) -> Any:
    """Numbers, lists and dicts of Python out of those of numpy; nan and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _cell(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value
