"""From a record (one JSON object, or one row of a nested table) to an `Event`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mf_llm.errors import EventError
from mf_llm.events.event import Event, Turn
from mf_llm.events.validation import EVENT_FIELDS, TURN_FIELDS, show
from mf_llm.events.values import plain_mapping

_EVENT_FIELDS, _TURN_FIELDS = frozenset(EVENT_FIELDS), frozenset(TURN_FIELDS)


@dataclass(frozen=True)
class Record:
    """One event as it stands in a source.

    Attributes:
        line: 1-based line (JSONL, CSV) or row (Parquet, data set) at which the event begins.
        data: the event as nested plain values; not checked yet.
        turn_lines: the line or row of each turn, where a turn has its own.
    """

    line: int
    data: Any
    turn_lines: Sequence[int] = ()


def event_from_record(data: Any) -> Event:
    """The `Event` that one JSON object of the event format describes.

    `None` counts as absent; fields the format does not know are kept in `extra`.

    Raises:
        EventError: with the field path, without a place in a file.
    """
    if not isinstance(data, Mapping):
        raise EventError(f"an event must be a JSON object, got {_json_name(data)}; write one event per line")
    for name in ("event_id", "topic", "turns"):
        if data.get(name) is None:
            raise EventError("is required, but missing; add it", field=name)
    fields, extra = _split(data, _EVENT_FIELDS)
    turns = fields["turns"]
    if not isinstance(turns, list | tuple):
        raise EventError(f"must be a list of turns, got {show(turns)}", field="turns")
    fields["turns"] = tuple(_turn(turn, index) for index, turn in enumerate(turns))
    if "dimensions" in fields:
        fields["dimensions"] = plain_mapping(fields["dimensions"])
    return Event(**fields, extra=extra)


def _turn(data: Any, index: int) -> Turn:
    if not isinstance(data, Mapping):
        raise EventError(f"a turn must be a JSON object, got {_json_name(data)}", field=f"turns[{index}]")
    fields, extra = _split(data, _TURN_FIELDS)
    return Turn(**fields, extra=extra)


def _split(data: Mapping[Any, Any], known: frozenset[str]) -> tuple[dict[str, Any], dict[Any, Any]]:
    fields: dict[str, Any] = {}
    extra: dict[Any, Any] = {}
    for name, value in data.items():
        if value is not None:
            (fields if name in known else extra)[name] = value
    return fields, extra


def _json_name(value: Any) -> str:
    return "null" if value is None else show(value)
