"""An OpenAI-compatible chat server on the loopback interface that misbehaves when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Reply:
    """One response: a chat answer (`content`), or whatever `body` says; both after `wait` seconds."""

    content: str | None = None
    status: int = 200
    body: bytes | None = None
    wait: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


class MisbehavingServer:
    """Serves while the ``with`` block lasts.

    Args:
        reply: from a request (its JSON) and the number of earlier requests for the same messages to a `Reply`.

    Attributes:
        url: the base URL.
        requests: JSON and headers of every request, in order of arrival.
        most_at_once: the largest number of requests that were open together.
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]) -> None:
        self.reply = reply
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.most_at_once = 0
        self.open = 0
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> MisbehavingServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def prompts(self) -> list[str]:
        """The user's message of every request."""
        return [request["messages"][-1]["content"] for request, _ in self.requests]


class _Handler(BaseHTTPRequestHandler):
    owner: MisbehavingServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keeps the test output quiet."""

    def do_POST(self) -> None:
        owner = self.owner
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            earlier = sum(one["messages"] == request["messages"] for one, _ in owner.requests)
            owner.requests.append((request, dict(self.headers.items())))
            owner.open += 1
            owner.most_at_once = max(owner.most_at_once, owner.open)
        try:
            self._send(owner.reply(request, earlier))
        finally:
            with owner.lock:
                owner.open -= 1

    def _send(self, reply: Reply) -> None:
        if reply.wait:
            time.sleep(reply.wait)
        if reply.drop:
            self.close_connection = True
            self.connection.close()
            return
        message = {"role": "assistant", "content": reply.content}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        answer["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = json.dumps(answer).encode() if reply.body is None else reply.body
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client gave up
