"""The checkpoints of the benchmark: trained from a table, one from another, and never twice."""

import gzip
import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from made_transitions import made_event

from mf_llm import MFLLMForSimulation
from mf_llm.benchmark.training_runs import TrainingRuns
from mf_llm.commands.compare_methods import CompareRequest, run_compare
from mf_llm.models.tiny import save_tiny_backbone

pytest.importorskip("peft")
pytest.importorskip("trl")
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import train_benchmark

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]
TABLE = {
    "common": {
        "target": "label",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_steps": 1,
        "save_total_limit": 1,
        "signal_max_tokens": 5,
        "num_signals": 2,
        "learning_rate": 1e-2,
        "bf16": False,
    },
    "adapters": {"r": 2, "alpha": 4},
    "data_sets": {
        "one": {"action": "choice", "transitions_per_event": 2, "warm_ups": [16]},
        "two": {"action": "choice", "max_states": 1},
    },
    "runs": {
        "mean-field": {"schedule": "mean_field", "signal": "text", "max_transitions": 2, "data_sets": {"one": {}}},
        "tuned": {
            "start": "mean-field",
            "schedule": "policy",
            "signal": "both",
            "anchored": True,
            "transitions": {"shown_answers": 3},
        },
        "sft": {"sft": True, "budget": "tuned"},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fidelity")
    save_tiny_backbone(folder / "tiny", "llama")
    (folder / "table.yaml").write_text(yaml.safe_dump(TABLE, sort_keys=False))
    for name in ("one", "two"):
        events = [made_event(f"{name}{i}", 40, split="test" if i == 2 else "train") for i in range(3)]
        (folder / f"{name}.jsonl.gz").write_bytes(compressed(events))
    assert train(folder) == 0
    return folder


def compressed(events):
    return gzip.compress("".join(json.dumps(event.to_dict()) + "\n" for event in events).encode())


def train(folder, *arguments):
    options = ["--table", folder / "table.yaml", "--runs", folder / "runs", "--model", folder / "tiny", "--seeds", 1]
    return train_benchmark.main([str(text) for text in (folder, *options, "--dtype", "float32", *arguments)])


def record(folder, name):
    return json.loads((folder / "runs" / f"{name}-seed1" / "trained.json").read_text())


def test_each_run_is_what_the_table_says(folder):
    mean_field, tuned, sft = (record(folder, name) for name in ("mean-field", "tuned", "sft"))
    assert mean_field["transitions"] == 2 and list(mean_field["data_sets"]) == ["one"] and mean_field["steps"] == 1
    assert mean_field["policy_tokens"] == 0 and mean_field["log"][0]["rate"] is not None
    assert tuned["transitions"] == 6 and tuned["steps"] == 3 and tuned["start"] is not None
    # The same tokens, but for less than a row.
    assert 0 < tuned["policy_tokens"] - sft["policy_tokens"] < 200 and sft["budget_tokens"] == tuned["policy_tokens"]
    models = {name: MFLLMForSimulation.from_pretrained(folder / "runs" / f"{name}-seed1") for name in TABLE["runs"]}
    weights = {name: {k: v for k, v in model.named_parameters() if "lora_B" in k} for name, model in models.items()}
    moved = {name: {k.split(".")[0] for k, v in found.items() if v.any()} for name, found in weights.items()}
    assert moved == {"mean-field": {"mean_field"}, "tuned": {"policy", "mean_field"}, "sft": {"policy"}}
    for key, value in weights["mean-field"].items():
        assert key.startswith("policy") or value.equal(weights["tuned"][key])
    simulated = {name: model.config.simulation for name, model in models.items()}
    assert simulated["tuned"]["anchored"] and simulated["tuned"]["signal"] == "both"
    assert simulated["tuned"]["shown_answers"] == 3
    assert simulated["tuned"]["action"] == "choice" and simulated["sft"]["signal"] == "none"


def test_what_is_trained_is_not_trained_again(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    assert train(folder) == 0
    assert capsys.readouterr().out.count("done") == 3
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before
    assert train(folder, "--list") == 0 and capsys.readouterr().out.count("done") == 3


def test_a_run_goes_on_where_it_stopped(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs/tuned-seed1"
    before = (run / "adapter_model.safetensors").read_bytes()
    (run / "trained.json").unlink()
    (run / "adapter_model.safetensors").unlink()
    states = json.loads((run / "checkpoint-3/trainer_state.json").read_text())
    assert train(tmp_path, "--only", "tuned") == 0
    assert (run / "adapter_model.safetensors").read_bytes() == before
    assert record(tmp_path, "tuned")["steps"] == states["global_step"]
    # With other settings it is another run.
    (run / "trained.json").unlink()
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(TABLE | {"adapters": {"r": 4, "alpha": 4}}))
    assert train(tmp_path, "--only", "tuned") == 2


def test_runs_of_one_mean_field_share_its_signals(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    plain = {"start": "mean-field", "schedule": "policy", "signal": "both"}
    table = TABLE | {"runs": {**TABLE["runs"], "plain": plain}}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    assert train(tmp_path, "--only", "plain") == 0
    drawn = (tmp_path / "runs/tuned-seed1/signals-0.jsonl").read_bytes()
    assert drawn and (tmp_path / "runs/plain-seed1/signals-0.jsonl").read_bytes() == drawn


@pytest.mark.parametrize(("most", "expected"), [(2, (1, 1)), (5, (3, 2)), (9, (6, 2)), (None, (6, 2))])
def test_data_sets_have_equal_parts_of_what_is_drawn(folder, most, expected):
    more = {"most": {"schedule": "policy", "signal": "none", **({"max_transitions": most} if most else {})}}
    settings = {"one": {"action": "choice", "transitions_per_event": 3}, "two": {"action": "choice"}}
    settings["two"] |= {"transitions_per_event": 1}
    table = TABLE | {"data_sets": settings, "runs": more}
    sets = {name: [made_event(f"{name}{i}", 40, split="train") for i in range(2)] for name in settings}
    drawn = [TrainingRuns(table, sets, folder).transitions("most", seed)["data_set"] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    for names in drawn:
        assert sorted(Counter(names).values(), reverse=True) == list(expected)


def test_compare_trains_what_it_needs(folder, tmp_path, capsys):
    """One command from events to results; a second one makes nothing anew."""
    methods = {
        "options": {"action": "choice", "agents_per_step": 8, "signal_max_tokens": 5},
        "methods": {
            "carry": {"forecaster": "carry"},
            "ours": {"checkpoint": "{checkpoints}/tuned-seed{seed}", "seeds": [1], "options": {"anchored": True}},
        },
        "pairs": [["ours", "carry"]],
    }
    (tmp_path / "methods.yaml").write_text(yaml.safe_dump(methods))
    for name in ("one", "two"):
        shutil.copyfile(folder / f"{name}.jsonl.gz", tmp_path / f"{name}.jsonl.gz")
    request = CompareRequest(
        events=str(tmp_path),
        methods=("all",),
        output=tmp_path / "results",
        method_list=tmp_path / "methods.yaml",
        training_table=folder / "table.yaml",
        checkpoints=str(tmp_path / "runs"),
        model=str(folder / "tiny"),
        dtype="float32",
        train=True,
        n_bootstrap=20,
    )
    run_compare(replace(request, dry_run=True))
    told = capsys.readouterr().out
    assert "mean-field, seed 1: to be trained\ntuned, seed 1: to be trained\n" in told and "sft" not in told
    run_compare(request)
    assert "[2/2] training tuned, seed 1" in capsys.readouterr().out
    for name in ("mean-field", "tuned"):
        weights = f"runs/{name}-seed1/adapter_model.safetensors"
        assert (tmp_path / weights).read_bytes() == (folder / weights).read_bytes()
    summary = json.loads((tmp_path / "results/summary.json").read_text())
    assert summary["missing"] == [] and len(summary["data_sets"]) == 2
    run_compare(request)
    told = capsys.readouterr().out
    assert "training" not in told and "to simulate" not in told
    run_compare(replace(request, dry_run=True))
    assert "to be trained" not in capsys.readouterr().out


def test_the_events_of_other_splits_are_not_looked_at(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs")
    for name in ("one", "two"):
        events = [made_event(f"{name}{i}", 40, split="test" if i == 2 else "train") for i in range(2)]
        test = made_event("another", 40, split="test")
        (tmp_path / f"{name}.jsonl.gz").write_bytes(compressed([*events, test]))
    assert train(tmp_path, "--only", "mean-field") == 0
    name = "runs/mean-field-seed1/adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "nothing"), "must be runs out of mean-field, tuned, sft, got 'nothing'"),
        (("--only", "tuned"), "`start` of 'tuned' must be trained first"),
        (("--only", "sft"), "`budget` of 'sft' must be trained first"),
    ],
)
def test_mistakes_are_named(folder, tmp_path, capsys, arguments, message):
    assert train(folder, "--runs", tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # no record that a later run would contradict
