"""`datasets.Dataset` objects, Hub data sets and plain Python rows as records."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from mf_llm.errors import EventError
from mf_llm.events.columns import Columns
from mf_llm.events.flat_table import read_flat
from mf_llm.events.parquet_file import reject_columns
from mf_llm.events.record import Record
from mf_llm.events.validation import SPLITS, one_line

logger = logging.getLogger(__name__)


def load_hub_rows(repo_id: str) -> Mapping[str, Any]:
    """The splits of a Hub data set, by `datasets.load_dataset` (which caches it on disk and maps it into memory).

    Raises:
        EventError: it does not exist, or cannot be reached or read.
    """
    import datasets

    logger.info("loading the Hub data set %s", repo_id)
    try:
        loaded = datasets.load_dataset(repo_id)
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise EventError(
            "must be a file, a folder, packaged events or a Hub data set; no such path here, and the Hub says: "
            f"{one_line(error) or type(error).__name__}",
            file=repo_id,
        ) from None
    return loaded if isinstance(loaded, Mapping) else {str(loaded.split): loaded}


def read_splits(splits: Mapping[str, Any], columns: Columns | None, name: str) -> Iterator[Record]:
    """The records of every split of one data set, one after the other.

    An event without a `split` of its own gets the name of the split it stands in, if that is a name we know.
    """
    for split, rows in splits.items():
        for record in read_rows(rows, columns, f"{name} ({split})"):
            if split in SPLITS and isinstance(record.data, Mapping) and record.data.get("split") is None:
                record = Record(line=record.line, data={**record.data, "split": split}, turn_lines=record.turn_lines)
            yield record


def read_rows(rows: Iterable[Any], columns: Columns | None, name: str) -> Iterator[Record]:
    """The records of a `datasets.Dataset`, an `IterableDataset` or a sequence of dicts.

    Rows with `turns` are events; other rows are turns, in the order of the table. ClassLabel columns become the names
    of their classes, in the order of the feature.
    """
    if hasattr(rows, "with_format"):
        rows = rows.with_format(None)
    first = next(iter(rows), None)
    if first is None:
        return
    if not isinstance(first, Mapping) or "turns" in first:
        reject_columns(columns, name)
        for number, row in enumerate(rows, 1):
            yield Record(line=number, data=_with_turn_list(row))
        return
    class_names = {
        column: feature.names
        for column, feature in (getattr(rows, "features", None) or {}).items()
        if type(feature).__name__ == "ClassLabel"
    }
    header = list(getattr(rows, "column_names", None) or dict.fromkeys(chain.from_iterable(rows)))
    columns = dict(columns or {})
    for column, names in class_names.items():
        ours = next((our for our, theirs in columns.items() if theirs == column), column)
        if ours.startswith("labels."):
            columns.setdefault(f"dimensions.{ours.removeprefix('labels.')}", names)

    def numbered() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(rows, 1):
            filled = {column: row.get(column) for column in header}
            for column, names in class_names.items():
                value = filled[column]
                filled[column] = names[value] if isinstance(value, int) and 0 <= value < len(names) else None
            yield number, filled

    yield from read_flat(header, numbered, columns, name)


def _with_turn_list(row: Any) -> Any:
    """Turns that `datasets.Sequence` stored as a dict of lists become a list of dicts again."""
    turns = row.get("turns") if isinstance(row, Mapping) else None
    if not isinstance(turns, Mapping) or not all(isinstance(values, list) for values in turns.values()):
        return row
    lengths = {len(values) for values in turns.values()}
    if len(lengths) != 1:
        return row
    listed = [dict(zip(turns, values, strict=True)) for values in zip(*turns.values(), strict=True)]
    return {**row, "turns": listed}
