"""Reading events from files, folders, packaged events, data sets and the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from mf_llm.errors import EventError, InputError
from mf_llm.events.columns import Columns, check_columns
from mf_llm.events.csv_file import read_csv
from mf_llm.events.dataset_rows import load_hub_rows, read_rows, read_splits
from mf_llm.events.event import Event
from mf_llm.events.jsonl_file import read_jsonl
from mf_llm.events.packaged import packaged_events, packaged_file
from mf_llm.events.parquet_file import read_parquet, reject_columns
from mf_llm.events.record import Record, event_from_record
from mf_llm.events.validation import SPLITS, show

ENDINGS = (".jsonl", ".jsonl.gz", ".parquet", ".csv", ".csv.gz")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_TURN_INDEX = re.compile(r"turns\[(\d+)\]")


@dataclass(frozen=True)
class _Source:
    """One data set: its name, what errors call it, and how to start reading it."""

    name: str
    place: str | Path
    read: Callable[[], Iterator[Record]]


def iter_events(source: Any, *, split: str | None = None, columns: Columns | None = None) -> Iterator[Event]:
    """Reads events one by one; only the current event (and the ids of the earlier ones) is in memory.

    Args:
        source: a path to a ``.jsonl``, ``.jsonl.gz``, ``.parquet``, ``.csv`` or ``.csv.gz`` file, or to a folder of
            them; the name of packaged events (`packaged_events()`); a `datasets.Dataset`, `IterableDataset` or
            `DatasetDict`; a list of dicts; or a Hub data set id ``owner/name``. Local paths and packaged names come
            first; only what looks like an id is asked of the Hub.
        split: "train", "validation" or "test": only events of that split; None for all events.
        columns: for tables with one row per turn: our names -> column names, such as
            ``{"event_id": "thread", "action": "comment", "labels.stance": "stance", "dimensions.stance": ["for",
            "against"]}``. Columns that already have our names need no entry. See ``docs/event-format.md``.

    Yields:
        Events in the order of the source (files of a folder in the order of their names).

    Raises:
        EventError: an event is not valid, or the source cannot be read; names file, line and field.
        InputError: `split` or `columns` cannot be used.

    Examples:
        >>> rows = [{"thread": "a", "text": "No!"}, {"thread": "b", "text": "Yes."}]
        >>> columns = {"event_id": "thread", "action": "text", "topic": {"value": "The bridge closes."}}
        >>> [event.event_id for event in iter_events(rows, columns=columns)]
        ['a', 'b']
    """
    check_columns(columns)
    _check_split(split)
    sources = _find_sources(source, columns)
    return (event for found in sources for event in _events_of(found, split))


def load_events(
    source: Any, *, split: str | None = None, columns: Columns | None = None, limit: int | None = None
) -> list[Event]:
    """Reads events into a list; see `iter_events` for the arguments.

    Args:
        limit: read no more than this many events (of `split`); the rest of the source is not looked at.

    Raises:
        EventError, InputError: as `iter_events`; also if `limit` is less than 1.

    Examples:
        >>> [event] = load_events("bridge-closure")
        >>> len(event.turns), event.dimensions["stance"]
        (168, ('support', 'oppose', 'question', 'neutral'))
        >>> rows = [{"event_id": "a", "topic": "The bridge closes.", "action": text} for text in ("No!", "Finally.")]
        >>> [turn.action for event in load_events(rows) for turn in event.turns]
        ['No!', 'Finally.']
    """
    _check_limit(limit)
    return list(islice(iter_events(source, split=split, columns=columns), limit))


def load_event_sets(
    source: Any, *, split: str | None = None, columns: Columns | None = None
) -> dict[str, list[Event]]:
    """Reads every data set of `source`; see `iter_events` for the arguments.

    Returns:
        Data set name -> its events. The name is the file name without its ending, the name of packaged events, the Hub
        id, or (for a `Dataset` or a list) "events"; each file of a folder is a data set of its own.

    Raises:
        EventError, InputError: as `iter_events`.

    Examples:
        >>> {name: len(events) for name, events in load_event_sets("vaccine-intention").items()}
        {'vaccine-intention': 3}
    """
    check_columns(columns)
    _check_split(split)
    return {found.name: list(_events_of(found, split)) for found in _find_sources(source, columns)}


def _events_of(source: _Source, split: str | None) -> Iterator[Event]:
    first_lines: dict[str, int] = {}
    for record in source.read():
        number = record.line
        try:
            event = event_from_record(record.data)
            if event.event_id in first_lines:
                raise EventError(
                    f"must be unique in its data set, got {show(event.event_id)} again (first in line "
                    f"{first_lines[event.event_id]}); results are kept by event id; rename or remove one",
                    field="event_id",
                )
        except EventError as error:
            line = _line_of(record, error.field)
            raise EventError(error.problem, file=source.place, line=line, field=error.field) from None
        first_lines[event.event_id] = number
        # Neither stays in memory while the other is made or used: a long event is large.
        del record
        if split is None or event.split == split:
            found = [event]
            del event
            yield found.pop()
    if not first_lines:
        raise EventError("must hold at least one event, but is empty", file=source.place)


def _line_of(record: Record, field: str | None) -> int:
    found = _TURN_INDEX.match(field or "")
    index = int(found[1]) if found else len(record.turn_lines)
    return record.turn_lines[index] if index < len(record.turn_lines) else record.line


def _find_sources(source: Any, columns: Columns | None) -> list[_Source]:
    if isinstance(source, str | os.PathLike):
        return _find_named(os.fspath(source), columns)
    if isinstance(source, Mapping):
        return [_Source("events", "the data set", lambda: read_splits(source, columns, "the data set"))]
    if isinstance(source, Iterable) and not isinstance(source, bytes | Iterator):
        return [_Source("events", "the data set", lambda: read_rows(source, columns, "the data set"))]
    raise InputError(
        f"`source` must be a path, a packaged name ({', '.join(packaged_events())}), a Hub data set id, a "
        f"`datasets.Dataset` or a list of dicts, got {show(source)}"
    )


def _find_named(name: str, columns: Columns | None) -> list[_Source]:
    if not name.strip() or "\0" in name:
        raise InputError(f"`source` must be a path or a name, got {show(name)}")
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return _folder_sources(path, columns)
        if path.exists():
            return [_file_source(path, columns)]
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise EventError(f"cannot be looked up: {error.strerror or error}", file=show(name, 300)) from None
    packaged = packaged_file(name)
    if packaged is not None:

        def read() -> Iterator[Record]:
            with resources.as_file(packaged) as file:
                yield from _read_file(file, columns)

        return [_Source(name, name, read)]
    # With a folder of the owner's name here a mistyped path is likelier than a data set, and asking the Hub is slow.
    if _HUB_ID.fullmatch(name) and not name.endswith(ENDINGS) and not path.parent.is_dir():
        splits: dict[str, Mapping[str, Any]] = {}  # loaded once, when reading begins

        def read_hub() -> Iterator[Record]:
            splits.setdefault(name, load_hub_rows(name))
            yield from read_splits(splits[name], columns, name)

        return [_Source(name, name, read_hub)]
    raise EventError(
        f"no such file or folder, and no packaged events of that name ({', '.join(packaged_events())}); correct the "
        "path, or give a Hub data set id owner/name",
        file=name if name.isprintable() else show(name, 300),
    )


def _folder_sources(folder: Path, columns: Columns | None) -> list[_Source]:
    try:
        files = sorted(file for file in folder.iterdir() if file.name.endswith(ENDINGS) and file.name[0] != ".")
    except OSError as error:
        raise EventError(f"cannot be read: {error.strerror or error}", file=folder) from None
    if not files:
        raise EventError(f"the folder must hold event files ({', '.join(ENDINGS)}), got none", file=folder)
    sources = [_file_source(file, columns) for file in files]
    for position, found in enumerate(sources):
        earlier = next((other for other in sources[:position] if other.name == found.name), None)
        if earlier is not None:
            raise EventError(
                f"must have another name than {Path(earlier.place).name}; both would be the data set {found.name!r}; "
                "rename or move one",
                file=found.place,
            )
    return sources


def _file_source(path: Path, columns: Columns | None) -> _Source:
    ending = next((ending for ending in reversed(ENDINGS) if path.name.endswith(ending)), None)
    if ending is None:
        hint = "; write one event per line to a .jsonl file" if path.suffix == ".json" else ""
        raise EventError(f"the file name must end in {', '.join(ENDINGS)}{hint}", file=path)
    return _Source(path.name.removesuffix(ending), path, lambda: _read_file(path, columns))


def _read_file(path: Path, columns: Columns | None) -> Iterator[Record]:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        reject_columns(columns, path)
        return read_jsonl(path)
    return read_parquet(path, columns) if path.suffix == ".parquet" else read_csv(path, columns)


def _check_split(split: str | None) -> None:
    if split is not None and split not in SPLITS:
        raise InputError(f'`split` must be "train", "validation", "test" or None (all events), got {show(split)}')


def _check_limit(limit: int | None) -> None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InputError(f"`limit` must be a whole number of at least 1 or None (all events), got {show(limit)}")
