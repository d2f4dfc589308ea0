"""A server that lies, or never ends: a typed failure or a true answer, in bounded memory, and nothing crashes."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc

import pytest

from mf_llm.endpoints import AskingSession, ChatRequest, Endpoint
from mf_llm.endpoints.json_answers import json_objects, without_reasoning
from misbehaving_server import MisbehavingServer, Reply

pytestmark = pytest.mark.trust("faults", "servers that lie, send too much or never end")

MIB = 2**20
INVALID, OVERSIZED, BROKEN = "invalid_response", "oversized_response", "connection_error"
DEEP = b'{"a":' * 100_000


def body(logprobs: object = None, usage: object = None, **message: object) -> bytes:
    """An answer with whatever is given; NaN and infinity are written as Python writes them."""
    told = {"role": "assistant", "content": "A"} | message
    choice = {"index": 0, "message": told, "finish_reason": "stop", "logprobs": logprobs}
    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return json.dumps(answer | ({} if usage is None else {"usage": usage})).encode()


def token(logprob: object, name: object = "A", **more: object) -> dict[str, object]:
    return {"content": [{"token": name, "logprob": logprob, "top_logprobs": []} | more]}


# The body of a reply -> the failure it is. What is sent compressed counts as what comes out of it.
BODIES = {
    "empty": (b"", INVALID), "null": (b"null", INVALID), "a number": (b"3", INVALID), "a list": (b"[]", INVALID),
    "a page": (b"<html>", INVALID), "no UTF-8": (b'{"choices": "\xff\xfe"}', INVALID), "half": (body()[:40], INVALID),
    "two objects": (body() * 2, INVALID), "events": (b"data: {}\n\ndata: [DONE]\n\n", INVALID),
    "depth": (DEEP, INVALID), "no choice": (b'{"choices": []}', INVALID),
    "usage is a list": (body(usage=[1]), INVALID), "a null choice": (b'{"choices": [null]}', INVALID),
    "an error": (b'{"error": {"message": "busy", "code": 503}}', INVALID),
    "no message": (b'{"choices": [{"index": 0}]}', INVALID), "content is a number": (body(content=3), INVALID),
    "content is a list": (body(content=[{"type": "text", "text": "A"}]), INVALID),
    "NaN": (body(token(float("nan"))), INVALID), "infinite": (body(token(float("inf"))), INVALID),
    "positive": (body(token(0.5)), INVALID), "true": (body(token(True)), INVALID),
    "a word": (body(token("x")), INVALID),
    "none": (body(token(None)), INVALID), "a list of them": (body(token([0.0])), INVALID),
    "too large": (body(token(10**400)), INVALID), "token is a number": (body(token(-1.0, 7)), INVALID),
    "token is none": (body(token(-1.0, None)), INVALID),
    "alternatives are none": (body(token(-1.0, top_logprobs=7)), INVALID),
    "an alternative is NaN": (body(token(-1.0, top_logprobs=[{"token": "B", "logprob": float("nan")}])), INVALID),
    "a positive alternative": (body(token(-1.0, top_logprobs=[{"token": "B", "logprob": 2.0}])), INVALID),
    "large": (b" " * (20 * MIB), OVERSIZED), "long content": (body(content="x" * (20 * MIB)), OVERSIZED),
}  # fmt: skip
GOOD = {
    "no usage": body(), "usage is negative": body(usage={"prompt_tokens": -5}),
    "usage is a fraction": body(usage={"prompt_tokens": 0.5, "completion_tokens": 1e300}),
    "usage is a word": body(usage={"completion_tokens": "many"}),
    "usage is huge": body(usage={"prompt_tokens": 10**30}),
    "rounding": body(token(1e-4)), "impossible": body(token(-float("inf"))),
    "more fields": body(tool_calls=None, audio=3),
}  # fmt: skip


def ask(server: MisbehavingServer, *texts: str, **settings: object):
    endpoint = Endpoint(server.url, "m", **{"delay": 0.001, "timeout": 30.0, "retries": 1} | settings)
    with AskingSession(endpoint) as session:
        return session.ask(
            ChatRequest(
                server=endpoint.server("policy"),
                messages=[{"role": "user", "content": text}],
                read=lambda reply: (reply, None),
                max_tokens=5,
                fields={"logprobs": True, "top_logprobs": 5},
            )
            for text in texts
        )


@pytest.mark.parametrize("coded", ["as it is", "gzip", "wrong type"])
def test_bodies_that_are_no_answers(tries, coded):
    def reply(request, earlier):
        content = BODIES[request["messages"][-1]["content"]][0]
        if coded == "gzip":
            return Reply(body=gzip.compress(content, 1), headers={"Content-Encoding": "gzip"})
        return Reply(body=content, headers={"Content-Type": "image/png"} if coded == "wrong type" else {})

    with MisbehavingServer(reply) as server:
        answers = ask(server, *BODIES, concurrency=4)  # of more, the server lets some wait in vain
    for (name, (_, kind)), answer in zip(BODIES.items(), answers, strict=True):
        tries.add()
        assert (answer.failure, answer.value, answer.faults) == (kind, None, {kind: 2}), name


def test_what_is_wrong_beside_the_answer_does_not_matter(tries):
    with MisbehavingServer(lambda request, earlier: Reply(body=GOOD[request["messages"][-1]["content"]])) as server:
        answers = ask(server, *GOOD)
    for name, answer in zip(GOOD, answers, strict=True):
        tries.add()
        assert answer.failure is None and answer.value.content == "A", (name, answer)
        assert answer.prompt_tokens == answer.new_tokens == 0, name


@pytest.mark.parametrize("piece", [b" " * MIB, b'{"choices": [' * 999], ids=["blanks", "JSON"])
def test_a_body_without_end_is_cut_off(tries, piece):
    tries.add()
    with MisbehavingServer(lambda request, earlier: Reply(endless=piece)) as server:
        (answer,) = ask(server, "x", retries=0)
        # What the two ends have in their buffers was sent, too.
        assert server.endless_bytes < 40 * MIB
    assert (answer.failure, answer.requests) == (OVERSIZED, 1)


def test_a_small_body_that_unpacks_to_a_huge_one_is_never_in_memory(tries):
    tries.add()
    size = tries.of(200, 1500) * MIB
    bomb = gzip.compress(bytes(size), 1)
    assert len(bomb) < size / 200
    with MisbehavingServer(lambda request, earlier: Reply(body=bomb, headers={"Content-Encoding": "gzip"})) as server:
        tracemalloc.start()
        try:
            (answer,) = ask(server, "x", retries=0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert answer.failure == OVERSIZED
    assert peak < 120 * MIB


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_end_and_take_no_key_elsewhere(tries, status):
    tries.add(2)
    with MisbehavingServer(lambda request, earlier: Reply(body=body())) as elsewhere:

        def reply(request, earlier):
            where = elsewhere.url if request["messages"][-1]["content"] == "away" else server.url
            return Reply(status=status, body=b"", headers={"Location": f"{where}/chat/completions"})

        with MisbehavingServer(reply) as server:
            for text in ("round", "away"):
                (answer,) = ask(server, text, api_key="key-of-the-first", retries=0)
                # A redirect of these kinds makes a GET of it, which nobody answers here.
                followed = text == "away" and status in (307, 308)
                assert (answer.failure is None) == followed, answer
            assert len(server.requests) < 60
    told = json.dumps([headers for _, headers in elsewhere.requests])
    assert len(elsewhere.requests) == (status in (307, 308)) and "key-of-the-first" not in told


def test_another_model_that_answers_is_told_once(caplog):
    with MisbehavingServer(lambda request, earlier: Reply("A")) as server, caplog.at_level(logging.WARNING):
        endpoint = Endpoint(server.url, "the-model-asked-for")
        read = lambda reply: (reply.model, None)  # noqa: E731
        messages = [{"role": "user", "content": "x"}]
        one = ChatRequest(server=endpoint.server("policy"), messages=messages, read=read, max_tokens=1)
        with AskingSession(endpoint) as session:
            assert [answer.value for answer in session.ask([one, one])] == ["m", "m"]
    assert caplog.text.count("'the-model-asked-for' was asked, and the server says that 'm' answered") == 1


@pytest.mark.parametrize("wait", ["nan", "inf", "-inf", "1e999", "-5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_waits_that_cannot_be_are_not_waited_for(tries, wait):
    def reply(request, earlier):
        return Reply(status=503, body=b"", headers={"Retry-After": wait}) if not earlier else Reply(body=body())

    tries.add()
    with MisbehavingServer(reply) as server:
        (answer,) = ask(server, "x")
    assert (answer.failure, answer.faults) == (None, {"http_503": 1})


def test_long_nonsense_is_read_in_little_time(tries):
    """Each of these takes hours if it is read again from every place."""
    for text in ("<think>" * 200_000, "x" * 2_000_000, "{" * 1_000_000, '{"a":' * 300_000, '{"a": "' * 200_000):
        tries.add()
        assert json_objects(without_reasoning(text)) == []


def test_an_object_with_a_repeated_key_is_none(tries):
    tries.add(2)
    assert json_objects('{"label": "deny", "label": "support"} {"label": "deny"}') == [{"label": "deny"}]
    assert json_objects('{"label": "deny", "more": {"a": 1, "a": 2}}') == []
