"""``mf-llm simulate --endpoint``: dry run, run folder, resume, and errors of one line."""

import json
import sys

import pytest
from honest_server import honest

from mf_llm import cli
from mf_llm.endpoints import Endpoint
from mf_llm.simulation import load_rollouts
from misbehaving_server import MisbehavingServer, Reply


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls ``mf-llm simulate bridge-closure ARGS`` in this process; returns exit code, stdout and stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mf-llm", "simulate", "bridge-closure", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return call


def test_a_run_behind_a_server(run, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_MINE", "a-key-that-nobody-sees")
    with MisbehavingServer(honest) as server:
        common = ["--endpoint", server.url, "--endpoint-model", "m", "--api-key-env", "KEY_OF_MINE", "--price", "1,2"]
        common += ["--max-actions", 80, "--concurrency", 8, "--output", tmp_path / "run"]
        code, out, err = run(*common, "--dry-run")
        assert (code, server.requests) == (0, []) and not (tmp_path / "run").exists()
        expected = int(out.split(" requests")[0].split()[-1].replace(",", ""))
        assert "by characters: no tokenizer is loaded" in out and "cost at most about" in out
        code, out, err = run(*common)
        assert code == 0, err
        n = len(server.requests)
        assert f"{n} requests (0 of them again)" in out and "cost 0." in out and "0 failed generations" in out
        # A person whose label was silent in the warm-up is not asked for a text.
        assert 0.5 * expected <= n <= expected
        assert {headers["authorization"] for _, headers in server.requests} == {"Bearer a-key-that-nobody-sees"}
        assert run(*common)[0] == 2  # the folder is taken
        code, out, _ = run(*common, "--resume")
        assert code == 0 and len(server.requests) == n
    (rollout,) = load_rollouts(tmp_path / "run")
    assert rollout.n_failed == 0 and all(row.probabilities for row in rollout.simulated())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"] == "m" and record["endpoint"]["policy_base"] == "m"
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"a-key-that-nobody-sees" not in everything + out.encode() + err.encode()


def test_the_estimate_is_near_what_the_server_counts(run, tmp_path):
    with MisbehavingServer(honest) as server:
        settings = ["--endpoint", server.url, "--endpoint-model", "m", "--max-actions", 80, "--signal", "statistics"]
        out = run(*settings, "--action", "choice", "--dry-run")[1]
        about = int(out.split("about ")[1].split()[0].replace(",", ""))
        assert run(*settings, "--action", "choice", "--output", tmp_path / "run")[0] == 0
        sent = sum(len(message["content"]) for request, _ in server.requests for message in request["messages"]) / 4
    assert 0.8 * sent <= about <= 1.3 * sent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint-model", "m"], "`--endpoint` must name a server"),
        (["--concurrency", 3], "`--endpoint` must name a server where --concurrency is given"),
        (["--endpoint", "http://localhost:1/v1"], "`--endpoint-model` must be given"),
        (["--endpoint", "nowhere", "--endpoint-model", "m"], "`base_url` must be the http"),
        (["--endpoint", "http://x/v1", "--endpoint-model", "m", "--model", "y"], "`--model` must be left out"),
        (["--endpoint", "http://x/v1", "--endpoint-model", "m", "--price", "cheap"], "`--price` must be two numbers"),
        (
            ["--endpoint", "http://x/v1", "--endpoint-model", "m", "--api-key-env", "NO_SUCH"],
            "got 'NO_SUCH', which is",
        ),
        (["--endpoint", "http://x/v1", "--endpoint-model", "m", "--timeout", 0], "`timeout` must be positive"),
    ],
)
def test_what_cannot_be_is_one_line(run, arguments, message):
    code, out, err = run(*arguments, "--dry-run")
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_server_without_logprobs_is_one_line(run, tmp_path):
    with MisbehavingServer(lambda request, earlier: Reply("A")) as server:
        named = ["--endpoint", server.url, "--endpoint-model", "m"]
        code, _, err = run(*named, "--signal", "none", "--output", tmp_path / "run")
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith("mf-llm: The server of `base_url` must tell") and "--readout sampled" in last


def test_endpoint_is_public():
    import mf_llm.endpoints

    for name in mf_llm.endpoints.__all__:
        assert getattr(mf_llm.endpoints, name).__name__ == name
    assert Endpoint("http://localhost:1/v1", "m").server("mean_field").model == "m"
