"""Parquet files: one event per row with nested turns, or one row per turn; read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import starmap
from pathlib import Path
from typing import Any

from mf_llm.errors import EventError
from mf_llm.events.columns import Columns
from mf_llm.events.flat_table import read_flat
from mf_llm.events.record import Record
from mf_llm.events.validation import one_line

_ROWS_AT_ONCE = 1024


def read_parquet(path: Path, columns: Columns | None) -> Iterator[Record]:
    """One record per event.

    A file with a column `turns` holds one event per row; any other holds one row per turn. Rows are decoded one event
    (or 1,024 turns) at a time, whatever the size of the row groups.

    Raises:
        EventError: the file cannot be read, or `columns` was given for nested turns.
    """
    names = _header(path)
    if "turns" in names:
        reject_columns(columns, path)
        return starmap(lambda number, row: Record(line=number, data=row), _rows(path, 1))
    return read_flat(names, lambda: _rows(path, _ROWS_AT_ONCE), columns, path)


def reject_columns(columns: Columns | None, file: str | Path | None) -> None:
    """Raises an `EventError` if `columns` was given for a source whose events are nested."""
    if columns:
        raise EventError(
            "`columns` must be left out for events with nested turns; it names the columns of one row per turn",
            file=file,
        )


def _header(path: Path) -> list[str]:
    import pyarrow.parquet

    with _errors_of(path), pyarrow.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def _rows(path: Path, batch_size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet

    number = 0
    with _errors_of(path), pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=batch_size):
            rows = batch.to_pylist()[::-1]
            del batch
            while rows:
                number += 1
                yield number, rows.pop()  # a row may be a whole event: it does not stay here


class _errors_of:
    """Turns what pyarrow and the system raise into an `EventError` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | OSError | UnicodeDecodeError):
            raise EventError(f"is not a Parquet file that can be read: {one_line(error)}", file=self.path) from None
