"""Thirty of a hundred requests go wrong: every person has their own answer or their own typed failure."""

import json
import os
import random
import signal as signals
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
import small_events
from honest_server import MEAN_FIELD, honest, person_of
from small_events import outcome, small_event

from mf_llm import Rollout, SimulationConfig, simulate
from mf_llm.endpoints import Endpoint
from misbehaving_server import MisbehavingServer, Reply

pytestmark = pytest.mark.trust("faults", "requests to servers that fail, stall, die or answer by halves")

# A loaded machine may take its time for an honest answer.
RETRIES, TIMEOUT = 2, 5.0
POISON = "Zq7Poison"
# What goes wrong, and the name of it. The last three are answers, and wrong: they have one second chance.
FAULTS = {
    "error": "http_500",
    "busy": "http_429",
    "hang": "timeout",
    "broken": "connection_error",
    "short": "connection_error",
    "page": "invalid_response",
    "cut": "truncated",
    "garbage": "invalid_answer",
    "option": "invalid_option",
}
ANSWERS = ("cut", "garbage", "option")


def fault(kind: str, request) -> Reply:
    """A reply that went wrong; what is in it must never be seen again."""
    content = json.dumps({"label": "deny", "text": f"{POISON} {person_of(request)}"})
    return {
        "error": Reply(status=500, body=content.encode()),
        "busy": Reply(status=429, body=content.encode(), headers={"Retry-After": "0.01"}),
        "hang": Reply(content, wait=3 * TIMEOUT),
        "broken": Reply(drop=True),
        "short": Reply(content * 20, short=True),
        "page": Reply(body=f"<html>{POISON}</html>".encode()),
        "cut": Reply(content[: len(content) // 2], finish="length", usage=(5, 3)),
        "garbage": Reply(f"I think it is {POISON}.", usage=(5, 3)),
        "option": Reply(json.dumps({"label": POISON, "text": POISON}), usage=(5, 3)),
    }[kind]


class Schedule:
    """Which attempt at which question goes wrong, and how: a share of `bad` of all attempts, by a keyed draw."""

    def __init__(self, bad: float = 0.3) -> None:
        self.bad = bad

    def of(self, request, attempt: int) -> str | None:
        draw = random.Random(json.dumps([request["messages"], attempt]))
        if draw.random() >= self.bad:
            return None
        return draw.choice(list(FAULTS) if '"label"' in request["messages"][-1]["content"] else list(FAULTS)[:-1])

    def reply(self, request, earlier: int) -> Reply:
        if request["messages"][0]["content"].startswith(MEAN_FIELD):
            return honest(request)
        kind = self.of(request, earlier)
        return honest(request) if kind is None else fault(kind, request)

    def expected(self, request) -> tuple[str | None, Counter[str]]:
        """How a question ends, and what went wrong on the way."""
        failed = invalid = 0
        faults = Counter()
        while True:
            kind = self.of(request, failed + invalid)
            if kind is None:
                return None, faults
            faults[FAULTS[kind]] += 1
            if kind in ANSWERS:
                invalid += 1
                if invalid > 1:
                    return FAULTS[kind], faults
            else:
                failed += 1
                if failed > RETRIES:
                    return FAULTS[kind], faults


def run(server, event, output=None, resume=False, **settings) -> Rollout:
    endpoint = Endpoint(server.url, "m", concurrency=12, retries=RETRIES, delay=0.001, timeout=TIMEOUT)
    config = SimulationConfig(**{"warm_up": 8, "agents_per_step": 30, "signal": "both"} | settings)
    return simulate(endpoint, None, event, config, output=output, resume=resume, progress=False)


def test_thirty_percent_failures_poison_nothing_and_are_counted(tries, tmp_path):
    schedule, event = Schedule(), small_event(98)
    with MisbehavingServer(schedule.reply) as server:
        rollout = run(server, event, tmp_path, readout="sampled", action="label_text")
        asked = {}
        for request, _ in server.requests:
            if not request["messages"][0]["content"].startswith(MEAN_FIELD):
                asked.setdefault(person_of(request), request)
        n_requests = len(server.requests)
    tries.add(n_requests)
    faults, failures = Counter(), Counter()
    for row in rollout.simulated():
        failure, on_the_way = schedule.expected(asked[f"age: {20 + 3 * row.turn}"])
        faults += on_the_way
        failures[failure] += 1
        assert row.failure == failure and row.source == ("simulated" if failure is None else "failed")
        if failure is None:
            assert row.text.startswith(f"I am age: {20 + 3 * row.turn} and say") and row.label is not None
        else:
            assert (row.text, row.label, row.probabilities) == ("", None, None)
    assert len(rollout.simulated()) == 90 and 0 < rollout.n_failed == 90 - failures.pop(None) < 45
    assert len(faults) >= 8 and len(failures) >= 3
    assert [step.n_failed for step in rollout.steps] == [
        sum(row.failure is not None for row in rollout.actions if row.step == step.step) for step in rollout.steps
    ]
    told = json.loads((tmp_path / "endpoint.json").read_text())
    assert (Counter(told["faults"]), Counter(told["failures"])) == (faults, failures)
    assert told["requests"] == n_requests == told["answers"] + told["retries"]
    signals_and_texts = "".join(step.signal for step in rollout.steps) + "".join(row.text for row in rollout.actions)
    assert POISON not in signals_and_texts
    assert not any(POISON in prompt for prompt in server.prompts)


def test_a_signal_that_fails_leaves_the_one_before_in_force():
    def reply(request, earlier):
        if not request["messages"][0]["content"].startswith(MEAN_FIELD):
            return honest(request)
        return fault("error", request) if "age: " in request["messages"][-1]["content"] else honest(request)

    with MisbehavingServer(reply) as server:
        rollout = run(server, small_event(20), signal="text", agents_per_step=4, readout="sampled", action="text")
    failures = [step.signal_failure for step in rollout.steps]
    assert failures[:3] == [None] * 3 and set(failures[3:]) == {"http_500"}
    assert rollout.steps[2].signal == rollout.steps[-1].signal != ""
    assert rollout.n_failed == len(failures) - 3


# -- interrupted ------------------------------------------------------------------------------------------------------


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("how", [signals.SIGINT, signals.SIGKILL])
def test_a_stopped_run_has_kept_every_answer_and_goes_on_to_the_same_rollout(tmp_path, how):
    event, script = small_event(38), Path(__file__).with_name("interrupted_run.py")
    # `next` of a counter is one step, whichever thread takes it.
    arrived, release = count(1), threading.Event()

    def reply(request, earlier):
        if person_of(request) and next(arrived) > 25:  # in the middle of the last of three steps
            release.wait()
        return honest(request)

    with MisbehavingServer(reply) as server:
        command = [sys.executable, str(script), server.url, str(tmp_path / "cut")]
        path = {
            "PYTHONPATH": os.pathsep.join([str(Path(small_events.__file__).parent), os.environ.get("PYTHONPATH", "")])
        }
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | path)
        while lines(tmp_path / "cut" / "answers.jsonl") < 25 + 3 and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()[-2000:]
        process.send_signal(how)
        errors = process.communicate()[1]  # it does not wait for replies: there are none
        release.set()
    assert process.returncode == (130 if how == signals.SIGINT else -how), errors[-2000:]
    assert lines(tmp_path / "cut" / "journal.jsonl") == 4  # the header, the warm-up and two steps
    assert (tmp_path / "cut" / "endpoint.json").exists() == (how == signals.SIGINT)
    with MisbehavingServer(honest) as server:
        found = run(server, event, tmp_path / "cut", True, agents_per_step=10, readout="sampled")
        asked = [person_of(request) for request, _ in server.requests if person_of(request)]
        expected = run(server, event, tmp_path / "whole", agents_per_step=10, readout="sampled")
    assert len(asked) == 30 - 25 == len(set(asked))
    assert outcome(found) == outcome(expected)
    whole, cut = (json.loads((tmp_path / name / "endpoint.json").read_text()) for name in ("whole", "cut"))
    for name in ("answers", "requests", "prompt_tokens", "new_tokens", "failures"):
        assert cut[name] == whole[name]
