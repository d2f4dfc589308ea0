"""A real server on the loopback interface: ``transformers serve`` with the default backbone."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from small_events import small_event

from mf_llm import InputError, SimulationConfig, simulate
from mf_llm.endpoints import Endpoint
from mf_llm.models.backbones import find_backbone
from mf_llm.models.default_backbone import DEFAULT_BACKBONE

_MISSING = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_MISSING), reason=f"needs the extra serving ({', '.join(_MISSING)} not installed)"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Base URL of the server, and what it calls its model."""
    model = os.fspath(find_backbone(DEFAULT_BACKBONE).folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model, "--host", "127.0.0.1"]
    with log.open("w") as out:
        process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu"], stdout=out, stderr=out)
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                    break
            except OSError:
                time.sleep(0.5)
        assert process.poll() is None, log.read_text()[-2000:]
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait()


def config(**settings) -> SimulationConfig:
    return SimulationConfig(
        **{"warm_up": 4, "agents_per_step": 2, "max_new_tokens": 24, "signal_max_tokens": 24} | settings
    )


def test_a_rollout_of_free_texts(server, tmp_path):
    url, model = server
    endpoint = Endpoint(url, model, concurrency=2, timeout=600.0, retries=0)
    settings = config(action="text", readout="sampled", signal="text")
    rollout = simulate(endpoint, None, small_event(8), settings, output=tmp_path, progress=False)
    told = json.loads((tmp_path / "endpoint.json").read_text())
    assert len(rollout.simulated()) == 4 and told["answers"] == 4 + 3
    assert told["prompt_tokens"] == sum(row.prompt_tokens for row in rollout.steps) > 0
    assert told["new_tokens"] == sum(row.new_tokens for row in rollout.steps) > 0
    assert sum(told["failures"].values()) == rollout.n_failed
    assert all(step.signal and step.signal_failure is None for step in rollout.steps)
    for row in rollout.simulated():
        assert bool(row.text) == (row.failure is None)
        assert row.failure in (None, "truncated", "invalid_answer", "empty_answer", "empty_text")
        assert "<|im_end|>" not in row.text


def test_the_exact_readout_is_refused_because_the_reply_holds_no_logprobs(server):
    url, model = server
    endpoint = Endpoint(url, model, timeout=600.0, retries=0)
    with pytest.raises(InputError, match=r"must tell log-probabilities.*readout=\"sampled\""):
        simulate(endpoint, None, small_event(8), config(action="choice", signal="none"), progress=False)
