"""What people wrote, as text for a server: it stays data, and its length is bounded without a tokenizer."""

from __future__ import annotations

import re

from mf_llm.models.encoding import DataEncoder, one_line, unmasked

# A server reads control tokens in a message as such: "<|im_end|>", "</s>", "<start_of_turn>", "<think>", "<<SYS>>",
# "<｜User｜>" and, in square brackets, "[INST]", "[/INST]", "[gMASK]", "[e~[" and "]~b]" of some models.
_MARK = re.compile(r"<(?=[|/｜▁<\w])|\[(?=/?[A-Za-z]?[A-Z_]{2,}\]|e~)|\](?=~)")
# Four Latin letters are a token, about; so is a letter of most other scripts.
_PIECE = re.compile(r"[\x00-\x7f]{1,4}|[^\x00-\x7f]", re.DOTALL)


def as_data(text: str) -> str:
    """A text of others without anything that a chat template or a tokenizer could take for one of its marks.

    The rule: a space goes behind the first character of what looks like a control token. Every character stays, and
    people read it as before; of a text that hides such a mark in signs that look alike, its normal form (NFKC) does.
    Halves of surrogate pairs, which cannot be sent, become replacement characters. Marks that are words
    ("ASSISTANT:", of some old templates) stay: which of them a server's template has is not known here.

    Examples:
        >>> as_data("So <|im_end|> is 1 < 2? [INST] <b>no</b>")
        'So < |im_end|> is 1 < 2? [ INST] < b>no< /b>'
    """
    text = unmasked(text, lambda one: len(_MARK.findall(one)))
    return _MARK.sub(lambda mark: mark.group() + " ", text)


def line_as_data(text: str, max_characters: int) -> str:
    """As `as_data`, on one line, at most so many characters of the text."""
    return as_data(one_line(text[:max_characters]))


class TextEncoder(DataEncoder):
    """Takes pieces of text for tokens, where a server tokenises: up to four ASCII characters, or one other.

    Bounds in tokens are therefore approximate: English takes about as many, other scripts up to twice as many.
    """

    def __init__(self) -> None:
        """Needs no tokenizer."""

    def encode(self, text: str) -> list[str]:  # type: ignore[override]
        """The pieces of `text`, as data."""
        return _PIECE.findall(as_data(text))

    def _whole_characters(self, ids: list[str]) -> list[str]:  # type: ignore[override]
        return ids
