"""The benchmark of the endpoint engine counts what it says it counts."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from loaded_script import loaded_script

FILE = Path(__file__).parents[2] / "examples/benchmark_endpoint.py"
SMALL = ["--concurrency", "4", "--latency", "0.02", "--people", "24", "--actions", "16", "--repeats", "1"]


@pytest.fixture(scope="module")
def benchmark():
    return loaded_script(FILE)


def test_everybody_is_asked_and_never_too_many_at_once(benchmark, tmp_path):
    subprocess.run([sys.executable, str(FILE), *SMALL, "--output", str(tmp_path)], check=True, capture_output=True)
    record = json.loads((tmp_path / "endpoint.json").read_text())
    alone, one_step, side_by_side = record["rows"]
    together = -(-benchmark.ROUNDS * 4 // 16)
    assert [row["requests"] for row in record["rows"]] == [24, 24, 16 * together]
    assert alone["of the server alone"] == 1
    for row in (alone, one_step, side_by_side):
        assert 0 < row["in flight"] <= 4
        # Four at a time, 0.01 to 0.03 seconds each.
        assert 0 < row["requests/s"] < 4 / 0.01
        assert row["lowest"] <= row["of the server alone"] <= row["highest"]
    with open(tmp_path / "endpoint.csv", newline="") as file:
        assert [row["asked by"] for row in csv.DictReader(file)] == [row["asked by"] for row in record["rows"]]
    assert "--concurrency 4" in record["command"] and str(tmp_path) not in json.dumps(record)


def test_a_client_that_waits_between_requests_is_seen_to_do_so(benchmark):
    runs = [{"requests": 50, "seconds": 2.0, "area": 100.0}, {"requests": 60, "seconds": 2.0, "area": 120.0}]
    alone = [{"requests": 100, "seconds": 2.0, "area": 200.0}] * 2
    row = benchmark._row("x", runs, alone)
    assert (row["of the server alone"], row["lowest"], row["highest"]) == (0.55, 0.5, 0.6)
    assert row["in flight"] == 55
