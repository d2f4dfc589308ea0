"""One question to a chat model, the reply of its server, and the answer that is made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mf_llm.endpoints.endpoint import Server


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a reply with its likeliest alternatives.

    Attributes:
        token: its text.
        top: text and log-probability of the alternatives, itself among them.
    """

    token: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class ChatReply:
    """What a server sent back.

    Attributes:
        content: the text ("" where there is none).
        cut: True where the length bound ended it.
        logprobs: its tokens with their alternatives, or None where the server tells none.
        prompt_tokens, new_tokens: as the server counted them, 0 where it does not.
        model: who answered, as the server says; "" where it does not.
    """

    content: str
    cut: bool
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One question.

    Attributes:
        server: whom it is for.
        messages: the chat.
        read: makes a value, or the reason why there is none, of a reply. What it raises ends everything.
        max_tokens: bound of the reply.
        temperature, top_p: how the server samples; None: as it likes.
        seed: seed of the server's sampling; None: none.
        fields: fields that a server may refuse; it is asked again without them, and never again with them if that
            helped.
        extra_body: further fields.
        second_chances: further attempts where `read` found no value.
    """

    server: Server
    messages: Sequence[Mapping[str, str]]
    read: Callable[[ChatReply], tuple[Any, str | None]] = field(compare=False)
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    second_chances: int = 0

    @property
    def key(self) -> str:
        """Hash of everything that is sent."""
        asked = [
            self.server.model,
            list(self.messages),
            self.max_tokens,
            self.temperature,
            self.top_p,
            self.seed,
            self.fields,
            self.extra_body,
        ]
        content = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a question.

    Attributes:
        value: what was read, or None.
        failure: why there is nothing, or None.
        requests: how often the server was asked.
        faults: how often it failed, by kind (the last failure included).
        prompt_tokens, new_tokens: of all replies.
    """

    value: Any = None
    failure: str | None = None
    requests: int = 1
    faults: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    new_tokens: int = 0
