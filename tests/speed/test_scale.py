"""The benchmark of large populations, in miniature: each part measures what it says."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mf_llm.models.tiny import save_tiny_backbone

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark_scale  # noqa: E402
import scale_child  # noqa: E402


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "backbone", "llama")


def part(name, backbone, **changes):
    settings = {"model": str(backbone), "dtype": "float32", "threads": 0}
    return scale_child.PARTS[name](settings | benchmark_scale.SMALL[name] | changes)


def test_a_crowd_has_its_states_and_people():
    crowd = scale_child.crowd(200, 1001)
    assert (len(crowd), crowd.n_people) == (200, 1001)
    assert set(crowd.weights) == {5, 6}


def test_many_people_cost_a_step_what_few_cost(backbone):
    found = part("step", backbone, step_repeats=2)
    assert found["people"] == {"few": 100, "many": 10_000} and found["tokens"]["few"] == found["tokens"]["many"] > 0
    assert {len(seconds) for seconds in found["seconds"].values()} == {2} and found["ratio"] > 0


def test_a_step_that_loses_people_is_no_measure(backbone):
    models = scale_child.load_model_and_processor(str(backbone), dtype="float32", progress=False)
    config = scale_child.SimulationConfig(signal="none", action="choice")
    rollout, seconds = scale_child.timed(models, scale_child.crowd(3, 10), config, 1)
    assert len(seconds) == 1
    scale_child.check_everybody_acted(rollout, 10)
    with pytest.raises(RuntimeError, match="not 11 people"):
        scale_child.check_everybody_acted(rollout, 11)


def test_steps_of_many_people_with_written_signals(backbone):
    found = part("million", backbone)
    assert (found["people"], found["states"], len(found["seconds_per_step"])) == (1000, 5, 2)
    assert found["new_tokens"] > 96 and found["seconds"] >= sum(found["seconds_per_step"]) - 0.01


def test_a_table_is_read_and_merged():
    found = scale_child.table(benchmark_scale.SMALL["table"])
    assert (found["rows"], found["states"]) == (20_000, 144) and found["bytes"] > 10_000 and found["seconds"] > 0


def test_cost_is_flat_in_history_and_linear_in_states(backbone):
    found = part("growth", backbone)
    steps = [row for row in found["rows"] if row["over"] == "steps"]
    assert [row["step"] for row in steps] == list(range(1, 21)) and {row["states"] for row in steps} == {10}
    assert found["late_over_early"]["tokens"] == pytest.approx(1, abs=0.2)
    tokens = found["states"]["tiny"]["tokens"]
    assert tokens["per_state"] > 5 and tokens["fixed"] > 0


def test_memory_of_a_longer_replay_is_its_rows(backbone):
    found = part("replay", backbone)
    assert found["actions"] == [200, 1000] and len(found["peak_gib"]) == 2
    if found["kib_per_action"] is not None:
        # A prompt that grew with the past, or a cache that was kept, would cost hundreds.
        assert found["kib_per_action"] < 100


def test_the_survey_in_few_states(backbone):
    found = part("coarsening", backbone)
    assert found["states"] == 25 and found["coarse_states"] < 25 and 0 <= found["kl"] < 1
    assert len(found["shares"][0]) == len(found["coarse_shares"][0])


def run(backbone, output, *parts):
    command = ["scripts/benchmark_scale.py", "--small", "--model", backbone, "--dtype", "float32", "--output", output]
    done = subprocess.run([sys.executable, *command, "--parts", *parts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_parts_are_kept_and_not_measured_again(backbone, tmp_path):
    first = run(backbone, tmp_path, "start", "table")
    again = run(backbone, tmp_path, "start", "table")
    assert "start: there already" not in first.stderr
    assert again.stderr == "start: there already\ntable: there already\n" and again.stdout == first.stdout
    started = json.loads((tmp_path / "start.json").read_text(encoding="utf-8"))
    assert len(started["seconds"]) == 1 and started["slowest"] == started["seconds"][0] > 0
    assert set(started["versions"]) >= {"mf_llm", "torch", "transformers"}
    assert started["settings"]["dtype"] == "float32"
    with (tmp_path / "scale.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["part"], row["at_most"]) for row in rows][:2] == [("start", "10"), ("table", "60")]
    assert f"table: seconds {float(rows[1]['value']):.4g} (at most 60)" in first.stdout


def test_the_plot_of_growth(tmp_path):
    rows = [
        {"model": model, "over": over, "states": n, "step": n, "tokens": 10 * n, "seconds": 0.1 * n}
        for model, over in (("tiny", "steps"), ("tiny", "states"), ("model", "states"))
        for n in (1, 10, 100)
    ]
    benchmark_scale.plot(rows, tmp_path)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "growth.csv").read_text(encoding="utf-8").count("\n") == 10
