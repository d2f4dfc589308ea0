"""Texts cut into halves, of a data set in which no half can be known from another text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mf_llm.events.event import Event
from mf_llm.simulation.keyed_draws import permutation

if TYPE_CHECKING:
    from mf_llm.models.encoding import DataEncoder

PARTS = ("texts", "topics")
MAX_TOKENS = 256
_MAX_CHARACTERS = 16 * MAX_TOKENS
# What stands in published data where a name, an address or a number stood.
_PLACEHOLDER = re.compile(r"@user\b|<(?:url|email|phone)>", re.IGNORECASE)


@dataclass(frozen=True)
class HalvedText:
    """A text in two halves.

    Attributes:
        event: the event it belongs to.
        first, second: token ids; together the text, or its first 256 tokens.
    """

    event: Event
    first: tuple[int, ...]
    second: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """Texts of one split.

    Attributes:
        texts: those that were drawn.
        n_distinct: different texts of this split and of no other, out of which they were drawn.
        left_out: reason -> how many texts were drawn and not taken: "too_short" (a half has too few tokens),
            "placeholder" (a name or an address was removed where the second half begins), "shared_beginning" (the
            first half stands in another text of the data set too).
    """

    texts: list[HalvedText]
    n_distinct: int
    left_out: dict[str, int]


class TextPool:
    """The different texts of a data set; texts that differ in case, marks, mentions or links alone are one.

    Args:
        events: of one data set, of all splits.
        part: "texts" (what people wrote) or "topics" (what they react to).
    """

    def __init__(self, events: Sequence[Event], part: str) -> None:
        self._texts: dict[str, tuple[Event, str]] = {}
        self._splits: dict[str, set[str | None]] = {}
        events = sorted(events, key=lambda event: event.event_id)
        for event in events:
            for text in [event.topic] if part == "topics" else [turn.action for turn in event.turns]:
                if words := normalised(text):
                    self._texts.setdefault(words, (event, text))
                    self._splits.setdefault(words, set()).add(event.split)
        # A topic may well be quoted by those who react to it; a reaction that quotes it is no text of its own.
        others = [] if part == "topics" else [normalised(event.topic) for event in events]
        self._all = "\n".join(dict.fromkeys([*self._texts, *others]))

    def draw(self, split: str | None, encoder: DataEncoder, *, n: int | None, least: int, key: int) -> Sample:
        """Draws texts that belong to one split only, without replacement, and cuts them in the middle.

        Args:
            split: the split.
            encoder: makes tokens of texts, never control tokens.
            n: how many; None: all.
            least: tokens that a half must have.
            key: stream key of the draw.
        """
        candidates = [words for words, splits in self._splits.items() if splits == {split}]
        texts: list[HalvedText] = []
        left_out = Counter({"too_short": 0, "placeholder": 0, "shared_beginning": 0})
        for place in permutation(len(candidates), key):
            if len(texts) == n:
                break
            words = candidates[place]
            event, text = self._texts[words]
            ids = encoder.encode(text.strip()[:_MAX_CHARACTERS])[:MAX_TOKENS]
            cut = len(encoder._whole_characters(ids[: len(ids) // 2]))
            decode: Callable[[list[int]], Any] = encoder.tokenizer.decode
            if min(cut, len(ids) - cut) < least:
                left_out["too_short"] += 1
            elif _has_placeholder(decode(ids), len(decode(ids[:cut])), len(decode(ids[: cut + least]))):
                left_out["placeholder"] += 1
            elif self._elsewhere(normalised(decode(ids[:cut])), words):
                left_out["shared_beginning"] += 1
            else:
                texts.append(HalvedText(event, tuple(ids[:cut]), tuple(ids[cut:])))
        return Sample(texts, len(candidates), dict(left_out))

    def _elsewhere(self, half: str, words: str) -> bool:
        return self._all.count(half) > words.count(half)


def normalised(text: str) -> str:
    """The words of a text alone: no case, marks, mentions, links or mark of a retweet in front.

    Examples:
        >>> normalised("RT @user: It's TRUE!  <url>")
        'it s true'
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", _PLACEHOLDER.sub(" ", text)).casefold())
    return " ".join(words[1:] if words[:1] == ["rt"] else words)


def _has_placeholder(text: str, start: int, end: int) -> bool:
    """Whether some of the characters from `start` to `end` belong to a placeholder."""
    return any(found.start() < end and found.end() > start for found in _PLACEHOLDER.finditer(text))
