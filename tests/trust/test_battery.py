"""The battery itself: what it counts, what fails and what is left out."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

pytestmark = pytest.mark.trust("numbers", "sums of ones")


def test_many(tries):
    for _ in range(tries.of(3, 7)):
        tries.add()


def test_once():
    assert 1 + 1 == 2


def test_wrong(tries):
    tries.add(4)
    assert 1 + 1 == 3


@pytest.mark.skip(reason="no abacus")
def test_left_out():
    pass


@pytest.mark.trust("inputs", "other things")
def test_other():
    pass
"""


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_what_was_tried_failed_and_left_out(tmp_path, processes):
    here = Path(__file__).parents[1]
    (tmp_path / "test_made.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text((here / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *processes, "--trust", "out", "."]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(here)}, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    with (tmp_path / "out" / "trust.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [("inputs", "other things", "1", "0", "0"), ("numbers", "sums of ones", "12", "1", "1")]
