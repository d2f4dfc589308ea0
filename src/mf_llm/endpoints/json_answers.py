"""JSON objects in what a language model answered."""

from __future__ import annotations

import json
import re
from typing import Any

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
# A template may open the block in the prompt, so that an answer holds its end alone.
_THINKING_END = re.compile(r".*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """An answer without the reasoning in front of it, also where that was never closed or is opened elsewhere."""
    return _THINKING_END.sub("", _THINKING.sub("", text))


def json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text, in order; code fences and words around them do not matter."""
    decoder, found, start = json.JSONDecoder(), [], text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found.append(value)
        start = text.find("{", end)
    return found
