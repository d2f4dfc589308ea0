"""Tables of people of any size, read a batch at a time and merged as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.errors import InputError
from mf_llm.events.validation import one_line, show
from mf_llm.events.values import plain_mapping
from mf_llm.simulation.population_bins import OUTSIDE, Bins, FieldBins, check_bins

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 2**18
# Merged rows of batches that wait for being merged with one another.
_WAITING_ROWS = 2**20
_FORMATS = {".parquet": "parquet", ".csv": "csv", ".gz": "csv"}


def merged_rows(
    source: Any,
    *,
    columns: Sequence[str] | None = None,
    weight: str | None = None,
    bins: Bins | None = None,
    batch_rows: int = BATCH_ROWS,
) -> tuple[list[dict[str, Any]], list[float]]:
    """The distinct rows of a table and the weight of each; memory grows with these, not with the table.

    Args:
        source: a Parquet or CSV file (also gzipped), a folder of Parquet files, or a Hugging Face data set.
        columns: the fields of a profile; every column but `weight` by default.
        weight: the column of weights; each row counts 1 by default.
        bins: see `check_bins`; applied before rows are merged.
        batch_rows: rows that are in memory at once.

    Returns:
        States (missing values left out) and their weights, in no particular order.

    Raises:
        InputError: the table cannot be read, a column is missing or nested, a weight is no number of at least 0, or a
            value lies in no bin; with the number of the row, the first being 1.
    """
    header = _header(source)
    fields = tuple(columns) if columns is not None else tuple(name for name in header if name != weight)
    _check_columns(fields, weight, header)
    binned = check_bins(bins or {}, fields)
    kept = [name for name in fields if name not in binned or binned[name] is not None]
    if not kept:
        raise InputError(
            f"`columns` must leave a field of the profiles, got {list(fields)} of which `bins` drop all; everybody "
            "would be the same; keep one."
        )
    wanted = [*kept, weight] if weight is not None else kept
    parts: list[pa.Table] = []
    first = 1
    for batch in _batches(source, wanted, batch_rows):
        place = (source, first)
        values = [_column(batch.column(name), name, binned.get(name), place) for name in kept]
        weights = _weights(batch, weight, place)
        parts.append(_grouped(values, weights))
        if sum(part.num_rows for part in parts) > _WAITING_ROWS:
            parts = [_together(parts)]
        first += batch.num_rows
    if not parts:
        raise InputError(
            f"`source` must hold somebody, got no row in {_named(source)}; there is nobody to simulate; name another "
            "table."
        )
    merged = _together(parts)
    weights_of_rows = merged.column("weight").to_pylist()
    columns_of_rows = [merged.column(str(i)).to_pylist() for i in range(len(kept))]
    states = [plain_mapping(dict(zip(kept, row, strict=True))) for row in zip(*columns_of_rows, strict=True)]
    return states, weights_of_rows


def _header(source: Any) -> list[str]:
    if isinstance(source, str | Path):
        with _readable(source):
            return list(_dataset(source).schema.names)
    names = getattr(source, "column_names", None)
    if not isinstance(names, list) or not hasattr(source, "with_format"):
        raise InputError(
            f"`source` must be a Parquet or CSV file, a folder of Parquet files or a Hugging Face data set, got "
            f"{type(source).__name__}; it cannot be read batch by batch; for rows in memory use "
            "Population.from_records."
        )
    return names


def _check_columns(fields: Sequence[str], weight: str | None, header: Sequence[str]) -> None:
    for name in (*fields, *([weight] if weight is not None else [])):
        if name not in header:
            raise InputError(
                f"`columns` and `weight` must name columns of the table, got {show(name)}; there are "
                f"{', '.join(header)}."
            )
    if weight in fields or len(set(fields)) < len(fields):
        raise InputError(
            f"`columns` must name each column once and not the weight, got {list(fields)} and weight {weight!r}."
        )


def _dataset(path: str | Path) -> Any:
    import pyarrow.dataset

    path = Path(path)
    if path.is_dir():
        return pyarrow.dataset.dataset(path, format="parquet")
    if path.suffix not in _FORMATS:
        raise InputError(
            f"`source` must end in .parquet, .csv or .csv.gz, or be a folder of Parquet files, got {path}; its format "
            "is not known."
        )
    return pyarrow.dataset.dataset(path, format=_FORMATS[path.suffix])


def _batches(source: Any, names: list[str], rows: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    if isinstance(source, str | Path):
        with _readable(source):
            batches = _dataset(source).to_batches(
                columns=names, batch_size=rows, batch_readahead=2, fragment_readahead=1
            )
            for batch in batches:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])
    else:
        for batch in source.select_columns(names).with_format("arrow").iter(batch_size=rows):
            yield batch.select(names)


def _column(column: Any, name: str, bins: FieldBins | None, place: tuple[Any, int]) -> Any:
    """The values of a field, in their bins if it has some."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(column.type):
        raise InputError(
            f"`columns` must hold texts, numbers, booleans or dates, got {column.type} in {name!r}; a profile has one "
            "value a field; leave it out."
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if bins is None:
        return column
    # Each distinct value of the batch is looked up once, whatever the number of rows.
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    labels = bins.labels([*encoded.dictionary.to_pylist(), None])
    if OUTSIDE in labels:
        value = labels.index(OUTSIDE)
        row = pc.index(encoded.indices, value).as_py()
        raise InputError(
            f"{_row(place, row)}: `{name}` must lie in one of the bins {bins}, got "
            f"{show(encoded.dictionary[value].as_py())}; nobody is dropped silently; add a bin for it."
        )
    indices = encoded.indices.fill_null(len(labels) - 1)
    return pa.array(labels, pa.string()).take(indices)


def _weights(batch: pa.Table, weight: str | None, place: tuple[Any, int]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if weight is None:
        return pa.repeat(1.0, batch.num_rows)
    try:
        numbers = batch.column(weight).cast(pa.float64())
    except pa.ArrowException:
        raise InputError(
            f"`weight` must be a column of numbers, got {batch.column(weight).type} in {weight!r}; people cannot be "
            "counted; name another column."
        ) from None
    fine = pc.fill_null(pc.and_(pc.greater_equal(numbers, 0.0), pc.is_finite(numbers)), False)
    wrong = pc.index(fine, False).as_py()
    if wrong >= 0:
        raise InputError(
            f"{_row(place, wrong)}: the weight `{weight}` must be a number of at least 0, got "
            f"{show(numbers[wrong].as_py())}; people cannot be counted; correct the row."
        )
    return numbers


def _grouped(values: Sequence[Any], weights: Any) -> pa.Table:
    import pyarrow as pa

    names = [str(i) for i in range(len(values))]
    table = pa.table([*values, weights], names=[*names, "weight"])
    grouped = table.group_by(names).aggregate([("weight", "sum")])
    return grouped.select([*names, "weight_sum"]).rename_columns([*names, "weight"])


def _together(parts: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    table = pa.concat_tables(parts)
    return _grouped([table.column(str(i)) for i in range(table.num_columns - 1)], table.column("weight"))


def _named(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "the data set"


def _row(place: tuple[Any, int], offset: int) -> str:
    source, first = place
    return f"{_named(source)}, row {first + offset}"


class _readable:
    """Turns what pyarrow and the system raise into an `InputError` that names the table."""

    def __init__(self, source: str | Path) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | OSError | UnicodeDecodeError):
            raise InputError(
                f"`source` must be a table that can be read, got {self.source} ({one_line(error)}); nobody was read; "
                "name another table."
            ) from None
