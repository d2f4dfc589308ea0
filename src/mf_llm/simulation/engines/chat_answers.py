"""What is read out of a server's replies; anything that is not a valid answer is a typed failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mf_llm.endpoints.chat import ChatReply
from mf_llm.endpoints.json_answers import json_objects, without_reasoning
from mf_llm.errors import InputError
from mf_llm.models.answer_text import clean_answer
from mf_llm.simulation.engines.chat_prompts import JsonAnswer
from mf_llm.simulation.engines.letters import NO_OPTION, option_probabilities

TRUNCATED, EMPTY_ANSWER, EMPTY_TEXT = "truncated", "empty_answer", "empty_text"
INVALID_ANSWER, INVALID_OPTION = "invalid_answer", "invalid_option"
NO_LOGPROBS = "no_logprobs"


def read_json(answer: JsonAnswer, reply: ChatReply) -> tuple[dict[str, Any] | None, str | None]:
    """The fields that were asked for; reasoning, code fences and words around the object do not matter.

    A model that answers with the one thing that was asked for, and without JSON, is understood, too: small models do.

    Args:
        answer: what was asked for.
        reply: what came.

    Returns:
        ``{"label": ..., "text": ...}``, what of it was asked for, and None; or None and the reason: "truncated",
        "empty_answer", "invalid_answer" (no object with these fields), "invalid_option", "empty_text".
    """
    text = without_reasoning(reply.content)
    if not text.strip():
        return None, TRUNCATED if reply.cut else EMPTY_ANSWER
    objects = json_objects(text)
    if len(answer.fields) == 1 and "{" not in text and not reply.cut:
        objects = [{answer.fields[0]: clean_answer(text)}]
    found = next((one for one in objects if all(isinstance(one.get(name), str) for name in answer.fields)), None)
    if found is None:
        return None, TRUNCATED if reply.cut else INVALID_ANSWER
    value: dict[str, Any] = {}
    if "label" in answer.fields:
        value["label"] = matching_option(found["label"], answer.options)
        if value["label"] is None:
            return None, INVALID_OPTION
    if "text" in answer.fields:
        value["text"] = clean_answer(found["text"])
        if not value["text"] and answer.kind == "text":
            return None, EMPTY_TEXT  # with a label in front, an answer without words is an answer
    return value, None


def read_text(reply: ChatReply) -> tuple[dict[str, Any] | None, str | None]:
    """A signal: any text, also one that the length bound ended, as in this process."""
    text = clean_answer(without_reasoning(reply.content))
    if text:
        return {"text": text}, None
    return None, TRUNCATED if reply.cut else EMPTY_TEXT


def matching_option(label: str, options: Sequence[str]) -> str | None:
    """The option that is meant: as it is, else but for capitals, blanks, ``_`` and ``-``, if that is just one."""
    if label in options:
        return label
    meant = [option for option in options if _plain(option) == _plain(label)]
    return meant[0] if len(meant) == 1 else None


class LogprobReader:
    """Reads letters, and knows whether a server tells log-probabilities at all: its replies show that."""

    def __init__(self) -> None:
        self._told = False

    def read(self, order: Sequence[int], reply: ChatReply) -> tuple[dict[str, Any] | None, str | None]:
        """Probabilities of the options, and how much of the answer they stand for.

        Args:
            order: the order in which the options were listed.
            reply: what came.

        Returns:
            ``{"p": [K], "mass": ...}`` and None; or None and the reason ("no_option": no letter is among the likeliest
            tokens; "no_logprobs": this reply told none, though others did).

        Raises:
            InputError: the server tells none.
        """
        if reply.logprobs is None:
            if self._told:
                return None, NO_LOGPROBS
            raise InputError(
                'The server of `base_url` must tell log-probabilities (logprobs, top_logprobs) for readout="exact", '
                "but its reply holds none; the probabilities of the options cannot be read; use "
                'readout="sampled" (--readout sampled), or a server that has them (vLLM, SGLang, llama.cpp, TGI).'
            )
        self._told = True
        p, mass = option_probabilities(reply.logprobs, order)
        return (None, NO_OPTION) if p is None else ({"p": [float(value) for value in p], "mass": mass}, None)


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").replace("-", " ").casefold().split())
