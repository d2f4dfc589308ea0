"""`AskingSession`: many questions to servers at once, a bounded number of them in flight."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mf_llm.endpoints.chat import Answer, ChatReply, ChatRequest
from mf_llm.endpoints.endpoint import Endpoint, Server
from mf_llm.endpoints.exchange import Fault, chat_client, exchange
from mf_llm.endpoints.request_rate import RequestRate
from mf_llm.errors import InputError
from mf_llm.simulation.keyed_draws import stream_key, uniform_number

if TYPE_CHECKING:
    from huggingface_hub import AsyncInferenceClient

logger = logging.getLogger(__name__)

# A client keeps at most so many connections open between requests.
_KEPT_CONNECTIONS = 20
# For each request in flight so many others may wait for their next attempt meanwhile: a slot is never kept waiting.
_BEGUN_PER_SLOT = 4
_MIGHT_BE_THE_FIELDS = ("http_400", "http_422")
_SECONDS_TO_STOP = 5.0


class AskingSession:
    """Asks while its ``with`` block lasts; connections are kept from one call to the next.

    An event loop of its own runs in a thread, so that it works in notebooks, too, and that an interruption of the
    caller ends what is in flight at once.

    Args:
        endpoint: bounds on concurrency, attempts and time.
        give_up_after: this many questions in a row without any reply are an error; None: never.
    """

    def __init__(self, endpoint: Endpoint, *, give_up_after: int | None = None) -> None:
        self.endpoint, self.give_up_after = endpoint, give_up_after
        self._rate = RequestRate(endpoint.requests_per_minute)
        self._clients: dict[tuple[Server, int], AsyncInferenceClient] = {}
        self._refused: set[tuple[str, ...]] = set()
        self._other_models: set[tuple[str, str]] = set()
        self._without_reply = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> AskingSession:
        self._loop = asyncio.new_event_loop()
        self._slots: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for slot in reversed(range(self.endpoint.concurrency)):
            self._slots.put_nowait(slot)
        self._thread = threading.Thread(target=self._loop.run_forever, name="asking-session", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        try:
            self._run(self._close())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_SECONDS_TO_STOP)
            if not thread.is_alive():
                loop.close()
            self._loop = self._thread = None

    def ask(
        self, requests: Iterable[ChatRequest], answered: Callable[[int, Answer], None] = lambda n, answer: None
    ) -> list[Answer]:
        """Asks all questions.

        Args:
            requests: made one by one, when their turn comes.
            answered: told the place and the answer of each question as soon as it is there, one at a time.

        Returns:
            The answers, in the order of the questions.

        Raises:
            InputError: a server refuses for good, or gives no more replies.
        """
        return self._run(self._ask_all(requests, answered))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            work.close()
            raise RuntimeError("An AskingSession asks inside its `with` block alone.")
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            # In pieces: some platforms do not interrupt a thread that waits without end.
            while not wait([future], timeout=0.5).done:
                pass
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                with suppress(TimeoutError):
                    asyncio.run_coroutine_threadsafe(_all_cancelled(), self._loop).result(_SECONDS_TO_STOP)
            raise

    async def _ask_all(self, requests: Iterable[ChatRequest], answered: Callable[[int, Answer], None]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        room = asyncio.Semaphore(_BEGUN_PER_SLOT * self.endpoint.concurrency)

        async def one(n: int, request: ChatRequest) -> None:
            answers[n] = await self._answer(request)
            answered(n, answers[n])
            room.release()

        try:
            async with asyncio.TaskGroup() as group:
                for n, request in enumerate(requests):
                    await room.acquire()
                    group.create_task(one(n, request))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [answers[n] for n in range(len(answers))]

    async def _answer(self, request: ChatRequest) -> Answer:
        """Asks until there is a value, or no attempt is left."""
        endpoint, faults = self.endpoint, Counter[str]()
        failed = invalid = prompt_tokens = new_tokens = 0
        while True:
            pause: float | None = None
            failure: str | None
            try:
                # Another seed: the same answer to the same question would be no second chance.
                seed = None if request.seed is None else (request.seed + invalid) % 2**31
                reply = await self._reply(replace(request, seed=seed), faults)
            except Fault as fault:
                failure, value, left = fault.kind, None, failed < endpoint.retries and fault.wait is not None
                if left:
                    spread = 0.5 + uniform_number(stream_key(request.key, "retry"), failed)
                    pause = min(max(fault.wait or 0.0, endpoint.delay * 2**failed * spread), endpoint.max_delay)
                else:
                    self._note_silence(fault.kind)
                failed += 1
            else:
                self._without_reply = 0
                self._note_model(request.server.model, reply.model)
                prompt_tokens, new_tokens = prompt_tokens + reply.prompt_tokens, new_tokens + reply.new_tokens
                value, failure = request.read(reply)
                left = failure is not None and invalid < request.second_chances
                invalid += 1
            if failure is not None:
                faults[failure] += 1
            if not left:
                return Answer(
                    value=value if failure is None else None,
                    failure=failure,
                    requests=sum(faults.values()) + (failure is None),
                    faults=dict(faults),
                    prompt_tokens=prompt_tokens,
                    new_tokens=new_tokens,
                )
            logger.info("Asking again after %s.", failure)
            await asyncio.sleep(pause or 0.0)

    async def _reply(self, request: ChatRequest, faults: Counter[str]) -> ChatReply:
        """One reply, in a slot of its own; a server that refuses the fields it may refuse is asked without."""
        fields, timeout = tuple(sorted(request.fields)), self.endpoint.timeout
        slot = await self._slots.get()
        try:
            client = self._client(request.server, slot)
            await self._rate.wait()
            if not fields or fields in self._refused:
                return await exchange(client, request, with_fields=False, timeout=timeout)
            try:
                return await exchange(client, request, with_fields=True, timeout=timeout)
            except Fault as fault:
                if fault.kind not in _MIGHT_BE_THE_FIELDS:
                    raise
                faults[fault.kind] += 1
            await self._rate.wait()
            # Still refused, it is this question (too long), not the fields.
            reply = await exchange(client, request, with_fields=False, timeout=timeout)
            self._refused.add(fields)
            return reply
        finally:
            self._slots.put_nowait(slot)

    def _client(self, server: Server, slot: int) -> AsyncInferenceClient:
        place = (server, slot // _KEPT_CONNECTIONS)
        if place not in self._clients:
            self._clients[place] = chat_client(server)
        return self._clients[place]

    def _note_silence(self, kind: str) -> None:
        self._without_reply += 1
        if self.give_up_after is not None and self._without_reply >= self.give_up_after:
            raise InputError(
                f"`base_url` must be the address of a server that answers, got no reply to {self._without_reply} "
                f"questions in a row (the last: {kind}); going on would leave people without actions; what was "
                "answered is kept: go on with --resume (resume=True) when the server is up."
            )

    def _note_model(self, asked: str, answered: str) -> None:
        """Says once that another model answers: often the same by its full name, and sometimes not."""
        if answered and answered != asked and (asked, answered) not in self._other_models:
            self._other_models.add((asked, answered))
            logger.warning("Model %r was asked, and the server says that %r answered.", asked, answered[:200])

    async def _close(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()


async def _all_cancelled() -> None:
    """Waits until everything that was cancelled has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
