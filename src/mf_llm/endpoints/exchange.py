"""One exchange with a server: a request goes out, a reply comes back or the reason why there is none."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from mf_llm.endpoints.chat import ChatReply, ChatRequest, TokenLogprob
from mf_llm.endpoints.endpoint import Server
from mf_llm.errors import InputError
from mf_llm.redaction import redact_logs

if TYPE_CHECKING:
    from huggingface_hub import AsyncInferenceClient

TIMEOUT, CONNECTION, INVALID_RESPONSE = "timeout", "connection_error", "invalid_response"
OVERSIZED_RESPONSE = "oversized_response"
# Of a reply: far more than a server needs to say so many tokens and their alternatives in JSON.
_LEAST_BYTES, _BYTES_PER_TOKEN = 2**24, 512
_MOST_BYTES: ContextVar[int] = ContextVar("most_bytes")
# Log-probabilities are at most 0; so much may be rounding of a half-precision model.
_ROUNDING = 0.01

# Sent where no key is given: the client would otherwise send the machine's Hub token to whatever server is named.
_NO_KEY = "none"
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = {401: "the key is not accepted", 403: "the key has no access", 404: "there is no such path or model"}


class Fault(Exception):
    """There is no reply.

    Args:
        kind: "timeout", "connection_error", "invalid_response", "oversized_response" or "http_" and a status.
        wait: seconds that the server wants to be left alone; None: it will not answer this request.
    """

    def __init__(self, kind: str, wait: float | None) -> None:
        super().__init__(kind)
        self.kind, self.wait = kind, wait


def chat_client(server: Server) -> AsyncInferenceClient:
    """A client of one server."""
    from huggingface_hub import AsyncInferenceClient

    redact_logs()
    credentials, address = _without_credentials(server.base_url)
    # Its own timeout is of single reads: a server that dribbles would never run into it (see `exchange`).
    return _bounded(AsyncInferenceClient)(
        base_url=address, api_key=server.api_key or _NO_KEY, headers=credentials, timeout=None
    )


@cache
def _bounded(client: type[AsyncInferenceClient]) -> type[AsyncInferenceClient]:
    """The class of clients that read no more of a body than a reply can be: the client itself reads without bound."""

    class BoundedClient(client):  # type: ignore[valid-type, misc]
        async def _get_async_client(self) -> Any:
            session = await super()._get_async_client()
            if _read_bounded not in session.event_hooks["response"]:
                session.event_hooks["response"].append(_read_bounded)
            return session

    return BoundedClient


async def _read_bounded(response: Any) -> None:
    """Reads a body piece by piece, unpacked, as long as it is not too long."""
    pieces, size = [], 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > _MOST_BYTES.get():
            raise Fault(OVERSIZED_RESPONSE, 0.0)
        pieces.append(piece)
    response._content = b"".join(pieces)  # what `aread` would set


def _without_credentials(base_url: str) -> tuple[dict[str, str] | None, str]:
    """The header that says what ``user:password@`` says in an address, and the address without it."""
    address = urlsplit(base_url)
    said, at, host = address.netloc.rpartition("@")
    if not at:
        return None, base_url
    coded = base64.b64encode(unquote(said).encode()).decode()
    return {"authorization": f"Basic {coded}"}, urlunsplit(address._replace(netloc=host))


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object of this schema, in the words of TGI (`value`) and llama.cpp (`schema`).

    The client rewrites OpenAI's "json_schema" to TGI's form for every address, so that it cannot be sent as it is.
    """
    return {"type": "json_object", "value": schema, "schema": schema}


async def exchange(
    client: AsyncInferenceClient, request: ChatRequest, *, with_fields: bool, timeout: float
) -> ChatReply:
    """Asks once.

    Args:
        client: of the request's server.
        request: the question.
        with_fields: send also the fields that a server may refuse.
        timeout: seconds for the whole reply.

    Raises:
        Fault: there is no reply.
        InputError: the server will answer nobody who asks like this.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, InferenceTimeoutError, OfflineModeIsEnabled

    optional = dict(request.fields) if with_fields else {}
    alternatives = 1 + optional.get("top_logprobs", 0)
    _MOST_BYTES.set(_LEAST_BYTES + _BYTES_PER_TOKEN * request.max_tokens * alternatives)
    try:
        async with asyncio.timeout(timeout):
            output = await client.chat_completion(
                [dict(message) for message in request.messages],
                model=request.server.model,
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                extra_body=dict(request.extra_body) or None,
                **optional,
            )
        return _reply(output)
    except OfflineModeIsEnabled as error:
        raise InputError(
            "HF_HUB_OFFLINE must not be set to ask a server, but is; the client refuses all requests; unset it."
        ) from error
    except (InferenceTimeoutError, TimeoutError):
        raise Fault(TIMEOUT, 0.0) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _REFUSED:
            # Not `from error`: its text holds what the server sent, which may repeat a key.
            raise InputError(
                f"`base_url`, `model` and `api_key` must be those of a server that answers, got status {status} for "
                f"model {request.server.model!r}: {_REFUSED[status]}; nothing more was asked; correct them."
            ) from None
        wait = _retry_after(error.response.headers) if status in _RETRIED else None
        raise Fault(f"http_{status}", wait) from None
    except (HTTPError, OSError):
        raise Fault(CONNECTION, 0.0) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        # A page of a proxy, JSON of another protocol, or numbers that cannot be.
        raise Fault(INVALID_RESPONSE, 0.0) from None


def _reply(output: Any) -> ChatReply:
    choice, usage = output.choices[0], output.usage
    content = choice.message.content
    if content is not None and not isinstance(content, str):
        raise TypeError("no text")
    return ChatReply(
        content=content or "",
        cut=choice.finish_reason == "length",
        logprobs=_logprobs(choice.logprobs),
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        new_tokens=_count(getattr(usage, "completion_tokens", None)),
        model=output.model if isinstance(output.model, str) else "",
    )


def _count(told: Any) -> int:
    """A number of tokens; what is none counts as not told: the answer is no worse for it."""
    return told if isinstance(told, int) and 0 <= told < 2**31 else 0


def _logprobs(told: Any) -> tuple[TokenLogprob, ...] | None:
    """Tokens with their alternatives; None where the reply tells of none."""
    tokens = []
    for one in getattr(told, "content", None) or ():
        # A server may list the token itself among its alternatives, or only those that were likelier.
        top = {entry.token: float(entry.logprob) for entry in one.top_logprobs or ()} | {one.token: float(one.logprob)}
        if not all(isinstance(token, str) for token in top):
            raise TypeError("no text")
        if not all(value <= _ROUNDING for value in top.values()):  # nor is nan
            raise ValueError("no probabilities")
        tokens.append(TokenLogprob(one.token, tuple(top.items())))
    return tuple(tokens) or None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds a server asks to be left alone; 0 where it says nothing, or gives a date."""
    try:
        wanted = float(headers.get("retry-after", 0))
    except ValueError:
        return 0.0
    return max(wanted, 0.0) if math.isfinite(wanted) else 0.0
