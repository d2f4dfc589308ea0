"""`BrokenFile`: one kind of broken event file, and the builders of its content.

Every case writes its file into a folder and says what the error must name: the line (or row), the field and a part of
the message. The file itself must always be named.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Write = Callable[[Path], None]

GOOD_EVENT: dict[str, Any] = {
    "event_id": "good",
    "topic": "The council wants to close the bridge.",
    "dimensions": {"stance": ["for", "against"]},
    "turns": [
        {"time": 10, "state": {"age": 40}, "action": "No way.", "labels": {"stance": "against"}},
        {"time": 20, "state": {"age": 31}, "action": "Finally!", "labels": {"stance": "for"}},
        {"time": 30, "state": "a nurse", "action": "Why?", "labels": {}, "parent": 0},
    ],
}

GOOD_LINE = json.dumps(GOOD_EVENT)


@dataclass(frozen=True)
class BrokenFile:
    """One kind of broken source.

    Attributes:
        name: what is broken; the id of the test.
        write: puts the file (or folder, or nothing) at the path it is given.
        says: a part of the message.
        line: the line or row that must be named, or None.
        field: the field path that must be named, or None.
        file: the name of the file.
    """

    name: str
    write: Write
    says: str
    line: int | None = None
    field: str | None = None
    file: str = "events.jsonl"

    def place(self, folder: Path) -> Path:
        """Writes the case into `folder` and returns what to give to `load_events`."""
        path = folder / self.file
        self.write(path)
        return path


def text(content: str | bytes) -> Write:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def second_line(content: str | bytes) -> Write:
    """A good event on line 1, `content` on line 2."""
    raw = content if isinstance(content, bytes) else content.encode()
    return text(json.dumps(GOOD_EVENT).encode() + b"\n" + raw + b"\n")


def event(change: Callable[[dict[str, Any]], Any]) -> Write:
    """A good event on line 1, and on line 2 another one after `change`."""
    broken = copy.deepcopy(GOOD_EVENT) | {"event_id": "broken"}
    change(broken)
    return second_line(json.dumps(broken))


def put(path: str, value: Any) -> Write:
    """A good event on line 1; on line 2 one whose field at `path` ("turns.1.time") holds `value`."""

    def change(broken: dict[str, Any]) -> None:
        target: Any = broken
        *parents, last = path.split(".")
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value

    return event(change)


def case(name: str, path: str, value: Any, says: str, field: str | None = None) -> BrokenFile:
    """A wrong value in one field; the error must name line 2 and the field."""
    if field is None:
        parts = path.split(".")
        field = parts[0] + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts[1:])
    return BrokenFile(name, put(path, value), says, line=2, field=field)


def drop(name: str) -> Write:
    return event(lambda broken: broken.pop(name))


def raw_parquet(rows: list[dict[str, Any]]) -> Write:
    def write(path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    return write


def cut(write: Write, keep: float) -> Write:
    """The first part of what `write` writes."""

    def write_cut(path: Path) -> None:
        write(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return write_cut
