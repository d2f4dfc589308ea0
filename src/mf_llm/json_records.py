"""JSON files that commands leave behind for one another: their checksums, and errors that name them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import plain
from mf_llm.errors import UNREADABLE, InputError
from mf_llm.events.validation import one_line, show

_DIGITS = 16
_KINDS = {str: "a text", int: "a whole number", dict: "a mapping", list: "a list", bool: "true or false"}


def read_record(path: Path, made_by: str, keys: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Args:
        path: the file.
        made_by: what wrote it, in words.
        keys: keys that it must have -> the type of their values.

    Raises:
        InputError: it cannot be read, holds something else or lacks a key.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        why = getattr(error, "strerror", None) or one_line(error)
        raise _unusable(path, made_by, f"it cannot be read ({why})") from error
    if not isinstance(record, dict):
        raise _unusable(path, made_by, f"it holds {show(record)} and no JSON object")
    for name, kind in (keys or {}).items():
        if name not in record:
            raise _unusable(path, made_by, f"it has no {name!r}")
        if type(record[name]) is not kind:
            raise _unusable(path, made_by, f"its {name!r} is {show(record[name])} and not {_KINDS[kind]}")
    return record


def digest(content: bytes | Mapping[str, Any]) -> str:
    """The first 16 digits of the SHA-256 of a file, or of a record as it stands in a JSON file."""
    if isinstance(content, Mapping):
        content = json.dumps(plain(content), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _unusable(path: Path, made_by: str, why: str) -> InputError:
    return InputError(
        f"{path} must be as {made_by} wrote it, but {why}; nothing was done; put back the file, or make it again in "
        "another folder."
    )
