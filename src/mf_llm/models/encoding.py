"""Tokenising what people wrote, so that it stays data: no control token can come out of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ELLIPSIS = "…"
_DATE = "1 January 2025"
# A token covers at most this many characters in practice (runs of spaces are the longest): longer texts are cut before
# they are tokenised, so that a text of ten megabytes costs no more than its part that can be kept.
_CHARACTERS_PER_TOKEN = 16
_TURN_MARKER = re.compile(
    r"<<?[|/｜]{0,2}[\w▁]+(?:[ \-][\w▁]+)*[|/｜]{0,2}>>?|\[/?[A-Z_]{2,}\]"
    r"|#{2,} ?\w+(?: \w+)*:?|\b[A-Z]{3,}:"  # "### Response:", "ASSISTANT:"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class DataEncoder:
    """Encodes text of others with one tokenizer.

    An added token (declared special or not: ``<|im_end|>``, ``<think>``) can open or close a chat turn, so none may
    come out of data. Where the tokenizer would make one, the text is split inside it and the two halves are tokenised
    apart: the tokens spell the same characters, but they are ordinary tokens. Whitespace tokens stay. Turn markers
    that a template spells in ordinary tokens (``[/INST]`` or ``USER:`` of some models) cannot be split that way; a
    space is put behind their first character.

    Args:
        tokenizer: any tokenizer of transformers.
        template_text: the literal text of a rendered chat template without its contents; turn markers are looked up
            in it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_text: str = "") -> None:
        self.tokenizer = tokenizer
        self.markers = sorted({m.group() for m in _TURN_MARKER.finditer(template_text)} - set(self._added_contents))

    @cached_property
    def _added_contents(self) -> list[str]:
        return [token.content for token in self.tokenizer.added_tokens_decoder.values()]

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids that may not come out of data: added tokens and special tokens other than whitespace and unknown."""
        tokens = self.tokenizer.added_tokens_decoder
        # "▁" is how SentencePiece spells a space; Gemma's runs of spaces are added tokens.
        control = {index for index, token in tokens.items() if token.content.replace("▁", " ").strip()}
        control |= set(self.tokenizer.all_special_ids)
        unknown = self.tokenizer.unk_token_id
        # The unknown token stands for characters the vocabulary lacks; unless it doubles as the end token (GPT-2) it
        # controls nothing.
        if unknown is not None and unknown not in (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id):
            control.discard(unknown)
        return frozenset(control)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` with no control token among them."""
        text = unmasked(text, lambda one: sum(map(one.count, self.markers)))
        for marker in self.markers:
            text = text.replace(marker, f"{marker[0]} {marker[1:]}")
        return self._encode_clean(text)

    def encode_bounded(self, text: str, max_tokens: int) -> list[int]:
        """As `encode`, but at most `max_tokens` ids; a longer text is cut and ends in an ellipsis.

        Args:
            text: any text.
            max_tokens: at least 1.
        """
        limit = max_tokens * _CHARACTERS_PER_TOKEN
        ids = self.encode(text[:limit])
        if len(ids) <= max_tokens and len(text) <= limit:
            return ids
        mark = self.encode(ELLIPSIS)
        if len(mark) >= max_tokens:
            return ids[:max_tokens]
        return self._whole_characters(ids[: max_tokens - len(mark)]) + mark

    def encode_lines_bounded(self, text: str, max_tokens: int) -> list[int]:
        """As `encode_bounded`, but of several lines the longest are cut first, so that each has its place.

        Args:
            text: any text.
            max_tokens: at least 1.
        """
        lines, newline = text.split("\n"), self.encode("\n")
        room = max_tokens - len(newline) * (len(lines) - 1)
        whole = len(text) <= max_tokens * _CHARACTERS_PER_TOKEN and len(self.encode(text)) <= max_tokens
        if whole or len(lines) == 1 or room < 4 * len(lines):
            return self.encode_bounded(text, max_tokens)
        fields = [self.encode_bounded(line, room) for line in lines]
        kept = share_budget([len(ids) for ids in fields], room)
        ids: list[int] = []
        for n, (line, field, length) in enumerate(zip(lines, fields, kept, strict=True)):
            ids += newline if n else []
            ids += field if length == len(field) else self.encode_bounded(line, length)
        return ids

    def _whole_characters(self, ids: list[int]) -> list[int]:
        """Drops a character that was cut in the middle of its bytes (at most 4 tokens)."""
        for dropped in range(min(4, len(ids))):
            kept = ids[: len(ids) - dropped]
            if not str(self.tokenizer.decode(kept[-8:])).endswith("�"):
                return kept
        return ids

    def _encode_clean(self, text: str) -> list[int]:
        if not text:
            return []
        fast = self.tokenizer.is_fast
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        ids: list[int] = encoding["input_ids"]
        places = [i for i, index in enumerate(ids) if index in self.control_ids]
        if not places:
            return ids
        if len(text) == 1:
            # A control token of one character has no other spelling, unless it stands for several ("℀" for "a/c").
            plain = unicodedata.normalize("NFKC", text)
            return self._encode_clean(plain) if len(plain) > 1 else []
        # Cut inside every one of them at once: a text may hold thousands.
        spans = [encoding["offset_mapping"][i] for i in places] if fast else [(0, 0)]
        cuts = {start + max(1, (end - start) // 2) if end > start else len(text) // 2 for start, end in spans}
        bounds = [0, *sorted({min(max(cut, 1), len(text) - 1) for cut in cuts}), len(text)]
        return [index for start, end in pairwise(bounds) for index in self._encode_clean(text[start:end])]


def one_line(text: str) -> str:
    """`text` on a single line, so that it cannot look like a heading of the prompt."""
    return " ".join(text.split())


def unmasked(text: str, count: Callable[[str], int]) -> str:
    """`text`, or its normal form (NFKC, nothing invisible) where `count` finds more marks in that.

    Some tokenizers normalise what they read: "[ＩＮＳＴ]" is a mark to them. Halves of surrogate pairs, which can
    neither be tokenised nor sent, become replacement characters.
    """
    if text.isascii():
        return text
    text = _SURROGATE.sub("\ufffd", text)
    plain = unicodedata.normalize("NFKC", "".join(c for c in text if unicodedata.category(c) != "Cf"))
    return plain if count(plain) > count(text) else text


def share_budget(lengths: Sequence[int], budget: int) -> list[int]:
    """How many tokens each field may keep so that together they fit: the longest are cut first, to one level.

    Args:
        lengths: tokens of each field.
        budget: tokens for all of them.

    Returns:
        As many numbers as fields, each at most the field's length, with a sum of at most `budget`.
    """
    if sum(lengths) <= budget:
        return list(lengths)
    kept = [0] * len(lengths)
    left, open_fields = max(budget, 0), sorted(range(len(lengths)), key=lambda i: lengths[i])
    while open_fields:
        level = left // len(open_fields)
        shortest = open_fields.pop(0)
        kept[shortest] = min(lengths[shortest], level)
        left -= kept[shortest]
    return kept


def newest_that_fit(lines: Iterable[list[int]], budget: int) -> list[list[int]]:
    """The last of `lines` (oldest first) whose tokens fit into `budget` together, in their order."""
    kept: list[list[int]] = []
    for ids in reversed(list(lines)):
        if len(ids) > budget:
            break
        budget -= len(ids)
        kept.append(ids)
    return kept[::-1]


def template_arguments(template: str = "") -> dict[str, Any]:
    """Fixed answers to what chat templates ask for: no thinking, no tools, and the same date on every day.

    Args:
        template: the chat template. One that asks the clock (``strftime_now``) gets a macro in its place: functions
            cannot be handed to a template.
    """
    arguments: dict[str, Any] = {"enable_thinking": False, "date_string": _DATE}
    if "strftime_now" in template:
        arguments["chat_template"] = f"{{%- macro strftime_now(format) -%}}{_DATE}{{%- endmacro %}}{template}"
    return arguments
