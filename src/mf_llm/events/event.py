"""`Event` and `Turn`: a topic, the people who react to it in time order, and the dimensions that are counted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

State = Mapping[str, Any] | str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One person's reaction, at their real place in time.

    Attributes:
        state: the profile of the person: a mapping of plain values, or a text. Empty if nothing is known.
        action: what the person wrote; empty for a choice without words.
        labels: dimension name -> category. A dimension that is absent was not labelled.
        time: seconds since 1970-01-01 UTC, or None.
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


@dataclass(frozen=True, kw_only=True)
class Event:
    """A topic and the population that reacts to it.

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

    def to_dict(self) -> dict[str, Any]:
        """The event as one JSON object of the documented event format (absent values left out)."""
        record = {
            "event_id": self.event_id,
            "domain": self.domain,
            "language": self.language,
            "source": self.source,
            "split": self.split,
            "topic": self.topic,
            "veracity": self.veracity,
            "story": self.story,
            "group": self.group,
            "block": self.block,
            "dimensions": {name: list(categories) for name, categories in self.dimensions.items()},
            "turns": [_turn_to_dict(turn) for turn in self.turns],
        }
        return {key: value for key, value in record.items() if value is not None} | dict(self.extra)

    def content_hash(self) -> str:
        """SHA-256 over the canonical JSON of the whole event, as hexadecimal text."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def _turn_to_dict(turn: Turn) -> dict[str, Any]:
    record: dict[str, Any] = {
        "time": turn.time,
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
