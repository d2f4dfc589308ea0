"""`NameList`: names that are known, found in running text as whole words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mf_llm.events.event import Event
from mf_llm.events.scrub_patterns import HANDLES, LETTER, NAMES, UNSPACED, Part, marks, same

# A word; in scripts without spaces every character is looked at as one.
_WORD = re.compile(rf"[{UNSPACED}]|{LETTER}+")
_LEAST_LETTERS, _LEAST_CHARACTERS = 3, 2  # of a name: fewer would be found in ordinary words
_MOST_BETWEEN = 2  # what may stand between the words of a name: "Bob-Smith", "O'Brien", "J. Doe"

# Fields that name who wrote, in extra fields and profiles; upper case and everything but letters do not matter.
AUTHOR_FIELDS = frozenset({
    "account", "author", "authorid", "authorname", "displayname", "firstname", "fullname", "handle", "lastname",
    "name", "nick", "nickname", "person", "poster", "realname", "screenname", "uid", "user", "userid", "username",
    "userscreenname",
})  # fmt: skip


class NameList:
    """Names with what they are; the longest one counts.

    Args:
        names: names as people write them; they become "[name1]", "[name2]", ...
        handles: what accounts are called, with or without @; they become "@user1", ...
    """

    def __init__(self, names: Iterable[str] = (), handles: Iterable[str] = ()) -> None:
        self._by_first: dict[str, dict[tuple[str, ...], tuple[str, str]]] = {}
        for kind, given in ((NAMES, names), (HANDLES, handles)):
            for name in given:
                self._add(name, kind)

    def __or__(self, other: NameList) -> NameList:
        """The names of both; where they differ, what `other` says."""
        both = NameList()
        for one in (self, other):
            for first, names in one._by_first.items():
                both._by_first.setdefault(first, {}).update(names)
        return both

    def find(self, text: str) -> Iterator[Part]:
        """Where names stand in a text."""
        if not self._by_first:
            return
        words = [(found.start(), found.end(), same(found[0])) for found in _WORD.finditer(text)]
        place = 0
        while place < len(words):
            length, part = self._at(words, place, text)
            if part is not None:
                yield part
            place += length

    def _at(self, words: Sequence[tuple[int, int, str]], place: int, text: str) -> tuple[int, Part | None]:
        """The longest name that begins with a word, and of how many words it is."""
        start = words[place][0]
        names = self._by_first.get(words[place][2], {})
        for length in sorted({len(name) for name in names}, reverse=True):
            run = words[place : place + length]
            known = names.get(tuple(word for _, _, word in run))
            apart = (later[0] - earlier[1] for earlier, later in pairwise(run))
            if known is None or any(gap > _MOST_BETWEEN for gap in apart):
                continue
            end = run[-1][1]
            if text[max(start - 1, 0) : start] not in ("@", "＠"):
                return length, (start, end, *known)
            # "@bob你好"; whatever else begins with @ ends where a handle ends.
            if re.match(rf"[{UNSPACED}]", text[end : end + 1]):
                return length, (start - 1, end, HANDLES, known[1])
        return 1, None

    def _add(self, name: str, kind: str) -> None:
        words = tuple(same(found[0]) for found in _WORD.finditer(name))
        letters = sum(len(word) for word in words)
        least = _LEAST_CHARACTERS if re.search(rf"[{UNSPACED}]", name) else _LEAST_LETTERS
        # Numbers are found as such; our own marks are known.
        if letters >= least and not all(word.isdigit() for word in words) and not any(marks(name)):
            self._by_first.setdefault(words[0], {})[words] = (kind, same(name.strip()))


def whole_words(text: str, start: int, end: int) -> str:
    """The part of a text from `start` to `end`, with the words that it cuts at its ends."""
    words = [found.span() for found in _WORD.finditer(text) if found.start() < end and start < found.end()]
    return text[words[0][0] : words[-1][1]] if words else ""


def is_author_field(name: Any) -> bool:
    """Whether a field of this name tells who wrote."""
    return "".join(character for character in str(name).casefold() if character.isalpha()) in AUTHOR_FIELDS


def authors(event: Event) -> Iterator[str]:
    """The names and handles in an event's own fields: persons, and fields of `AUTHOR_FIELDS`."""
    yield from _in_fields(event.extra)
    for turn in event.turns:
        if turn.person is not None:
            yield turn.person
        yield from _in_fields(turn.extra)
        if isinstance(turn.state, Mapping):
            yield from _in_fields(turn.state)


def _in_fields(value: Any, *, told: bool = False) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _in_fields(entry, told=is_author_field(name))
    elif isinstance(value, list):
        for entry in value:
            yield from _in_fields(entry, told=told)
    elif isinstance(value, str) and told:
        yield value
