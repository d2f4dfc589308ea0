"""One question of a simulation to a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mf_llm.endpoints.chat import Answer, ChatRequest
from mf_llm.simulation.engines.answer_log import AnswerLog


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, what about, and where the answer goes.

    Attributes:
        log: keeps the answer.
        step: index of the step.
        turn: the person, or None for the signal behind the step.
        purpose: "label", "text", "action" (both in one answer) or "signal".
        request: what is sent.
        take_in: told the answer.
    """

    log: AnswerLog
    step: int
    turn: int | None
    purpose: str
    request: ChatRequest
    take_in: Callable[[Answer], None]
