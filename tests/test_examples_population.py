"""The example that simulates a population runs as its text says, with a tiny model in the default's place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mf_llm import Rollout
from mf_llm.models.tiny import save_tiny_backbone

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/simulate_population.py"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "backbone", "llama")


def run(*arguments, cwd):
    command = [sys.executable, EXAMPLE, "--signal-max-tokens", "8", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)


def test_people_are_invented_read_merged_and_simulated(backbone, tmp_path):
    done = run("--people", 20_000, "--model", backbone, "--output", tmp_path / "run", "--n-steps", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"20,000 people, 144 states, read and merged in [\d.]+ s\n", done.stdout)
    assert re.search(r"[\d.]+ s per step \(warm-up included\), peak memory [\d.]+ GiB\n", done.stdout)
    assert "signal before the last step: Of 20," in done.stdout and "    -> " in done.stdout
    rollout = Rollout.load(tmp_path / "run")
    steps = [step for step in rollout.steps if not step.real]
    assert len(steps) == 2 and all(step.n_people == sum(step.counts) == 20_000 for step in steps)
    for step in steps:
        assert all(f"({count:,})" in done.stdout for count in step.counts)


def test_a_table_with_weights_and_bins(backbone, tmp_path):
    table = pa.table({"age": [20, 40, 41, 70], "town": list("aabb"), "w": [1.5, 2.0, 3.5, 1000.0]})
    pq.write_table(table, tmp_path / "people.parquet")
    (tmp_path / "bins.yaml").write_text("age: [18, 50, null]\ntown: null\n")
    arguments = ("--table", "people.parquet", "--bins", "bins.yaml", "--weight", "w", "--n-steps", 1)
    done = run(*arguments, "--model", backbone, "--signal", "none", "--writers", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1,007 people, 2 states") and "signal before the last step: none" in done.stdout


def test_mistakes_are_one_line(tmp_path):
    done = run("--table", "nowhere.parquet", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: `source` must be a table that can be read")
    assert "Traceback" not in done.stderr
