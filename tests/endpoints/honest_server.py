"""What a well-behaved chat server answers: a function of the request alone."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from misbehaving_server import Reply

MEAN_FIELD = "You summarise"


def number_of(request: dict[str, Any], *parts: object) -> float:
    """A number in [0, 1) that belongs to a request."""
    asked = json.dumps([request["messages"], request.get("seed"), *map(str, parts)])
    return int(hashlib.sha256(asked.encode()).hexdigest()[:8], 16) / 16**8


def person_of(request: dict[str, Any]) -> str:
    """What the request says about the person: "age: 44" of `small_event`, or "" for a signal."""
    found = re.search(r"You are:\n(age: \d+)", request["messages"][-1]["content"])
    return found.group(1) if found else ""


def options_of(request: dict[str, Any]) -> list[str]:
    """The options as they are listed."""
    return re.search(r"\(one of: (.*?)\)[.,]", request["messages"][-1]["content"]).group(1).split("; ")


def honest(request: dict[str, Any], earlier: int = 0) -> Reply:
    """Letters with probabilities, JSON objects, or a signal; texts name their person."""
    usage = (len(request["messages"][-1]["content"]) // 4, 7)
    if request["messages"][0]["content"].startswith(MEAN_FIELD):
        return Reply(f"Signal {number_of(request):.6f}.", usage=usage)
    if request.get("logprobs"):
        letters = [option[0] for option in options_of(request)]
        raw = [0.1 + number_of(request, letter) for letter in letters]
        p = {letter: math.log(0.9 * value / sum(raw)) for letter, value in zip(letters, raw, strict=True)}
        best = max(p, key=p.get)
        return Reply(best, logprobs={best: p[best]} | p | {"The": math.log(0.05)}, usage=usage)
    answer = {}
    if '"label"' in request["messages"][-1]["content"]:
        listed = options_of(request)
        answer["label"] = listed[int(number_of(request, "label") * len(listed))]
    if '"text"' in request["messages"][-1]["content"]:
        answer["text"] = f"I am {person_of(request)} and say {number_of(request, 'text'):.6f}."
    return Reply(json.dumps(answer), usage=usage)
