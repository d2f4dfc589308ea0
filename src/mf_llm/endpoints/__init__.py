"""Language models behind OpenAI-compatible servers: requests, answers, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mf_llm._lazy_names import lazy_names

_PUBLIC_NAMES = {
    "Answer": "mf_llm.endpoints.chat",
    "AskingSession": "mf_llm.endpoints.asking_session",
    "ChatReply": "mf_llm.endpoints.chat",
    "ChatRequest": "mf_llm.endpoints.chat",
    "Counters": "mf_llm.endpoints.counters",
    "Endpoint": "mf_llm.endpoints.endpoint",
}

if TYPE_CHECKING:
    from mf_llm.endpoints.asking_session import AskingSession as AskingSession
    from mf_llm.endpoints.chat import Answer as Answer
    from mf_llm.endpoints.chat import ChatReply as ChatReply
    from mf_llm.endpoints.chat import ChatRequest as ChatRequest
    from mf_llm.endpoints.counters import Counters as Counters
    from mf_llm.endpoints.endpoint import Endpoint as Endpoint
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
