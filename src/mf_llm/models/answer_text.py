"""What a model wrote, without what it wrote around it."""

from __future__ import annotations

import re

from mf_llm.models.encoding import one_line

_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffd]")
_QUOTES = {'"': '"', "“": "”", "「": "」"}
_CODE_FENCE = re.compile(r"^```\w*\n(.*?)(\n```|\Z)", re.DOTALL)


def clean_answer(text: str, *, first_line: bool = False) -> str:
    """An answer on one line: no reasoning block, unprintable character, code fence or quotes around it.

    Args:
        text: what was generated.
        first_line: keep only the first line that is not blank.
    """
    text = _THINKING.sub("", text).strip()
    fenced = _CODE_FENCE.match(text)
    text = fenced.group(1) if fenced else text
    if first_line:
        text = text.strip().split("\n")[0]
    text = one_line(_UNPRINTABLE.sub("", text))
    quoted = len(text) > 1 and text[0] in _QUOTES and text[-1] == _QUOTES[text[0]]
    return text[1:-1].strip() if quoted and text.count(text[0]) <= 2 else text
