"""Many questions at once: bounded, kept busy, tried again, counted, and stopped at once."""

import json
import logging
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from mf_llm.endpoints import AskingSession, ChatRequest, Counters, Endpoint, asking_session
from mf_llm.endpoints.request_rate import RequestRate
from mf_llm.errors import InputError
from misbehaving_server import MisbehavingServer, Reply

SERVERS = pytest.mark.trust("faults", "requests to servers that fail, stall, die or answer by halves")


def question(server, text, read=lambda reply: (reply.content, None), **settings) -> ChatRequest:
    endpoint = Endpoint(server.url, "some-model")
    messages = [{"role": "user", "content": str(text)}]
    return ChatRequest(
        server=endpoint.server("policy"), messages=messages, read=read, **{"max_tokens": 5, "seed": 1} | settings
    )


def session_of(server, give_up_after=None, **settings) -> AskingSession:
    endpoint = Endpoint(server.url, "some-model", **{"delay": 0.001, "timeout": 20.0} | settings)
    return AskingSession(endpoint, give_up_after=give_up_after)


def echo(request, earlier) -> Reply:
    return Reply("said " + request["messages"][-1]["content"], usage=(3, 2))


def test_answers_come_in_the_order_of_the_questions_and_are_told_at_once():
    def reply(request, earlier):
        number = int(request["messages"][-1]["content"])
        return Reply(f"said {number}", wait=0.002 * (40 - number))

    told = []
    with MisbehavingServer(reply) as server, session_of(server, concurrency=8) as session:
        answers = session.ask((question(server, n) for n in range(40)), lambda n, answer: told.append((n, answer)))
        again = session.ask([question(server, "7")])
    assert [answer.value for answer in answers] == [f"said {n}" for n in range(40)]
    assert sorted(told, key=lambda one: one[0]) == list(enumerate(answers))
    assert 2 <= server.most_at_once <= 8
    assert again[0].value == "said 7"


@pytest.mark.parametrize("failing", [0.0, 0.3])
def test_the_concurrency_is_kept_busy_and_never_exceeded(failing):
    """Also while others wait for their next attempt. An answer is held back until all slots are taken again."""
    concurrency, n = 16, 112
    bad = {number for number in range(n) if number % 10 < 10 * failing}
    turn, answered, to_come = threading.Condition(), 0, n

    def reply(request, earlier):
        nonlocal answered, to_come
        fails = earlier == 0 and int(request["messages"][-1]["content"]) in bad
        with turn:
            turn.notify_all()
            in_time = turn.wait_for(lambda: len(server.requests) >= min(answered + concurrency, to_come), timeout=60)
            answered += 1
            to_come += fails
            turn.notify_all()
        assert in_time, "a slot stayed free"
        return Reply(status=503, body=b"{}") if fails else Reply("fine")

    with (
        MisbehavingServer(reply) as server,
        session_of(server, concurrency=concurrency, delay=0.25, timeout=120.0) as session,
    ):
        answers = session.ask(question(server, i) for i in range(n))
        changes = server.changes
    assert all(answer.failure is None for answer in answers)
    assert server.most_at_once <= concurrency
    # Busy: from the first time that all slots are taken to the last.
    full = [i for i, (_, count) in enumerate(changes) if count == concurrency]
    busy = changes[full[0] : full[-1] + 1]
    area = sum(count * (later - now) for (now, count), (later, _) in pairwise(busy))
    assert area / (busy[-1][0] - busy[0][0]) >= 0.9 * concurrency
    handled = sum(change > before for (_, before), (_, change) in pairwise(changes[full[0] : full[-1] + 1]))
    assert handled >= 0.7 * n  # that is most of the run


def test_questions_are_made_when_their_turn_comes():
    made = []

    def questions(server):
        for n in range(200):
            made.append(n)
            yield question(server, n)

    with MisbehavingServer(echo) as server, session_of(server, concurrency=2) as session:
        most = []
        session.ask(questions(server), lambda n, answer: most.append(len(made) - len(most)))
    assert len(made) == 200 and max(most) <= 10


@SERVERS
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_the_server_did_wrong_is_tried_again_with_the_same_seed(status):
    def reply(request, earlier):
        return Reply(status=status, body=b"{}") if earlier < 2 else echo(request, earlier)

    with MisbehavingServer(reply) as server, session_of(server, retries=2) as session:
        (answer,) = session.ask([question(server, "x")])
    assert answer.value == "said x" and answer.failure is None
    assert (answer.requests, answer.faults) == (3, {f"http_{status}": 2})
    assert [request["seed"] for request, _ in server.requests] == [1, 1, 1]


@SERVERS
def test_an_invalid_answer_has_a_second_chance_with_another_seed_and_its_tokens_count():
    def reply(request, earlier):
        return Reply(
            "nonsense" if earlier == 0 or "never" in request["messages"][-1]["content"] else "good", usage=(10, 4)
        )

    def read(reply):
        return (reply.content, None) if reply.content == "good" else (None, "invalid_answer")

    with MisbehavingServer(reply) as server, session_of(server) as session:
        texts = ["once", "never"]
        once, never = session.ask(question(server, text, read, second_chances=1) for text in texts)
    assert (once.value, once.failure, once.requests, once.faults) == ("good", None, 2, {"invalid_answer": 1})
    assert (never.value, never.failure, never.requests, never.faults) == (
        None,
        "invalid_answer",
        2,
        {"invalid_answer": 2},
    )
    assert (once.prompt_tokens, once.new_tokens, never.prompt_tokens) == (20, 8, 20)
    seeds = Counter((request["messages"][-1]["content"], request["seed"]) for request, _ in server.requests)
    assert seeds == {("once", 1): 1, ("once", 2): 1, ("never", 1): 1, ("never", 2): 1}
    counters = Counters((1.0, 10.0))
    counters.add(once), counters.add(never)
    assert (counters.answers, counters.requests, counters.retries) == (2, 4, 2)
    assert (counters.faults, counters.failures) == ({"invalid_answer": 3}, {"invalid_answer": 1})
    assert counters.cost == pytest.approx((40 * 1.0 + 16 * 10.0) / 1e6)
    assert "4 requests (2 of them again)" in counters.describe() and "invalid_answer 1" in counters.describe()


@SERVERS
def test_a_reply_that_dribbles_runs_into_the_timeout():
    def reply(request, earlier):
        return Reply("late", wait=1.5)

    with MisbehavingServer(reply) as server, session_of(server, timeout=0.2, retries=1) as session:
        (answer,) = session.ask([question(server, "x")])
    assert (answer.failure, answer.faults, answer.requests) == ("timeout", {"timeout": 2}, 2)


@SERVERS
def test_every_way_to_fail_has_its_name(tries):
    replies = {
        "page": (Reply(body=b"<html>Welcome</html>"), "invalid_response"),
        "strange": (Reply(body=b'{"choices": []}'), "invalid_response"),
        "gone": (Reply(drop=True), "connection_error"),
        "short": (Reply("x" * 500, short=True), "connection_error"),
        "teapot": (Reply(status=418, body=b"{}"), "http_418"),
        "long": (Reply(status=400, body=b"{}"), "http_400"),
        "broken": (Reply(status=500, body=b"{}"), "http_500"),
    }
    with MisbehavingServer(lambda request, earlier: replies[request["messages"][-1]["content"]][0]) as server:
        with session_of(server, retries=1) as session:
            answers = session.ask(question(server, text) for text in replies)
        asked = Counter(prompt for prompt in server.prompts)
    tries.add(len(replies))
    assert [answer.failure for answer in answers] == [kind for _, kind in replies.values()]
    assert all(answer.value is None for answer in answers)
    assert {text: asked[text] for text in replies} == dict.fromkeys(replies, 2) | {"teapot": 1, "long": 1}
    assert [answer.requests for answer in answers] == [asked[text] for text in replies]


@SERVERS
def test_a_server_that_is_gone_ends_everything():
    with (
        MisbehavingServer(lambda request, earlier: Reply(status=500, body=b"{}")) as server,
        session_of(server, give_up_after=10, retries=0, concurrency=3) as session,
        pytest.raises(InputError, match=r"got no reply to 10 questions in a row \(the last: http_500\).*--resume"),
    ):
        session.ask(question(server, n) for n in range(1000))
    assert len(server.requests) < 40


@SERVERS
def test_failures_between_answers_end_nothing():
    def reply(request, earlier):
        return (
            echo(request, earlier)
            if int(request["messages"][-1]["content"]) % 4 == 0
            else Reply(status=500, body=b"{}")
        )

    with MisbehavingServer(reply) as server, session_of(server, give_up_after=10, retries=0, concurrency=1) as session:
        answers = session.ask(question(server, n) for n in range(60))
    assert Counter(answer.failure for answer in answers) == {None: 15, "http_500": 45}


def test_no_key_goes_to_another_server_or_into_a_log(monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_this_machine")
    with MisbehavingServer(echo) as one, MisbehavingServer(echo) as other, caplog.at_level(logging.DEBUG):
        endpoint = Endpoint(one.url, "m", mean_field_base_url=other.url, api_key="key-of-the-first")
        with AskingSession(endpoint) as session:
            for role in ("policy", "mean_field"):
                messages = [{"role": "user", "content": "x"}]
                read = lambda reply: (reply.content, None)  # noqa: E731
                session.ask([ChatRequest(server=endpoint.server(role), messages=messages, read=read, max_tokens=1)])
    keys = [{name.lower(): value for name, value in s.requests[0][1].items()}["authorization"] for s in (one, other)]
    assert keys == ["Bearer key-of-the-first", "Bearer none"]
    told = caplog.text + repr(endpoint) + repr(endpoint.server("policy")) + json.dumps(endpoint.fingerprint())
    assert "key-of-the-first" not in told and "secret" not in told


@SERVERS
def test_what_a_reader_raises_ends_everything_and_the_session_can_go_on():
    def read(reply):
        raise InputError("no such thing")

    with MisbehavingServer(echo) as server, session_of(server, concurrency=2) as session:
        with pytest.raises(InputError, match="no such thing"):
            session.ask(question(server, n, read) for n in range(100))
        assert len(server.requests) < 20
        assert session.ask([question(server, "y")])[0].value == "said y"


@SERVERS
def test_an_interruption_of_the_caller_ends_what_is_in_flight(monkeypatch):
    """As Ctrl-C does: the exception comes up in the thread that waits, and no reply ever comes."""
    begun, release, told = threading.Event(), threading.Event(), []

    def reply(request, earlier):
        begun.set()
        release.wait()
        return Reply("late")

    def interrupted(futures, timeout):
        begun.wait()
        raise KeyboardInterrupt

    with MisbehavingServer(reply) as server, session_of(server, timeout=600.0) as session:
        with monkeypatch.context() as patch:
            patch.setattr(asking_session, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                session.ask([question(server, n) for n in range(100)], lambda n, answer: told.append(n))
        assert not told and len(server.requests) <= 16
        release.set()
        server.reply = echo
        assert session.ask([question(server, "y")])[0].value == "said y"


def test_requests_are_spaced():
    rate = RequestRate(120.0)
    assert [rate.reserve(now) for now in (0.0, 0.0, 0.1, 5.0, 5.0)] == [0.0, 0.5, 0.9, 0.0, 0.5]
    starts = []

    def reply(request, earlier):
        starts.append(time.perf_counter())
        return echo(request, earlier)

    with MisbehavingServer(reply) as server, session_of(server, requests_per_minute=600.0) as session:
        session.ask([question(server, "the connection is made")])
        starts.clear()
        session.ask(question(server, n) for n in range(9))
    assert max(starts) - min(starts) >= 0.5 * 8 * 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:8000"}, "`base_url` must be the http"),
        ({"mean_field_base_url": "ftp://x"}, "`base_url` must be the http"),
        ({"concurrency": 0}, "`concurrency` must be at least 1"),
        ({"retries": -1}, "`retries` must be at least 0"),
        ({"timeout": 0}, "`timeout` must be positive"),
        ({"requests_per_minute": 0}, "`requests_per_minute` must be positive"),
        ({"price_per_million": (1.0,)}, "`price_per_million` must be two finite numbers"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        Endpoint(**{"base_url": "http://localhost:1/v1", "model": "m"} | settings)
