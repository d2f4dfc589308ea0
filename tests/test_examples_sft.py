"""The example that trains the supervised baseline runs as its text says, with a tiny model in the default's place."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loaded_script import call_script
from mf_llm.models.checkpoints import ADAPTER_WEIGHTS_FILE
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation import load_rollouts

pytest.importorskip("peft")
pytest.importorskip("trl")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/train_sft.py"
CONFIG = ROOT / "examples/configs/sft_smollm2_covid.yaml"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "backbone", "llama")


def run(*arguments, cwd):
    command = [sys.executable, *map(str, arguments)]
    environment = {**ENVIRONMENT, "HF_DATASETS_CACHE": str(cwd / "cache")}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def options(backbone, output, **changes):
    values = {
        "events": "bridge-closure",
        "split": "test",
        "backbone": backbone,
        "dtype": "float32",
        "output_dir": output,
        "budget_tokens": 12000,
        "per_device_train_batch_size": 2,
        "save_steps": 3,
        "logging_steps": 1,
        "eval_strategy": "no",
        "load_best_model_at_end": "false",
        "patience": 0,
        "report_to": "none",
        "use_cpu": "true",
    }
    return [text for key, value in (values | changes).items() for text in (f"--{key}", str(value))]


def log_of(folder):
    """The rows of the training log, without what the clock says and what TRL counts anew when a run is resumed."""
    with (folder / "training_log.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    anew = ("train_", "total_flos", "num_tokens")
    return [{key: value for key, value in row.items() if not key.startswith(anew)} for row in rows]


def test_help_names_every_option_of_the_configuration(tmp_path, capsys):
    assert call_script(EXAMPLE, ["--help"], tmp_path) == 0
    text = capsys.readouterr().out
    names = [line.split(":")[0] for line in CONFIG.read_text().splitlines() if line and line[0].isalpha()]
    assert len(names) > 15
    assert not [name for name in names if f"--{name} " not in text]


def test_it_trains_resumes_and_is_simulated(backbone, tmp_path):
    output = tmp_path / "runs/baseline"
    done = run(EXAMPLE, "--config", CONFIG, *options(backbone, output), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 transitions, " in done.stdout and f"Checkpoint: {output}" in done.stdout
    log = log_of(output)
    spent = int(log[-1]["num_input_tokens_seen"])
    assert 12000 - 600 < spent <= 12000  # within one row of the budget
    assert float(log[-1]["loss"]) < float(log[0]["loss"])
    assert all(float(row["grad_norm"]) > 0 and float(row["learning_rate"]) >= 0 for row in log)

    card = (output / "README.md").read_text(encoding="utf-8")
    for words in (
        "# baseline",
        "| bridge-closure | none stated | 1 | 3 | 48 |",
        f"{spent:,} tokens",
        "| lora_r | 8 |",
        "| target | label |",
        "python examples/train_sft.py --config ",
    ):
        assert words in card
    assert str(tmp_path) not in card and str(ROOT) not in card
    assert json.loads((output / "config.json").read_text())["model_type"] == "mf_llm"

    # The same command goes on where a run was stopped.
    weights = (output / ADAPTER_WEIGHTS_FILE).read_bytes()
    for path in output.glob("checkpoint-*"):
        if path.name != "checkpoint-3":
            shutil.rmtree(path)
    done = run(EXAMPLE, "--config", CONFIG, *options(backbone, output, resume_from_checkpoint="last"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert log_of(output) == log and (output / ADAPTER_WEIGHTS_FILE).read_bytes() == weights

    command = ["-m", "mf_llm.cli", "simulate", "bridge-closure", "--model", output, "--signal", "none"]
    done = run(*command, "--output", tmp_path / "run", "--max-actions", 64, "--max-new-tokens", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [rollout] = load_rollouts(tmp_path / "run")
    assert len(rollout.simulated()) == 16 and not rollout.steps[-1].signal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_tokens": 10}, "`budget_tokens` must be at least the longest row"),
        ({"data_sets": "nothing"}, "`data_sets` must be some of bridge-closure"),
        ({"split": "train"}, "nothing to learn from"),
        ({"max_length": 50}, "`max_length` must hold every row"),
        ({"patience": 2}, "`patience` must be left out"),
    ],
)
def test_mistakes_are_one_line(backbone, tmp_path, changes, message):
    end = call_script(EXAMPLE, ["--config", CONFIG, *options(backbone, tmp_path / "out", **changes)], tmp_path)
    assert end.startswith("error: ") and message in end and "\n" not in end
    assert not (tmp_path / "out/config.json").exists()
