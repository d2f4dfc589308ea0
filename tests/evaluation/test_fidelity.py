"""The fidelity experiment end to end: a table of methods, tiny models, run folders, scores, bars, Markdown."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import run_fidelity  # noqa: E402
from fidelity_bars import anchored_bars, plain_bars  # noqa: E402
from fidelity_jobs import checkpoint_files, load_experiment  # noqa: E402
from fidelity_score import read_runs  # noqa: E402
from fidelity_tables import bars_table, differences_table, fidelity_table  # noqa: E402

from mf_llm import MFLLMForSimulation, MFLLMProcessor  # noqa: E402
from mf_llm.errors import InputError  # noqa: E402
from mf_llm.evaluation.method_table import ALL, COMPLETE  # noqa: E402
from mf_llm.models.tiny import save_tiny_backbone  # noqa: E402

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
]

STANCES = ["support", "deny", "query"]
TABLE = """
options: {{readout: exact, action: choice, agents_per_step: 8, signal_max_tokens: 4}}
data_sets:
  threads: {{}}
  poll: {{max_people_per_step: 6}}
methods:
  uniform: {{forecaster: uniform}}
  carry: {{forecaster: carry}}
  carry-regressed: {{forecaster: carry-regressed}}
  anchored-zero: {{forecaster: carry}}
  base: {{options: {{signal: none}}}}
  base+anchored: {{options: {{signal: none, anchored: true}}}}
  tuned: {{checkpoint: "{folder}/tuned{{seed}}", seeds: [0, 1], options: {{signal: statistics}}}}
  mf-tuned+anchored:
    {{checkpoint: "{folder}/tuned{{seed}}", seeds: [0, 1], options: {{signal: statistics, anchored: true}}}}
  signal-only: {{checkpoint: "{folder}/tuned{{seed}}", roles: [mean_field], options: {{signal: none}}}}
comparisons:
  - [tuned, base]
  - [mf-tuned+anchored, anchored-zero]
"""


def write_data(folder: Path) -> Path:
    """Two data sets: threads of 20 turns, and a survey of two waves."""
    folder.mkdir()
    lines = []
    for split, count in (("train", 3), ("test", 4)):
        for number in range(count):
            labels = [STANCES[(i * (number + 1) + i // 5) % 3] for i in range(20)]
            turns = [{"action": f"word {i}", "labels": {"stance": label}} for i, label in enumerate(labels)]
            event = {"event_id": f"{split}-{number}", "topic": f"Bridge {number}", "split": split, "turns": turns}
            lines.append(event | {"dimensions": {"stance": STANCES}})
    (folder / "threads.jsonl").write_text("".join(json.dumps(event) + "\n" for event in lines), encoding="utf-8")
    turns = [
        {"state": {"age": str(20 + i)}, "labels": {"stance": STANCES[(i + i // 4) % 3]}, "wave": f"w{1 + i // 10}"}
        for i in range(20)
    ]
    event = {"event_id": "poll", "topic": "Bridge", "split": "test", "turns": turns, "dimensions": {"stance": STANCES}}
    (folder / "poll.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")
    return folder


def save_tuned(base: Path, folder: Path, seed: int) -> None:
    """A checkpoint with random LoRA on both roles, as training would leave it."""
    import torch

    model = MFLLMForSimulation.from_backbones(base, dtype="float32")
    config = peft.LoraConfig(r=2, target_modules=r"(policy|mean_field)\..*\.(q_proj|v_proj|down_proj)")
    wrapped = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(wrapped.named_parameters()):
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    wrapped.get_base_model().save_pretrained(folder)
    MFLLMProcessor.from_backbones(base).save_pretrained(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Data, backbone, checkpoints and table; the tests share the run folders in it."""
    folder = tmp_path_factory.mktemp("fidelity")
    write_data(folder / "data")
    base = save_tiny_backbone(folder / "base", "qwen2")
    for seed in (0, 1):
        save_tuned(base, folder / f"tuned{seed}", seed)
    (folder / "table.yaml").write_text(TABLE.format(folder=folder), encoding="utf-8")
    return folder


@pytest.fixture
def call(place, monkeypatch, capsys):
    """Calls ``run_fidelity.py DATA ARGS``; returns exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        fixed = ["--table", place / "table.yaml", "--runs", place / "runs", "--model", place / "base"]
        words = ["run_fidelity.py", place / "data", *fixed, "--dtype", "float32", *args]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = run_fidelity.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def rows(path: Path, **wanted: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def experiment(place: Path, **kwargs):
    return load_experiment(place / "table.yaml", place / "data", place / "runs", base=str(place / "base"), **kwargs)


def test_runs_are_made_once_and_scored(place, call, tmp_path):
    runs = ["--runs", tmp_path / "runs"]
    # A part first: what is missing is named in every file, and no mean goes round it.
    code, out, _ = call("--only", "tuned", "base", "--data-sets", "threads", "--limit", 2, *runs)
    assert code == 0 and out.count("2 events, 0 of them finished") == 3
    code, out, _ = call("--score", "--results", tmp_path / "part", "--bootstrap", 100, *runs)
    assert code == 0
    assert "missing: tuned, threads: seed 0: 2 of 4 events; seed 1: 2 of 4 events" in out
    assert "missing: base, poll: seed 0: no run" in out
    [row] = rows(tmp_path / "part/paired.csv", a="tuned", dataset=ALL)
    assert row["difference"] == "" and "base: threads: seed 0: 2 of 4 events" in row["status"]
    assert rows(tmp_path / "part/kl.csv", method="carry", dataset=ALL)[0]["status"] == COMPLETE

    # Then all of it: finished events stay as they are.
    rollout = tmp_path / "runs/tuned/seed1/threads/rollouts/test-0-seed1/actions.parquet"
    before = rollout.stat().st_mtime_ns
    code, out, _ = call(*runs)
    assert code == 0 and "tuned, seed 1, threads: 4 events, 2 of them finished" in out
    assert rollout.stat().st_mtime_ns == before
    code, out, _ = call(*runs)
    assert code == 0 and out.count(": done") == 14 and "finished in" not in out
    assert call("--list", *runs)[1].count(": done") == 14

    code, out, _ = call("--score", "--results", tmp_path / "results", "--bootstrap", 100, *runs)
    assert code == 0
    results = tmp_path / "results"
    kl = {(row["method"], row["dataset"]): float(row["kl"]) for row in rows(results / "kl.csv", training_seed="mean")}
    # Anchored without adapters is the carry-forward share, simulated or not.
    for scope in ("threads", "poll", ALL):
        assert kl["base+anchored", scope] == pytest.approx(kl["carry", scope], abs=1e-5)
    # Only the policy answers without a signal: with its adapters at zero it is the base.
    assert kl["signal-only", "threads"] == pytest.approx(kl["base", "threads"], abs=1e-6)
    assert kl["tuned", "threads"] != pytest.approx(kl["base", "threads"], abs=1e-4)
    seeds = rows(results / "kl.csv", method="tuned", dataset="threads")
    assert [row["training_seed"] for row in seeds] == ["0", "1", "mean"]
    assert float(seeds[2]["kl"]) == pytest.approx((float(seeds[0]["kl"]) + float(seeds[1]["kl"])) / 2, rel=1e-4)
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    assert summary["missing"] == [] and summary["protocol"] == 1
    assert summary["data_sets"]["threads"]["n_events"] == 4
    files = summary["methods"]["tuned"]["checkpoints"]["1"]["files"]
    assert files == checkpoint_files(str(place / "tuned1")) and "adapter_model.safetensors" in files
    assert str(place) not in (results / "summary.json").read_text(encoding="utf-8")
    assert fidelity_table(results).count("\n") == 11
    assert differences_table(results).splitlines()[2].startswith("| `tuned` - `base` | ")
    assert "| open |" in bars_table(results)


def test_bars_say_what_holds_what_is_missed_and_what_is_open(place, call):
    call()
    table = read_runs(experiment(place), n_bootstrap=100).table
    assert [(bar.holds, bar.stated) for bar in plain_bars(table)] == [(None, True), (None, True), (None, False)]
    assert "state+calibrated: not asked for" in plain_bars(table)[0].note
    bars = {bar.name: bar for bar in anchored_bars(table)}
    over_zero = bars["G(mf-tuned+anchored over anchored-zero), mean of 2 data sets"]
    gain = table.gain("mf-tuned+anchored", "anchored-zero", ALL).interval()
    assert over_zero.holds == (gain.low > 0)
    assert over_zero.missed_by == (None if gain.low > 0 else pytest.approx(-gain.low))
    assert bars["G(mf-tuned+anchored over sft+anchored), poll"].holds is None
    # A method is never above itself.
    table.cells["sft+anchored", "threads"] = table.cells["mf-tuned+anchored", "threads"]
    table.cells["sft+anchored", "poll"] = table.cells["mf-tuned+anchored", "poll"]
    bars = {bar.name: bar for bar in anchored_bars(table)}
    itself = bars["G(mf-tuned+anchored over sft+anchored), poll"]
    assert (itself.value.value, itself.holds, itself.missed_by) == (0.0, False, 0.0)


def test_the_ratio_bar_takes_the_best_baseline(place, call):
    call()
    table = read_runs(experiment(place), n_bootstrap=100).table
    for name in ("state", "recent", "popular"):
        for data_set in ("threads", "poll"):
            table.cells[name, data_set] = table.cells["base" if name == "state" else "tuned", data_set]
            table.cells[f"{name}+calibrated", data_set] = table.cells[name, data_set]
    kl = {name: table.kl(name, ALL).value for name in ("state", "recent")}
    for tuned in ("carry", "base"):
        ratio = plain_bars(table, tuned=tuned, sft="base")[0]
        value = table.kl(tuned, ALL).value / min(kl.values())
        assert ratio.value.value == pytest.approx(value)
        assert ratio.holds == (value <= 0.53)
        assert (ratio.missed_by is None) == ratio.holds
        assert ratio.note.startswith(f"the best is {min(kl, key=kl.get)}+calibrated")
        assert ("worse than uniform shares" in ratio.note) == (min(kl.values()) > table.kl("uniform", ALL).value)


def test_a_baseline_worse_than_uniform_shares_is_told(place, call):
    call()
    names = [f"{name}{suffix}" for name in ("state", "recent", "popular") for suffix in ("", "+calibrated")]
    for baseline, yardstick, told in (
        ("base", "base", False),
        ("carry", "uniform", True),  # the labels of these events go round: equal shares are near them
        ("uniform", "carry", False),
    ):
        table = read_runs(experiment(place), n_bootstrap=100).table
        for data_set in ("threads", "poll"):
            cell, flat = table.cells[baseline, data_set], table.cells[yardstick, data_set]
            table.cells |= {(name, data_set): cell for name in names} | {("uniform", data_set): flat}
        note = plain_bars(table, tuned="base", sft="base")[0].note
        assert ("worse than uniform shares" in note) == told


def test_a_missing_checkpoint_is_named_and_the_others_are_made(place, call, tmp_path):
    text = TABLE.format(folder=place).replace("/tuned{seed}", "/none{seed}", 1)
    table = tmp_path / "table.yaml"
    table.write_text(text, encoding="utf-8")
    code, out, err = call("--table", table, "--only", "tuned", "base", "--limit", 1, "--runs", tmp_path / "runs")
    assert code == 1 and "base, seed 0, threads: finished in" in out
    assert "4 of 6 runs were not made" in err and "which is not there; its runs cannot be made" in err


def test_other_settings_are_not_mixed_into_a_run_folder(place, call, tmp_path):
    call()
    table = tmp_path / "table.yaml"
    table.write_text(TABLE.format(folder=place).replace("agents_per_step: 8", "agents_per_step: 4"), encoding="utf-8")
    code, out, _ = call("--table", table, "--only", "base")
    assert code == 1 and "was made with config.agents_per_step = 8 and now it is 4" in out
    code, out, _ = call("--table", table, "--only", "base", "--score", "--results", tmp_path / "out", "--bootstrap", 9)
    assert code == 0
    assert "missing: base, threads: seed 0: the run was made with other settings (config.agents_per_step = 8)" in out


def test_one_seed_is_one_checkpoint(place, call, tmp_path):
    call()
    path = place / "runs/tuned/seed0/poll/run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    changed = record | {"checkpoint": {"adapter_model.safetensors": "0" * 16}}
    path.write_text(json.dumps(changed), encoding="utf-8")
    try:
        table = read_runs(experiment(place), n_bootstrap=9).table
    finally:
        path.write_text(json.dumps(record), encoding="utf-8")
    assert table.missing("tuned", "poll") == (
        "seed 0: the run was made with another checkpoint than on the other data sets"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("forecaster: carry}", "forecaster: tomorrow}", "must be one of uniform, prior, carry"),
        ("[tuned, base]", "[tuned, bass]", "`comparisons` must be one of .* got 'bass'"),
        ("seeds: [0, 1], ", "seeds: [0, 0], ", "must be different whole numbers"),
        ("roles: [mean_field]", "roles: [field]", "must be one of policy, mean_field, got 'field'"),
        ("tuned{seed}", "tuned0", "must hold {seed} where there are several training seeds"),
        ("base: {", "base: {sed: 1, ", "method 'base' must have no keys but"),
        ("carry: {forecaster", "carry: {roles: [policy], forecaster", "must be a forecaster or a simulation"),
    ],
)
def test_mistakes_in_the_table_are_named(place, tmp_path, old, new, message):
    text = TABLE.format(folder=place)
    assert old in text
    path = tmp_path / "table.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_experiment(path, place / "data", place / "runs")


def test_an_unknown_option_is_refused_before_a_run(place, call, tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(TABLE.format(folder=place).replace("agents_per_step", "agents_per_stop"), encoding="utf-8")
    code, _, err = call("--table", path)
    assert code == 2 and "must be fields of SimulationConfig, got 'agents_per_stop'" in err


def test_a_part_does_not_pass_for_the_whole(call):
    code, _, err = call("--score", "--limit", 1)
    assert code == 2 and "would pass for all of it in results/fidelity" in err


def test_the_table_that_ships_is_whole():
    """The committed table names methods and options that exist, and all that the bars ask for."""
    import yaml
    from fidelity_bars import ANCHORS, BASELINES

    record = yaml.safe_load((ROOT / "scripts/fidelity_methods.yaml").read_text(encoding="utf-8"))
    methods = record["methods"]
    assert {*BASELINES, *(f"{name}+calibrated" for name in BASELINES)} <= set(methods)
    assert {*ANCHORS, "mf-tuned", "sft", "mf-tuned+anchored"} <= set(methods)
    assert {name for pair in record["comparisons"] for name in pair} <= set(methods)
    assert all(len(entry["seeds"]) >= 3 for entry in methods.values() if "checkpoint" in entry)
