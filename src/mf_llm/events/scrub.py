"""`EventScrubber`: events without what tells who the people are, as far as that can be found."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from mf_llm.errors import InputError
from mf_llm.events.event import Event
from mf_llm.events.record import event_from_record
from mf_llm.events.scrub_names import NameList, authors, is_author_field
from mf_llm.events.scrub_patterns import EMAILS, HANDLES, KINDS, LINKS, NUMBERS, found_by_form, mark, marks, same
from mf_llm.events.validation import EVENT_FIELDS, MAX_NAME_CHARACTERS, MAX_TEXT_CHARACTERS, TURN_FIELDS, path_part
from mf_llm.events.values import is_number

IDS, EXTRA = "ids", "extra"
KEPT = (NUMBERS, LINKS, IDS, EXTRA)  # what may be kept
CHANGES = (*KINDS, IDS, "rounded", "removed")  # what is counted

MAY_REMAIN = (
    "names that stand in no author field of their event, behind no title and in no list of names (a language model "
    "finds more of them, and not all); parts of a known name; misspelt and shortened names, and nicknames",
    'what is written to be overlooked: "name at mail dot com", letters with spaces between, numbers in words',
    "numbers inside a word (covid19); with `numbers` kept, all of fewer than 7 digits",
    "places, employers and rare combinations in a profile; its numbers (rounded to two digits from 10,000 on)",
    "times, to the second, and the texts themselves: who finds a text in a public place finds who wrote it",
    "names of fields, and whatever is kept because it was asked for",
)

# Not text of people: names of the data set's own, and what is counted.
_KEPT_FIELDS = ("domain", "language", "split", "block", "veracity", "dimensions")
_KEPT_TURN_FIELDS = ("labels", "time", "parent", "kind", "wave", "weight")
_EXACT_BELOW = 10_000
_NUMBER = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300})?(?:[eE][+-]?\d{1,3})?")

# A known name inside an address is part of the address; elsewhere it counts before what only looks like something.
_ADDRESSES = (LINKS, EMAILS)
_OTHERS = tuple(kind for kind in KINDS if kind not in _ADDRESSES)


class EventScrubber:
    """Scrubs the events of a file one after the other; of earlier ones it keeps the ids of groups and stories alone.

    Within an event the same handle, name, link, address or telephone number has the same mark everywhere, numbered in
    the order of first appearance: nothing can be computed back from it. Marks of different events have nothing to do
    with each other. An event that was scrubbed once stays as it is (unless `find_names` finds new ones).

    Args:
        keep: what stays as it is: "numbers" (of fewer than 7 digits), "links", "ids" (of events, groups and stories),
            "extra" (fields the format does not know; they are scrubbed, too).
        names: names that are known.
        find_names: finds further ones in the texts of an event.

    Attributes:
        n_events: events so far.

    Raises:
        InputError: `keep` names something else.
    """

    def __init__(
        self,
        keep: Iterable[str] = (),
        names: Iterable[str] = (),
        find_names: Callable[[list[str]], Iterable[str]] | None = None,
    ) -> None:
        self.keep = frozenset(keep)
        unknown = sorted(self.keep - set(KEPT))
        if unknown:
            raise InputError(
                f"`keep` must be some of {', '.join(KEPT)}, got {unknown[0]!r}; nothing was scrubbed; leave it out."
            )
        self.n_events = 0
        self._names, self._find_names = NameList(names), find_names
        self._streams: dict[str, dict[str, int]] = {"group": {}, "story": {}}

    def scrub(self, event: Event) -> tuple[Event, Counter[tuple[str, str]]]:
        """The scrubbed event, and how often something was changed, by field and kind of change."""
        self.n_events += 1
        names, changes = self._names, Counter[tuple[str, str]]()
        if self._find_names is not None:
            names |= NameList(self._find_names(list(_texts(event))))
        # What is taken out can make something visible that it hid: over, until there is nothing more.
        while True:
            scrubbed = _Scrubbing(self.keep, names | NameList(handles=authors(event)), changes).event(event)
            if scrubbed == event:
                return self._renamed(event, changes), +changes
            event = scrubbed

    def _renamed(self, event: Event, changes: Counter[tuple[str, str]]) -> Event:
        """The event with a number as its id, and groups and stories that are the same in all events."""
        if IDS in self.keep:
            return event
        new: dict[str, str] = {"event_id": str(self.n_events)}
        for field, known in self._streams.items():
            name = getattr(event, field)
            if name is not None:
                new[field] = f"{field}{known.setdefault(name, len(known) + 1)}"
        record = event.to_dict()
        changes.update((field, IDS) for field, name in new.items() if name != record[field])
        return event_from_record(record | new)


class _Scrubbing:
    """One pass over one event."""

    def __init__(self, keep: frozenset[str], names: NameList, changes: Counter[tuple[str, str]]) -> None:
        self.keep, self.names, self.changes = keep, names, changes
        self._numbers: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}

    def event(self, event: Event) -> Event:
        """The event, its fields in a fixed order: marks are numbered in it."""
        record = event.to_dict()
        new = {name: record[name] for name in ("event_id", "group", "story", *_KEPT_FIELDS) if name in record}
        new["topic"] = self._text(event.topic, "topic")
        if event.source is not None:
            new["source"] = self._name(event.source, "source")
        new["turns"] = [self._turn(turn) for turn in record["turns"]]
        return event_from_record(new | self._extra(record, EVENT_FIELDS, ""))

    def _turn(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        new = {name: turn[name] for name in _KEPT_TURN_FIELDS if name in turn}
        if "person" in turn:
            new["person"] = self._author(turn["person"], "turns.person")
        state = turn["state"]
        new["state"] = (
            self._text(state, "turns.state")
            if isinstance(state, str)
            else {name: self._value(value, f"turns.state.{path_part(name)}", name) for name, value in state.items()}
        )
        new["action"] = self._text(turn["action"], "turns.action")
        return new | self._extra(turn, TURN_FIELDS, "turns.")

    def _extra(self, record: Mapping[str, Any], known: tuple[str, ...], where: str) -> dict[str, Any]:
        extra = {name: value for name, value in record.items() if name not in known}
        if EXTRA in self.keep:
            return {name: self._value(value, f"{where}extra", name) for name, value in extra.items()}
        self.changes.update({(f"{where}extra", "removed"): len(extra)} if extra else {})
        return {}

    def _value(self, value: Any, field: str, name: str) -> Any:
        """A value of a profile or of an extra field."""
        if isinstance(value, Mapping):
            return {key: self._value(entry, field, key) for key, entry in value.items()}
        if isinstance(value, list):
            return [self._value(entry, field, name) for entry in value]
        if isinstance(value, bool) or value is None or value == "":
            return value
        if is_author_field(name):
            return self._author(str(value), field)
        if is_number(value) or _NUMBER.fullmatch(value):
            return self._rounded(value, field)
        # "45-64" and "$30,000 - $39,999" are answers, no running text.
        worded = any(character.isalpha() for character in value)
        return self._text(value, field, keep=frozenset() if worded else frozenset({NUMBERS}))

    def _rounded(self, value: Any, field: str) -> Any:
        """Counts and measures to two digits: exact ones tell an account as well as its name does."""
        if NUMBERS in self.keep:
            return value
        try:
            number = float(value)
            whole = number.is_integer()
            if not number or (whole and abs(number) < _EXACT_BELOW):
                return value
            rounded = round(number, 1 - math.floor(math.log10(abs(number))))
            new = int(rounded) if whole else rounded
        except OverflowError:  # nobody counts that far
            self.changes[field, NUMBERS] += 1
            return self._mark(NUMBERS, "")
        if rounded == number:
            return value
        self.changes[field, "rounded"] += 1
        return str(new) if isinstance(value, str) else new

    def _author(self, name: str, field: str) -> str:
        """A field that says who somebody is, as a whole."""
        new = self._mark(HANDLES, same(name.strip()))
        self.changes[field, HANDLES] += new != name
        return new

    def _name(self, text: str, field: str) -> str:
        return self._text(text, field)[:MAX_NAME_CHARACTERS].strip()

    def _text(self, text: str, field: str, keep: frozenset[str] = frozenset()) -> str:
        """A text with marks in it; what was found first is taken, from left to right it is numbered."""
        keep, taken, parts = keep | self.keep, bytearray(len(text)), []
        found = (marks(text), found_by_form(text, _ADDRESSES), self.names.find(text), found_by_form(text, _OTHERS))
        for part in chain.from_iterable(found):
            start, end = part[:2]
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                parts.append(part)
        new, done = [], 0
        for start, end, kind, key in sorted(parts):
            shown = text[start:end] if kind in keep else self._mark(kind, key)
            if kind == HANDLES and re.match(r"\w", text[end : end + 1]):
                shown += " "  # or the mark would go on
            self.changes[field, kind] += shown != text[start:end]
            new += [text[done:start], shown]
            done = end
        return "".join([*new, text[done:]])[:MAX_TEXT_CHARACTERS]

    def _mark(self, kind: str, key: str) -> str:
        numbers = self._numbers[kind]
        return mark(kind, numbers.setdefault(key, len(numbers) + 1))


def _texts(event: Event) -> Iterator[str]:
    """What is running text in an event."""
    yield event.topic
    for turn in event.turns:
        yield turn.action
        states = [turn.state] if isinstance(turn.state, str) else turn.state.values()
        yield from (state for state in states if isinstance(state, str))
