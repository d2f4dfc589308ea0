"""`Event` and `Turn`: a topic, the people who react to it in time order, and the dimensions that are counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mf_llm.events.validation import validate_event
from mf_llm.events.values import plain_mapping, to_float, to_int, to_seconds

State = Mapping[str, Any] | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One person's reaction, at their real place in time.

    A turn is checked when it becomes part of an `Event`; the field names of errors then tell which turn it was.

    Attributes:
        state: the profile of the person: a mapping of texts, numbers and booleans, or a text; empty if unknown.
        action: what the person wrote; empty for a choice without words.
        labels: dimension name -> category. A dimension that is absent was not labelled.
        time: seconds since 1970-01-01 UTC, or None; a `datetime` or ISO 8601 text is converted (UTC if no zone).
        parent: index of the turn this one answers, or None (an answer to the topic).
        kind: how the reaction came about ("post", "retweet", ...), or None.
        wave: name of the survey wave, or None.
        weight: survey weight of the person (1 where there is none).
        person: an anonymous id, or None. The same id in two waves is the same person.
        extra: further fields of the source, kept but never shown to a model.

    After the warm-up only `state` may reach a prompt, and only `weight` and `wave` a readout.
    """

    state: State = field(default_factory=dict)
    action: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    time: float | None = None
    parent: int | None = None
    kind: str | None = None
    wave: str | None = None
    weight: float = 1.0
    person: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Equal content must be equal in every respect (and hash alike), whichever number types the source used.
        for name, convert in _TURN_CONVERSIONS:
            object.__setattr__(self, name, convert(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Event:
    """A topic and the population that reacts to it.

    Lists are accepted where tuples are stored. Every event, read from a file or made in Python, is checked by
    `mf_llm.events.validate_event` when it is made, so that no other code has to.

    Attributes:
        event_id: unique within its data set.
        topic: what people react to, as they saw it.
        turns: reactions in time order.
        dimensions: dimension name -> its K category names, in order.
        domain, language, source: where it comes from ("health", "en", "YouGov panel").
        split: "train", "validation", "test" or None.
        group, block: `group` names a stream that was cut into events, `block` is the place of this event in it.
        story: the news event a thread belongs to (for story-disjoint subsets).
        veracity: known only afterwards; never shown to a model.
        extra: further fields of the source, kept but never shown to a model.

    Raises:
        EventError: naming the field (such as ``turns[3].labels.stance``) that is not valid.

    Examples:
        >>> stances = {"stance": ["for", "against"]}
        >>> angry = Turn(state={"age": 46}, action="No way!", labels={"stance": "angry"})
        >>> Event(event_id="bridge", topic="The bridge closes.", dimensions=stances, turns=[angry])
        Traceback (most recent call last):
        mf_llm.errors.EventError: field `turns[0].labels.stance`: must be one of the categories ...
        >>> against = Turn(state={"age": 46}, action="No way!", labels={"stance": "against"})
        >>> event = Event(event_id="bridge", topic="The bridge closes.", dimensions=stances, turns=[against])
        >>> event.turns[0].labels["stance"]
        'against'
    """

    event_id: str
    topic: str
    turns: tuple[Turn, ...]
    dimensions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    domain: str | None = None
    language: str = "en"
    source: str | None = None
    split: str | None = None
    group: str | None = None
    block: int | None = None
    story: str | None = None
    veracity: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.turns, list):
            object.__setattr__(self, "turns", tuple(self.turns))
        if isinstance(self.dimensions, Mapping):
            dimensions = {
                name: tuple(categories) if isinstance(categories, list) else categories
                for name, categories in self.dimensions.items()
            }
            object.__setattr__(self, "dimensions", dimensions)
        object.__setattr__(self, "block", to_int(self.block))
        object.__setattr__(self, "extra", plain_mapping(self.extra))
        validate_event(self)

    def to_dict(self) -> dict[str, Any]:
        """The event as one JSON object of the documented event format (absent values left out)."""
        return _event_to_dict(self, [_turn_to_dict(turn) for turn in self.turns])

    def content_hash(self) -> str:
        """SHA-256 over the canonical JSON of the whole event, as hexadecimal text."""
        # Turn by turn: an event may have a million of them.
        found = hashlib.sha256()
        record = _event_to_dict(self, turns=[])
        for number, name in enumerate(sorted(record)):
            found.update(f"{',' if number else '{'}{_canonical(name)}:".encode())
            if name != "turns":
                found.update(_canonical(record[name]).encode())
                continue
            for place, turn in enumerate(self.turns):
                found.update(f"{',' if place else '['}{_canonical(_turn_to_dict(turn))}".encode())
            found.update(b"]")
        found.update(b"}")
        return found.hexdigest()


_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode

_TURN_CONVERSIONS = (
    ("state", plain_mapping),
    ("labels", plain_mapping),
    ("extra", plain_mapping),
    ("time", to_seconds),
    ("weight", to_float),
    ("parent", to_int),
)


def _event_to_dict(event: Event, turns: list[dict[str, Any]]) -> dict[str, Any]:
    record = {
        "event_id": event.event_id,
        "domain": event.domain,
        "language": event.language,
        "source": event.source,
        "split": event.split,
        "topic": event.topic,
        "veracity": event.veracity,
        "story": event.story,
        "group": event.group,
        "block": event.block,
        "dimensions": {name: list(categories) for name, categories in event.dimensions.items()},
        "turns": turns,
    }
    return {key: value for key, value in record.items() if value is not None} | dict(event.extra)


def _turn_to_dict(turn: Turn) -> dict[str, Any]:
    record: dict[str, Any] = {
        "time": int(turn.time) if turn.time is not None and turn.time.is_integer() else turn.time,
        "wave": turn.wave,
        "state": turn.state if isinstance(turn.state, str) else dict(turn.state),
        "action": turn.action,
        "labels": dict(turn.labels),
        "parent": turn.parent,
        "kind": turn.kind,
        "person": turn.person,
        "weight": None if turn.weight == 1.0 else turn.weight,
    }
    return {key: value for key, value in record.items() if value is not None} | dict(turn.extra)
