"""Language models behind OpenAI-compatible servers: requests, answers, and what they cost."""

from __future__ import annotations

from mf_llm._lazy_names import lazy_names

_PUBLIC_NAMES = {
    "Answer": "mf_llm.endpoints.chat",
    "AskingSession": "mf_llm.endpoints.asking_session",
    "ChatReply": "mf_llm.endpoints.chat",
    "ChatRequest": "mf_llm.endpoints.chat",
    "Counters": "mf_llm.endpoints.counters",
    "Endpoint": "mf_llm.endpoints.endpoint",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
