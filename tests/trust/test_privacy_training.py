"""Tokens of a training run reach nothing that is written, shown, logged or uploaded, whether it succeeds or fails."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_transitions import made_event
from searched_folders import check_nothing_leaked

from hub_server import HubHandler, HubServer, Repository
from mf_llm.models.tiny import save_tiny_backbone

pytest.importorskip("peft")
pytest.importorskip("trl")
pytest.importorskip("tensorboard")

ROOT = Path(__file__).resolve().parents[2]
GIVEN, LOGIN = "given-On-The-Line-51", "hf_FromTheLoginFile9876543210"
OPTIONS = {
    "backbone": "tester/tiny", "dtype": "float32", "lora_layers": 1, "agents_per_step": 4, "max_people": 6,
    "num_signals": 2, "signal_max_tokens": 4, "max_prompt_tokens": 600, "per_device_train_batch_size": 2,
    "max_steps": 2, "save_steps": 1, "eval_strategy": "no",
    "eval_on_start": "false", "load_best_model_at_end": "false", "patience": 0,
    "metric_for_best_model": "loss", "report_to": "tensorboard", "use_cpu": "true", "output_dir": "runs/mine",
    "hub_token": GIVEN,
}  # fmt: skip
# Trains as the command line says, with every logger at its most talkative.
TALKATIVE = """
import logging, runpy, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
import transformers, huggingface_hub
transformers.utils.logging.set_verbosity_debug()
huggingface_hub.utils.logging.set_verbosity_debug()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Refusing(HubHandler):
    """Lets everybody read, and refuses who writes, by repeating the key; `status` is that of the refusal."""

    status = 401

    def do_POST(self) -> None:
        self._body()
        said = f"invalid credentials: {self.headers.get('authorization', 'no key')}"
        self._error(self.status, "Refused", said)


class RefusingCommits(Refusing):
    """Refuses what is uploaded alone."""

    status = 500

    def do_POST(self) -> None:
        super().do_POST() if self.path.rstrip("/").endswith("/commit/main") else HubHandler.do_POST(self)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "data").mkdir()
    with gzip.open(folder / "data/events.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(made_event(f"train-{i}", 28).to_dict()) + "\n" for i in range(2))
    (folder / "home").mkdir()
    (folder / "home" / "token").write_text(LOGIN)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict[str, bytes]:
    """The files of a base on the Hub."""
    saved = save_tiny_backbone(tmp_path_factory.mktemp("base"), "llama")
    return {path.name: path.read_bytes() for path in saved.iterdir()}


def train(folder: Path, hub: str, **changes: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    environment |= {"HF_HOME": str(folder / "home"), "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "CI": "true"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TALKATIVE, str(ROOT / "examples/train_ib_tune.py"), "--config"]
    command += [str(ROOT / "examples/configs/smollm2_covid.yaml"), "--events", "data/events.jsonl.gz"]
    options = OPTIONS | changes
    for name, value in options.items():
        command += [f"--{name}", str(value)] if name != "hub_token" else [f"--{name}={value}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.trust("privacy", "training runs with a token that succeed, and whose uploads are refused")
@pytest.mark.parametrize("handler", [None, Refusing, RefusingCommits])
def test_no_token_of_a_training_run_is_written_shown_logged_or_uploaded(handler, folder, base, tries):
    output = "runs/kept" if handler is None else f"runs/{handler.__name__}"
    with HubServer(handler) as hub:
        hub.repositories["tester/tiny"] = Repository("model", dict(base), [dict(base)])
        done = train(folder, hub.url, output_dir=output, push_to_hub="true", hub_model_id="tester/tuned",
                     hub_strategy="every_save", hub_always_push="true")  # fmt: skip
        files = hub.repositories["tester/tuned"].files if handler is None else {}
    assert (done.returncode == 0) == (handler is None), done.stderr[-3000:]
    if handler is None:
        assert "README.md" in files and (folder / output / "README.md").is_file()
        assert "--hub_token=(removed)" in files["README.md"].decode()
    else:
        assert "error: `hub_model_id` and `hub_token` must be" in done.stderr and "Traceback" not in done.stderr
    assert ("A checkpoint was not uploaded: " in done.stderr) == (handler is RefusingCommits)
    uploaded = [content.decode("utf-8", "replace") for content in files.values()]
    searched = check_nothing_leaked((GIVEN, LOGIN), folder / output, done.stdout, done.stderr, *uploaded)
    tries.add(searched)
