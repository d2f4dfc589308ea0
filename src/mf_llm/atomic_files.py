"""Files that are written whole or not at all: beside their place first, then moved there."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file in UTF-8 line by line, as `lines` makes them: only one is in memory."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(f"{line}\n")

    _write(path, write)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file of bytes."""
    _write(path, lambda temporary: temporary.write_bytes(content))


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file."""
    import pyarrow.parquet as pq

    _write(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes strict JSON: what is not a number becomes null."""
    write_text(path, json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows with exactly these columns; None and nan become empty, numbers get 6 significant digits."""
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    write_text(path, buffer.getvalue())


def write_figure(path: Path, figure: Figure, **options: Any) -> None:
    """Saves a figure of matplotlib as its ending says, ``.png`` or ``.pdf``; equal figures are equal files."""
    buffer, kind = BytesIO(), path.suffix[1:]
    figure.savefig(buffer, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None, **options)
    write_bytes(path, buffer.getvalue())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file and says what to do where something under it could not be written.

    Raises:
        InputError: what should be a folder is a file, or the other way round.
        OSError: the disk is full, or nothing may be written there. The system says only why, and of some calls not
            even where.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(
            f"{path} must be a file in a folder, but a part of this path is something else "
            f"({error.strerror}); nothing was written there; name another folder."
        ) from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno is not None else error
        raise OSError(
            f"{path} cannot be written ({why}); make room, or name a folder that can be written, and start again "
            "(with --resume where there is one)"
        ) from error


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            # Some file systems find out only now that they are full; and who sees this file may remove what it is
            # made of, such as a journal.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _remove_leftovers(path)


def _remove_leftovers(path: Path) -> None:
    """Removes what processes left beside a file that were killed while they wrote it."""
    start = f".{path.name}."
    left = {name: name.removeprefix(start) for name in os.listdir(path.parent) if name.startswith(start)}
    if not left:
        return
    import psutil

    for name, process in left.items():
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            path.with_name(name).unlink(missing_ok=True)


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
