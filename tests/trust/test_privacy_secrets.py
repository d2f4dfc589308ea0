"""Keys and tokens reach nothing that is written, shown or logged, whether a run succeeds or fails."""

from __future__ import annotations

import base64
import json
import logging
import sys
import traceback
from pathlib import Path

import pytest
from honest_server import honest
from searched_folders import check_nothing_leaked, leaks
from small_events import small_event

from mf_llm import InputError, SimulationConfig, cli, simulate
from mf_llm.endpoints import Endpoint
from mf_llm.redaction import redacted
from misbehaving_server import MisbehavingServer, Reply

HUB = "hf_TokenOfNobodyAtAll0123456789"
LOGIN = "hf_FromTheLoginFile9876543210"
KEY, PASSWORD, QUERY = "key-Of-The-Endpoint-41", "p@ss-In-Address-42", "given-In-Query-43"
BODY, DEEP = "given-In-Body-44", "deep-In-Body-45"
ENDPOINTS = "servers that answer, refuse, fail and repeat keys: logs, messages, files"
COMMANDS = "commands that name keys, rightly and wrongly: logs, messages, files, reports"
SECRETS = (HUB, LOGIN, KEY, PASSWORD, QUERY, BODY, DEEP)


def repeated(request: dict, headers: dict[str, str], secret: str) -> bytes:
    """What was sent, as a server in trouble may repeat it."""
    said = {"error": {"message": f"invalid key {secret}, {json.dumps(headers)}"}, "request": request}
    return json.dumps(said).encode()


# What becomes of every request; `None`: an honest answer.
OUTCOMES = ("answered", "400", "401", "403", "404", "429", "500", "redirected", "timed out", "dropped", "no JSON")


class Servers:
    """A server that answers as it is told to, and another one that it sends people to."""

    def __init__(self, outcome: str, secret: str) -> None:
        self.outcome, self.secret = outcome, secret
        self.first, self.second = MisbehavingServer(self._reply), MisbehavingServer(honest)

    def __enter__(self) -> Servers:
        self.first.__enter__(), self.second.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.first.__exit__(*error), self.second.__exit__(*error)

    def _reply(self, request: dict, earlier: int) -> Reply:
        said = repeated(*self.first.requests[-1], self.secret)
        told = {"X-Error-Message": f"no access with {self.secret}", "X-Request-Id": f"{request.get('api_key')}"}
        if self.outcome == "redirected":
            return Reply(status=307, body=said, headers=told | {"Location": f"{self.second.url}?api-key={QUERY}"})
        if self.outcome.isdigit():
            return Reply(status=int(self.outcome), body=said, headers=told)
        return {
            "answered": lambda: honest(request),
            "timed out": lambda: Reply(body=said, wait=0.3),
            "dropped": lambda: Reply(drop=True),
            "no JSON": lambda: Reply(body=b"<html>" + said),
        }[self.outcome]()


@pytest.fixture
def secrets(monkeypatch, tmp_path, caplog) -> Path:
    """The secrets of this machine, with every logger at its most talkative; the folder that runs write into."""
    monkeypatch.setenv("HF_TOKEN", HUB)
    monkeypatch.setenv("MINE_FOR_THIS_SERVER", KEY)
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(LOGIN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "mf_llm"):
        caplog.set_level(logging.DEBUG, logger=name)
    return tmp_path / "runs"


def addressed(server: MisbehavingServer, how: str) -> str:
    """The address of a server, with a secret in it."""
    if how == "password":
        return server.url.replace("://", f"://ann:{PASSWORD}@")
    return f"{server.url}?api-key={QUERY}" if how == "query" else server.url


@pytest.mark.trust("privacy", ENDPOINTS)
@pytest.mark.parametrize("how", ["key", "password", "query"])
def test_no_secret_of_an_endpoint_is_written_shown_or_logged(how, secrets, caplog, capfd, monkeypatch, tries):
    if how == "query":  # the login file counts where there is no variable
        monkeypatch.delenv("HF_TOKEN")
    body = {"api_key": BODY, "nested": [{"headers": {"Authorization": f"Bearer {DEEP}"}}]}
    secret = {"key": KEY, "password": PASSWORD, "query": QUERY}[how]
    for outcome in OUTCOMES:
        with Servers(outcome, secret) as servers:
            endpoint = Endpoint(
                addressed(servers.first, how), "m", api_key=KEY if how == "key" else None, extra_body=body,
                retries=1, delay=0.001, timeout=0.1 if outcome == "timed out" else 20.0, concurrency=4,
            )  # fmt: skip
            told = [repr(endpoint), repr(endpoint.server("policy")), json.dumps(endpoint.addresses())]
            for readout in ("exact", "sampled")[: tries.of(1, 2)]:
                tries.add()
                config = SimulationConfig(warm_up=8, agents_per_step=3, signal="both", readout=readout)
                folder = secrets / outcome / readout
                try:
                    simulate(endpoint, None, small_event(11), config, output=folder, progress=True)
                except InputError as error:
                    assert outcome != "answered", error
                    told += [str(error), repr(error), "".join(traceback.format_exception(error))]
                else:
                    assert (folder / "endpoint.json").is_file()
            sent = [headers.get("authorization", "") for _, headers in servers.first.requests]
            expected = {"key": KEY, "query": "none", "password": base64.b64encode(f"ann:{PASSWORD}".encode()).decode()}
            assert sent and all(one.endswith(f" {expected[how]}") for one in sent)
            assert not any(leaks(SECRETS, json.dumps(headers)) for _, headers in servers.second.requests)
            assert servers.second.requests or outcome != "redirected"
    assert len(caplog.records) > 100
    tries.add(check_nothing_leaked(SECRETS, secrets, *told, *capfd.readouterr(), *map(whole, caplog.records)))


def whole(record: logging.LogRecord) -> str:
    """A record with everything that a handler could write of it."""
    told = f"{record.getMessage()} {record.args!r} {record.msg!r}"
    return told + ("".join(traceback.format_exception(*record.exc_info)) if record.exc_info else "")


@pytest.mark.trust("privacy", COMMANDS)
@pytest.mark.parametrize("outcome", ["answered", "401", "400"])
def test_no_secret_of_a_command_line_is_written_shown_or_logged(
    outcome, secrets, caplog, capfd, monkeypatch, tmp_path, tries
):
    def call(*arguments: object) -> int:
        tries.add()
        monkeypatch.setattr(sys, "argv", ["mf-llm", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0

    run = secrets / "run"
    with Servers(outcome, PASSWORD) as servers:
        address = f"{addressed(servers.first, 'password')}?api-key={QUERY}"
        named = ["--endpoint", address, "--endpoint-model", "m", "--concurrency", 4]
        named += ["--api-key-env", "MINE_FOR_THIS_SERVER", "--max-actions", 56, "--output", run]
        assert call("simulate", "bridge-closure", *named, "--dry-run") == 0
        refused = 2 if outcome == "401" else 0
        assert call("simulate", "bridge-closure", *named, "--timeout", 30) == refused
        assert call("simulate", "bridge-closure", *named, "--resume") == refused
        misspelt = [("--api-key-env", KEY), (f"--api-key={KEY}",), ("--hub_token", HUB), (HUB,)]
        for wrong in misspelt:
            assert call("simulate", "bridge-closure", *named[:4], *wrong) == 2
        assert call("simulate", "bridge-closure", "--endpoint", f"ftp://ann:{PASSWORD}@host") == 2
    if outcome == "answered":
        assert call("evaluate", run) == 0
        assert call("forecast", run, "--data", "bridge-closure", "--output", secrets / "forecast") == 0
    out, err = capfd.readouterr()
    assert "m" in out and "mf-llm: " in err
    tries.add(check_nothing_leaked(SECRETS, secrets, out, err, *map(whole, caplog.records)))


INNOCENT = (
    "basic healthcare, Basic Training, bearer certificates, a bearer of news",
    "`key` must be one of a, b, got 'stance'; missing key: 'topic'; key=value; the key: trust",
    "--max-action-tokens 64 --keep numbers --seed 3 --eos_token <|im_end|>",
    "field `state.password`: must be a text",
    "eos_token: '</s>', pad_token='<pad>', tokens: 12, secretary: Ann, turkey=1, monkey: 2",
    "set `api_key`, or log in with `hf auth login`; argument --hub_token: expected one argument",
    "https://arxiv.org/abs/2504.21582?page=2&sort=new#top and http://localhost:8000/v1",
    "Qwen/Qwen2.5-7B-Instruct, sk-large-multilingual-model, x@y.org, 12:30, a/b, C:\\\\x",
)
GUILTY = (
    ("https://ann:p@ss@host/v1?token={}&page=2", "https://host/v1?token=(removed)&page=2"),
    ("http://h/cb#access_token={}", "http://h/cb#access_token=(removed)"),
    ("train.py --hub_token {} --seed 3", "train.py --hub_token (removed) --seed 3"),
    ("--api-key={}", "--api-key=(removed)"),
    ("Authorization: Bearer {}", "Authorization: Bearer (removed)"),
    ("authorization='Token {}'", "authorization='Token (removed)'"),
    ("Bearer {}", "Bearer (removed)"),
    ('{{"api_key": "{}", "page": 2}}', '{{"api_key": "(removed)", "page": 2}}'),
    ("PGPASSWORD={}", "PGPASSWORD=(removed)"),
    ("client_secret: {}", "client_secret: (removed)"),
    ("X-Amz-Signature={}", "X-Amz-Signature={}"),  # outside of an address it is a word like others
)


@pytest.mark.trust("privacy", "texts with credentials of many forms, and innocent ones that look like them")
def test_credentials_are_told_from_words(tries):
    for text in INNOCENT:
        tries.add()
        assert redacted(text) == text
    for text, expected in GUILTY:
        for secret in ("q7-Zx81hhK_w22", "Ab12Cd34Ef56Gh78"):
            tries.add()
            assert redacted(text.format(secret)) == expected.format(secret)
    for token in ("hf_" + "a1B2" * 8, "sk-proj-" + "a1B2" * 8, "ghp_" + "a1B2" * 9, "AKIA" + "A1B2" * 4):
        tries.add()
        assert redacted(f"it is {token}, is it?") == "it is (removed), is it?"


def test_the_folder_that_a_command_runs_in_is_no_secret(monkeypatch):
    monkeypatch.setenv("PWD", "/home/of/somebody")
    monkeypatch.setenv("DB_PWD", "behind-the-door")
    assert redacted("/home/of/somebody/runs; behind-the-door") == "/home/of/somebody/runs; (removed)"


@pytest.mark.trust("privacy", "texts with credentials of many forms, and innocent ones that look like them")
def test_long_texts_take_no_time_that_grows_faster_than_they_do(tries):
    # Quadratic work on these would take minutes.
    for piece in ("a_", "a-", "--a", "--hub_token ", "://a@", "?a&", "Bearer a", "eyJa.", "sk-a", "password", "x" * 9):
        tries.add()
        assert len(redacted(piece * (tries.of(50_000, 500_000) // len(piece)))) <= 1_000_000


@pytest.mark.parametrize("key", ["line-break\n", " spaced key", "", "schlüssel", "tab\tbed"])
def test_a_key_that_no_header_holds_is_refused_without_being_told(key):
    with pytest.raises(InputError, match="`api_key` must be made of printable ASCII signs") as refused:
        Endpoint("http://localhost:1/v1", "m", api_key=key)
    assert not key.strip() or key.strip() not in str(refused.value)


def test_secrets_are_taken_out_of_settings_at_any_depth():
    fields = {"a": [{"Authorization": f"Bearer {DEEP}", "n": 1}], "add_bos_token": True, "stop_token_ids": [1]}
    fields |= {"api_key": BODY, "proxy": f"http://ann:{PASSWORD}@host/", "eos_token": "</s>"}
    endpoint = Endpoint("http://localhost:1/v1", "m", extra_body=fields)
    shown = {"a": [{"Authorization": "(removed)", "n": 1}], "add_bos_token": True, "stop_token_ids": [1]}
    shown |= {"api_key": "(removed)", "proxy": "http://host/", "eos_token": "</s>"}
    assert endpoint.public_extra_body() == shown == endpoint.fingerprint()["extra_body"]
    assert leaks(SECRETS, repr(endpoint)) == []
    assert redacted(f"you sent {DEEP} and {BODY}") == "you sent (removed) and (removed)"
