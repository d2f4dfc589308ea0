"""Flat tables (CSV, and Parquet or data sets with one row per turn): rows with the same event id become one event."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mf_llm.errors import EventError
from mf_llm.events.columns import ColumnMap, Columns
from mf_llm.events.record import Record
from mf_llm.events.validation import path_part, show
from mf_llm.events.values import is_number, plain_mapping

MAX_COLLECTED_CATEGORIES = 100
_INTEGERS = ("parent", "block")
_NUMBERS = ("time", "weight")

Row = Mapping[str, Any]


def read_flat(
    header: list[str],
    rows: Callable[[], Iterable[tuple[int, Row]]],
    columns: Columns | None,
    file: str | Path | None,
) -> Iterator[Record]:
    """One record per run of rows with the same event id; only one event is in memory.

    Args:
        header: the column names.
        rows: starts reading the table: pairs of line (or row) number and column -> value. It is called twice when
            categories have to be collected from the labels, which must be known before the first event is made.
        columns: our names -> column names, categories or constants (see ``docs/event-format.md``).
        file: what errors call the table.

    Raises:
        EventError: a column is missing, an event id is empty or comes back later, event fields differ between rows.
    """
    column_map = ColumnMap.build(header, columns, file)
    categories = _all_categories(column_map, rows, file)
    seen: set[str] = set()
    run: _Run | None = None
    for line, row in rows():
        event_id = _event_id(column_map, row)
        if event_id is None:
            raise EventError("must not be empty in any row", file=file, line=line, field="event_id")
        if run is None or event_id != run.event_id:
            if run is not None:
                finished, run = [run.record()], None  # it does not stay here
                yield finished.pop()
            if event_id in seen:
                raise EventError(
                    f"{show(event_id)} comes back after other events; an event is one run of rows; sort the rows by "
                    "event id and time",
                    file=file,
                    line=line,
                    field="event_id",
                )
            seen.add(event_id)
            run = _Run(column_map, categories, file, line, row)
        run.add(line, row)
    if run is not None:
        yield run.record()


class _Run:
    """The rows of one event. Each becomes a turn when it comes: of a long event the rows are never kept beside it.

    Args:
        column_map, categories, file: of the table.
        line, row: the first row, which says what the event is.
    """

    def __init__(
        self, column_map: ColumnMap, categories: Mapping[str, Any], file: str | Path | None, line: int, row: Row
    ) -> None:
        self.event_id, self._line = _event_id(column_map, row), line
        self._column_map, self._file = column_map, file
        self._fields = {name: _value(name, row[column]) for name, column in column_map.event.items()}
        self._data = {**column_map.constants, **self._fields, "event_id": self.event_id}
        dimensions = _mapping(self._data, "dimensions", file, line)
        for name, column in column_map.dimension_columns.items():
            if row[column] is not None and row[column] != "":
                dimensions[name] = _listed(row[column])
        self._data["dimensions"] = {**dimensions, **categories}
        self._turns: list[dict[str, Any]] = []
        self._lines = array("q")

    def add(self, line: int, row: Row) -> None:
        """Takes in a row of the event, the first one too."""
        for name, column in self._column_map.event.items():
            other = _value(name, row[column])
            if other is not None and other != self._fields[name]:
                raise EventError(
                    f"must be the same in all rows of an event (or empty after the first), got {show(other)} after "
                    f"{show(self._fields[name])}",
                    file=self._file,
                    line=line,
                    field=name,
                )
        self._turns.append(_turn(self._column_map, row, self._file, line))
        self._lines.append(line)

    def record(self) -> Record:
        """The event."""
        return Record(line=self._line, data=self._data | {"turns": self._turns}, turn_lines=self._lines)


def _turn(column_map: ColumnMap, row: Row, file: str | Path | None, line: int) -> dict[str, Any]:
    turn = {name: _value(name, row[column]) for name, column in column_map.turn.items()}
    if column_map.state:
        turn["state"] = {name: _present(row[column]) for name, column in column_map.state.items()}
    if column_map.labels or "labels" in turn:
        labels = {name: _label(row[column]) for name, column in column_map.labels.items()}
        turn["labels"] = {**_mapping(turn, "labels", file, line), **labels}
    turn.update({name: _present(row[column]) for column, name in column_map.extra.items()})
    return turn


def _mapping(data: Mapping[str, Any], name: str, file: str | Path | None, line: int) -> dict[str, Any]:
    """The mapping that a single column `labels` or `dimensions` holds (a struct in Parquet), or an empty one."""
    value = plain_mapping(data.get(name))
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    raise EventError(
        f"must be one column per dimension, `{name}.NAME`, got a column {name!r} that holds {show(value)}; rename it, "
        f'or set it aside by `columns={{"{name}": None}}`',
        file=file,
        line=line,
        field=name,
    )


def _event_id(column_map: ColumnMap, row: Row) -> Any:
    if "event_id" in column_map.constants:
        return column_map.constants["event_id"]
    return _value("event_id", row[column_map.event["event_id"]])


def _present(value: Any) -> Any:
    return None if value == "" else value


def _value(name: str, value: Any) -> Any:
    """The value of a cell; a cell is text in CSV. What is no number stays text, and validation says so."""
    if value is None or value == "":
        return None
    if name in _INTEGERS or name in _NUMBERS:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return value.strip()
        # Tables turn whole numbers with gaps into floats.
        whole = name in _INTEGERS and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value
    if name in ("state", "labels", "dimensions", "action", "topic"):
        return value
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if is_number(value) or isinstance(value, bool) else value


def _label(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if is_number(value) or isinstance(value, bool) else value


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split("|")] if isinstance(value, str) else value


def _all_categories(
    column_map: ColumnMap, rows: Callable[[], Iterable[tuple[int, Row]]], file: str | Path | None
) -> dict[str, list[str]]:
    """Categories that hold for every event: given ones, else the sorted labels of the whole table."""
    categories = {name: list(given) for name, given in column_map.categories.items()}
    in_rows = {"dimensions"} & set(column_map.event)
    missing = [
        name for name in column_map.labels if name not in categories and name not in column_map.dimension_columns
    ]
    if in_rows or not missing:
        return categories
    found: dict[str, set[str]] = {name: set() for name in missing}
    for line, row in rows():
        for name in missing:
            label = _label(row[column_map.labels[name]])
            if label is None:
                continue
            found[name].add(label)
            if len(found[name]) > MAX_COLLECTED_CATEGORIES:
                raise EventError(
                    f"has more than {MAX_COLLECTED_CATEGORIES} different labels; is it the right column? If so, give "
                    f'the categories by `columns={{"dimensions.{path_part(name)}": [...]}}`',
                    file=file,
                    line=line,
                    field=f"labels.{path_part(name)}",
                )
    for name, labels in found.items():
        if len(labels) == 1:
            raise EventError(
                f"has one label only ({show(next(iter(labels)))}); a dimension needs at least 2 categories; give them "
                f'by `columns={{"dimensions.{path_part(name)}": [...]}}`',
                file=file,
                line=1,
                field=f"labels.{path_part(name)}",
            )
        if labels:
            categories[name] = sorted(labels)
    return categories
