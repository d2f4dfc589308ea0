"""CSV files of turns: comma separated, a header, one row per turn, read row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mf_llm.errors import EventError
from mf_llm.events.columns import Columns
from mf_llm.events.flat_table import read_flat
from mf_llm.events.jsonl_file import read_lines
from mf_llm.events.record import Record
from mf_llm.events.validation import MAX_TEXT_CHARACTERS


def read_csv(path: Path, columns: Columns | None) -> Iterator[Record]:
    """One record per event of a CSV file (gzipped if its name ends in ``.gz``).

    Raises:
        EventError: with file and line; see `read_flat` for what is wrong with the table as a whole.
    """
    header = next(_rows(path), None)
    if header is None:
        return
    names = header[1]

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for line, cells in _rows(path):
            if line == header[0]:
                continue
            if len(cells) != len(names):
                raise EventError(
                    f"the row must have {len(names)} cells like the header, got {len(cells)}; quote texts that hold "
                    "commas or line breaks",
                    file=path,
                    line=line,
                )
            yield line, dict(zip(names, cells, strict=True))

    yield from read_flat(names, rows, columns, path)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line they begin at."""
    # The limit belongs to the whole process and is only ever raised. It also bounds what an unclosed quote swallows.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_CHARACTERS + 1))
    reader = csv.reader((text for _, text in read_lines(path)), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise EventError(
                f"is not valid CSV: {error}; quote texts that hold commas, quotes or line breaks", file=path, line=line
            ) from None
        if any(cell.strip() for cell in cells):
            yield line, cells
