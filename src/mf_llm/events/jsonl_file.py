"""JSONL files of events, plain or gzipped: one JSON object a line, read line by line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mf_llm.errors import EventError
from mf_llm.events.record import Record
from mf_llm.events.validation import path_part


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text file, gzipped if its name ends in ``.gz``, with their 1-based numbers.

    Raises:
        EventError: with file and line where the file cannot be read, unpacked or decoded.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for raw in file:
                number += 1
                line = [raw.decode("utf-8-sig" if number == 1 else "utf-8")]
                del raw  # of a line as long as an event, nothing stays here while others work on it
                yield number, line.pop()
    except UnicodeDecodeError as error:
        raise EventError(
            f"must be UTF-8, got byte 0x{error.object[error.start]:02x} at position {error.start + 1} of the line; "
            "save the file as UTF-8",
            file=path,
            line=number,
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = "ends too early" if isinstance(error, EOFError) else "is broken or no gzip file"
        raise EventError(f"the compressed file {reason}; copy or pack it again", file=path, line=number + 1) from None
    except OSError as error:
        raise EventError(f"cannot be read: {error.strerror or error}", file=path) from None


def read_jsonl(path: Path) -> Iterator[Record]:
    """One record per line that is not blank; a line is forgotten when it is read, a record when it is handed out."""

    def record(numbered: tuple[int, str]) -> Record | None:
        number, line = numbered
        return Record(line=number, data=_parse(line, path, number)) if line and not line.isspace() else None

    return filter(None, map(record, read_lines(path)))


class _RepeatedKey(dict):
    """An object in which a key stood twice; found again in the parsed tree to tell where it was."""

    key = ""


def _parse(line: str, path: Path, number: int) -> Any:
    repeated = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            found = _RepeatedKey(found)
            found.key = next(name for name in names if names.count(name) > 1)
            repeated.append(found)
        return found

    try:
        data = json.loads(line, object_pairs_hook=build)
    except json.JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise EventError(
            f"is not valid JSON: {reason}; write one complete JSON object per line",
            file=path,
            line=number,
        ) from None
    except RecursionError:
        raise EventError("is nested too deeply to be an event", file=path, line=number) from None
    except ValueError:  # Python does not read integers of more than 4,300 digits
        raise EventError("holds a number of thousands of digits; shorten it", file=path, line=number) from None
    if repeated:
        raise EventError(
            "must stand once in an object, but stands there again; only one value could be kept; remove the other",
            file=path,
            line=number,
            field=_path_to(data, repeated[0]) + path_part(repeated[0].key),
        )
    return data


def _path_to(data: Any, target: dict[str, Any], path: str = "") -> str:
    """The field path of the object `target` inside `data`, ready to have a key appended."""
    pending = [(path, data)]
    while pending:
        path, value = pending.pop()
        if value is target:
            return f"{path}." if path else ""
        if isinstance(value, dict):
            pending.extend((f"{path}.{path_part(k)}" if path else path_part(k), item) for k, item in value.items())
        elif isinstance(value, list):
            pending.extend((f"{path}[{position}]", item) for position, item in enumerate(value))
    return ""
