"""JSON objects in what a language model answered."""

from __future__ import annotations

import json
import re
from typing import Any

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
# A template may open the block in the prompt, so that an answer holds its end alone.
_THINKING_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)

# Braces that begin no object, in an answer that is read to its end; each costs time in the length of the answer.
_MOST_WRONG = 1000


def without_reasoning(text: str) -> str:
    """An answer without the reasoning in front of it, also where that was never closed or is opened elsewhere."""
    return _THINKING_END.split(_THINKING.sub("", text))[-1]


def json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text, in order; code fences and words around them do not matter.

    One in which a key stands twice is none: it is not clear which value is meant.
    """
    decoder, found, start = json.JSONDecoder(object_pairs_hook=_mapping), [], text.find("{")
    wrong = 0
    while start >= 0 and wrong < _MOST_WRONG:
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError:  # no answer; each of the objects in it would be as deep
            break
        except ValueError:
            end, wrong = start + 1, wrong + 1
        else:
            found.append(value)
        start = text.find("{", end)
    return found


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found
