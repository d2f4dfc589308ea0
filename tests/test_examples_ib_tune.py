"""The example that trains policy and mean field runs as its text says, with a tiny model in the default's place."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("trl")

from made_transitions import made_event

from loaded_script import call_script
from mf_llm.models.checkpoints import ADAPTER_WEIGHTS_FILE
from mf_llm.models.tiny import save_tiny_backbone

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/train_ib_tune.py"
CONFIG = ROOT / "examples/configs/smollm2_covid.yaml"

# Runs the example and kills it, as nobody can catch, when the second checkpoint has just been written.
KILLED = """
import os, runpy, signal, sys
from mf_llm import IBTuneTrainer
save = IBTuneTrainer._save_checkpoint
def save_and_die(self, model, trial):
    save(self, model, trial)
    if self.state.global_step == 4:
        os.makedirs(os.path.join(self.args.output_dir, "checkpoint-5"))
        os.kill(os.getpid(), signal.SIGKILL)
IBTuneTrainer._save_checkpoint = save_and_die
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with the data where the configuration looks for them, and a tiny backbone."""
    folder = tmp_path_factory.mktemp("work")
    events = [made_event(f"train-{i}", 28) for i in range(3)]
    events += [made_event(f"validation-{i}", 28, split="validation") for i in range(2)]
    (folder / "data").mkdir()
    with gzip.open(folder / "data/covid19_rumours.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(event.to_dict()) + "\n" for event in events)
    save_tiny_backbone(folder / "backbone", "llama")
    return folder


def options(output, **changes):
    values = {
        "backbone": "backbone",
        "dtype": "float32",
        "output_dir": output,
        "lora_layers": 1,
        "agents_per_step": 4,
        "max_people": 6,
        "num_signals": 2,
        "signal_max_tokens": 4,
        "max_prompt_tokens": 600,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "num_train_epochs": 2,
        "eval_steps": 2,
        "save_steps": 2,
        "save_total_limit": 5,
        "rollout_events": 2,
        "eval_on_start": "true",
        "use_cpu": "true",
    }
    return [
        text for key, value in (values | changes).items() if value is not None for text in (f"--{key}", str(value))
    ]


def run(*command, cwd):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment["HF_DATASETS_CACHE"] = str(cwd / "cache")
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment
    )


def log_of(folder):
    """Step -> what was logged there, without what the clock says."""
    with (folder / "training_log.csv").open(newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    clock = ("_runtime", "_per_second", "total_flos", "train_loss")
    return {
        step: {key: value for key, value in row.items() if value and not key.endswith(clock)}
        for step, row in rows.items()
    }


@pytest.fixture(scope="module")
def finished(folder):
    """A run from its beginning to its end."""
    done = run(EXAMPLE, "--config", CONFIG, *options("runs/whole"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, folder / "runs/whole"


def test_it_trains_and_logs_the_gain(finished):
    done, output = finished
    assert "6 transitions, schedule sequential: 6 steps of 2 transitions" in done.stdout
    assert "3 train the mean field, 3 train the policy" in done.stdout
    assert f"Checkpoint: {Path('runs/whole')}" in done.stdout
    log = log_of(output)
    assert list(log) == [0, 1, 2, 3, 4, 5, 6]
    for step in (0, 2, 4, 6):  # the first before anything is learned
        assert {"eval_gain", "eval_kl", "eval_gain_covid19_rumours", "eval_loss", "eval_policy_nll"} <= log[
            step
        ].keys()
        assert log[step]["eval_gain"] == log[step]["eval_gain_covid19_rumours"]
    assert log[0]["eval_gain"] != log[2]["eval_gain"] != log[6]["eval_gain"]
    assert all({"rate", "relevance", "reward"} <= log[step].keys() for step in (1, 2, 3))
    assert all({"policy_nll", "population_kl"} <= log[step].keys() for step in (4, 5, 6))
    assert "policy_nll" not in log[1] and "rate" not in log[6]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = output.glob("**/events.out.tfevents.*")
    board = EventAccumulator(str(file.parent))
    board.Reload()
    shown = {event.step: event.value for event in board.Scalars("eval/gain")}
    assert shown == pytest.approx({step: float(log[step]["eval_gain"]) for step in (0, 2, 4, 6)}, abs=1e-5)

    # The best of the checkpoints by gain is what is left in the folder.
    best = max((2, 4, 6), key=lambda step: float(log[step]["eval_gain"]))
    weights = (output / ADAPTER_WEIGHTS_FILE).read_bytes()
    assert weights == (output / f"checkpoint-{best}" / ADAPTER_WEIGHTS_FILE).read_bytes()
    assert len({path.read_bytes() for path in output.glob(f"checkpoint-*/{ADAPTER_WEIGHTS_FILE}")}) == 3

    card = (output / "README.md").read_text(encoding="utf-8")
    for words in (
        "# whole",
        "| covid19_rumours | MIT | 3 | 6 |",
        "| lora_layers | [1] |",
        "| beta | 64 |",
        "python examples/train_ib_tune.py --config smollm2_covid.yaml",
        "library_name: mf_llm",
    ):
        assert words in card
    assert str(ROOT) not in card


def test_a_killed_run_goes_on_as_if_nothing_had_happened(folder, finished):
    _, whole = finished
    output = Path("runs/killed/whole")  # the card tells the last name of the folder
    done = run("-c", KILLED, EXAMPLE, "--config", CONFIG, *options(output), cwd=folder)
    assert done.returncode == -9 and not (folder / output / "config.json").exists()
    assert (folder / output / "checkpoint-5").is_dir()  # as a process leaves it that is killed while it writes
    again = options(output, resume_from_checkpoint="last")
    done = run(EXAMPLE, "--config", CONFIG, *again, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert log_of(folder / output) == log_of(whole)
    for name in (ADAPTER_WEIGHTS_FILE, "config.json"):
        assert (folder / output / name).read_bytes() == (whole / name).read_bytes()


def test_accelerate_launches_several_processes_that_agree(folder, finished):
    _, whole = finished
    launch = ("-m", "accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs/ddp_cpu.yaml")
    done = run(*launch, EXAMPLE, "--config", CONFIG, *options("runs/two", max_steps=2), cwd=folder)
    assert done.returncode == 0, done.stderr
    log = log_of(folder / "runs/two")
    assert done.stdout.count("Checkpoint: ") == 1 and "over 2 processes" in done.stdout
    # Nothing was learned yet: what each process rolled out is put together to what one of them finds alone.
    assert float(log[0]["eval_gain"]) == pytest.approx(float(log_of(whole)[0]["eval_gain"]), abs=1e-5)
    assert "accelerate launch examples/train_ib_tune.py" in (folder / "runs/two/README.md").read_text(encoding="utf-8")


# -- in this process --------------------------------------------------------------------------------------------------


@pytest.fixture
def call(folder):
    """Calls the example with some arguments; returns what it exits with, None at its end."""
    return lambda *arguments: call_script(EXAMPLE, arguments, folder)


def test_help_names_every_option_of_the_configuration(call, capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    names = [line.split(":")[0] for line in CONFIG.read_text().splitlines() if line and line[0].isalpha()]
    assert len(names) > 30
    assert not [name for name in names if f"--{name} " not in text]


def test_a_dry_run_tells_the_cost_and_trains_nothing(call, folder, capsys):
    assert call("--config", CONFIG, *options("runs/dry", dry_run="true", report_to="none")) is None
    text = capsys.readouterr().out
    assert "6 transitions, schedule sequential: 6 steps of 2 transitions" in text
    assert "with a gradient" in text and "as measured here" in text and "Checkpoint" not in text
    assert not [path for path in (folder / "runs/dry").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"events": "data/nothing.jsonl"}, "nothing.jsonl"),
        ({"data_sets": "nothing"}, "`data_sets` must be some of covid19_rumours"),
        ({"split": "test"}, "nothing to learn from"),
        ({"schedule": "often"}, "often"),
        ({"signal_temperature": 0}, "`signal_temperature` must be more than 0"),
        ({"save_steps": 3}, "load_best_model_at_end"),
        ({"rollout_events": 0}, "`metric_for_best_model` must not be 'eval_gain' without rollouts"),
        ({"rollout_max_actions": 12}, "`event_sets` must hold a validation event that is long enough"),
        ({"eval_strategy": "no", "load_best_model_at_end": "false"}, "`patience` must be left out"),
        ({"lora_layers": 40}, "`layers`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_one_line(call, folder, changes, message, capsys):
    end = call("--config", CONFIG, *options("runs/mistake", report_to="none", **changes))
    text = end if isinstance(end, str) else capsys.readouterr().err.splitlines()[-1]
    assert end and message in text and "\n" not in text
    assert not (folder / "runs/mistake/config.json").exists()


def test_mistakes_in_the_configuration_are_one_line(call, folder):
    assert "nowhere.yaml" in call("--config", "nowhere.yaml")
    for name, text, message in (
        ("unknown", "events: a\nbetta: 3", "betta"),
        ("broken", "events: [a\nbeta: 3", "expected"),
        ("list", "- events", "mapping"),
    ):
        (folder / f"{name}.yaml").write_text(text)
        end = call("--config", f"{name}.yaml", *options("runs/mistake"))
        assert message in end and "\n" not in end
