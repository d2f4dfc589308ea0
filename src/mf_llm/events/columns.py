"""Which column of a flat table (one row per turn) holds which field of the event format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mf_llm.errors import EventError, InputError
from mf_llm.events.validation import EVENT_FIELDS, TURN_FIELDS, path_part, show

_EVENT_COLUMNS = tuple(name for name in EVENT_FIELDS if name not in ("turns", "dimensions"))
_PLAIN_COLUMNS = (*_EVENT_COLUMNS, *TURN_FIELDS, "dimensions")
_PREFIXES = ("state.", "labels.", "dimensions.")

Columns = Mapping[str, Any]


def check_columns(columns: Columns | None) -> None:
    """Raises an `InputError` for a `columns` argument that cannot mean anything, before any file is opened."""
    if columns is None:
        return
    if not isinstance(columns, Mapping):
        raise InputError(f"`columns` must map our names to column names of the file, got {show(columns)}")
    for name, target in columns.items():
        if not isinstance(name, str) or (
            name not in _PLAIN_COLUMNS and not any(name.startswith(p) and name != p for p in _PREFIXES)
        ):
            raise InputError(
                f"`columns` must use names of the event format ({', '.join(_PLAIN_COLUMNS)}, state.NAME, labels.NAME, "
                f"dimensions.NAME), got {show(name)}; columns that are not named are kept in `extra`"
            )
        if name.startswith("dimensions.") and isinstance(target, list | tuple):
            continue
        constant = isinstance(target, Mapping) and set(target) == {"value"} and name in _EVENT_COLUMNS
        if not (constant or target is None or (isinstance(target, str) and target)):
            kinds = "a column name, None (do not use the column)"
            kinds += ', {"value": ...} for an event field' if name in _EVENT_COLUMNS else ""
            kinds += ", a list of categories" if name.startswith("dimensions.") else ""
            raise InputError(f"`columns[{name!r}]` must be {kinds}, got {show(target)}")


@dataclass
class ColumnMap:
    """The fields of a flat table: our name -> column name, split by where the value goes.

    `categories` holds what is fixed for all events; a dimension without an entry there has its categories in the
    column `dimension_columns[name]`, or they are collected from the labels.
    """

    event: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    turn: dict[str, str] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    categories: dict[str, Sequence[str]] = field(default_factory=dict)
    dimension_columns: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)

    @classmethod
    def build(cls, header: Sequence[str], columns: Columns | None, file: str | Path | None) -> ColumnMap:
        """The map for a table with these column names.

        Columns that already have our names are found without being named in `columns`; all others become `extra`.

        Raises:
            EventError: a column is missing or stands twice.
        """
        repeated = next((name for position, name in enumerate(header) if name in header[:position]), None)
        if repeated is not None:
            raise EventError(f"the column {show(repeated)} must stand once, but stands twice", file=file, line=1)
        columns = columns or {}
        result = cls()
        for name, target in columns.items():
            if isinstance(target, str):
                if target not in header:
                    raise EventError(
                        f"the column {show(target)} given by `columns` is missing; the file has "
                        f"{', '.join(map(path_part, header[:20]))}",
                        file=file,
                        line=1,
                        field=name,
                    )
                result._place(name, target)
            elif isinstance(target, Mapping):
                result.constants[name] = target["value"]
            elif target is not None:
                result.categories[name.removeprefix("dimensions.")] = tuple(target)
        used = {target for target in columns.values() if isinstance(target, str)}
        for position, column in enumerate(header):
            known = column in _PLAIN_COLUMNS or any(column.startswith(p) and column != p for p in _PREFIXES)
            if column in used:
                continue
            if known and column not in columns:
                result._place(column, column)
            else:
                # A column of our name that `columns` set aside cannot keep the name of the field it is not.
                result.extra[column] = f"source.{column}" if known else column or f"column {position + 1}"
        for name in ("event_id", "topic"):
            if name not in result.event and name not in result.constants:
                raise EventError(
                    f'the column is missing; name it by `columns={{"{name}": "<column>"}}`, or give one value for all '
                    f'rows by `columns={{"{name}": {{"value": "<text>"}}}}`',
                    file=file,
                    line=1,
                    field=name,
                )
        if "state" in result.turn and result.state:
            raise EventError(
                "must be one column of text or several `state.NAME` columns, got both; set one aside by "
                '`columns={"state": None}`',
                file=file,
                line=1,
                field="state",
            )
        return result

    def _place(self, name: str, column: str) -> None:
        if name.startswith("state."):
            self.state[name.removeprefix("state.")] = column
        elif name.startswith("labels."):
            self.labels[name.removeprefix("labels.")] = column
        elif name.startswith("dimensions."):
            self.dimension_columns[name.removeprefix("dimensions.")] = column
        elif name in _EVENT_COLUMNS or name == "dimensions":
            self.event[name] = column
        else:
            self.turn[name] = column
