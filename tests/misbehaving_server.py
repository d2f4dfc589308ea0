"""An OpenAI-compatible chat server on the loopback interface that misbehaves when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from loopback_server import LoopbackServer, QuietHandler


@dataclass
class Reply:
    """One response: a chat answer (`content`), or whatever `body` says; both after `wait` seconds.

    `logprobs` are of the first token: texts and log-probabilities of its alternatives. With `short`, the connection
    ends before the body does; with `drop`, before anything is sent. `endless` is sent again and again, until nobody
    reads any more.
    """

    content: str | None = None
    finish: str = "stop"
    logprobs: dict[str, float] | None = None
    usage: tuple[int, int] | None = None
    status: int = 200
    body: bytes | None = None
    wait: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    short: bool = False
    endless: bytes | None = None


class MisbehavingServer(LoopbackServer):
    """Serves while the ``with`` block lasts.

    Args:
        reply: from a request (its JSON) and the number of earlier requests for the same messages to a `Reply`.

    Attributes:
        url: the base URL.
        requests: JSON and headers of every request, in order of arrival.
        most_at_once: the largest number of requests that were open together.
        changes: time, and how many were open from then on.
        endless_bytes: how much of endless bodies was sent.
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]) -> None:
        super().__init__(_Handler)
        self.reply = reply
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.most_at_once = 0
        self.open = 0
        self.changes: list[tuple[float, int]] = []
        self.endless_bytes = 0
        self.lock = threading.Lock()
        self.url += "/v1"

    def count(self, change: int) -> None:
        """One request more or less is open."""
        self.open += change
        self.most_at_once = max(self.most_at_once, self.open)
        self.changes.append((time.perf_counter(), self.open))

    @property
    def prompts(self) -> list[str]:
        """The user's message of every request."""
        return [request["messages"][-1]["content"] for request, _ in self.requests]


class _Handler(QuietHandler):
    owner: MisbehavingServer

    def do_POST(self) -> None:
        owner = self.owner
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            earlier = sum(one["messages"] == request["messages"] for one, _ in owner.requests)
            owner.requests.append((request, dict(self.headers.items())))
            owner.count(1)
        try:
            reply = owner.reply(request, earlier)
            if reply.wait:
                time.sleep(reply.wait)
        finally:
            # Before the answer: who has it may ask again before this thread goes on.
            with owner.lock:
                owner.count(-1)
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        if reply.drop:
            self.close_connection = True
            self.connection.close()
            return
        if reply.endless is not None:
            self._send_without_end(reply.endless, reply.headers)
            return
        message = {"role": "assistant", "content": reply.content}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        choice = answer["choices"] = [{"index": 0, "message": message, "finish_reason": reply.finish}]
        if reply.logprobs is not None:
            top = [{"token": token, "logprob": value} for token, value in reply.logprobs.items()]
            choice[0]["logprobs"] = {"content": [top[0] | {"top_logprobs": top}]}
        if reply.usage is not None:
            prompt, new = reply.usage
            answer["usage"] = {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
        body = json.dumps(answer).encode() if reply.body is None else reply.body
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if reply.short else body)
            if reply.short:
                self.close_connection = True
        except OSError:
            self.close_connection = True  # the client gave up

    def _send_without_end(self, piece: bytes, headers: dict[str, str]) -> None:
        self.close_connection = True
        with suppress(OSError):  # the client gave up
            self.send_response(200)
            for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.owner.endless_bytes += len(piece)
