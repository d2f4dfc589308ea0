"""The battery itself: what it counts, what fails and what is left out."""

from __future__ import annotations

import csv
import json
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


def test_nothing(tries):
    pass


@pytest.mark.trust("inputs", "other things")
def test_other():
    pass
"""
DYING = """
import os

import pytest


@pytest.mark.trust("faults", "a death")
def test_dies(tries):
    tries.add(7)
    os._exit(3)


@pytest.mark.trust("numbers", "life")
def test_lives():
    pass


@pytest.fixture
def deadly():
    os._exit(3)


@pytest.mark.trust("faults", "an early death")
def test_dies_before_it_begins(deadly):
    pass
"""


def tried(folder: Path, content: str, *options: str, place: str = ".") -> tuple[int, list[tuple[str, ...]], dict]:
    """Exit code, rows and record of a battery; of a part, where no whole one was written."""
    here = Path(__file__).parents[1]
    (folder / "test_made.py").write_text(content)
    (folder / "conftest.py").write_text((here / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "--trust", "out", place]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(here)}, capture_output=True, text=True
    )
    (table,) = (folder / "out").glob("*.csv")
    with table.open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    record = json.loads(table.with_suffix(".json").read_text())
    assert (table.stem == "trust_part") == ("a_part" in record), done.stdout
    return done.returncode, rows, record


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_what_was_tried_failed_and_left_out(tmp_path, processes):
    code, rows, record = tried(tmp_path, TESTS, *processes)
    assert code == 1 and "a_part" not in record
    assert rows == [("inputs", "other things", "1", "0", "0"), ("numbers", "sums of ones", "12", "1", "2")]


def test_a_process_that_dies_has_failed(tmp_path):
    code, rows, record = tried(tmp_path, DYING, "-n", "2")
    assert code == 1 and "a_part" not in record
    assert rows == [
        ("faults", "a death", "1", "1", "0"),
        ("numbers", "life", "1", "0", "0"),
        ("died", "test_made.py::test_dies_before_it_begins", "1", "1", "0"),
    ]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("-k", "many"), "."),
        (("-m", "trust and not slow"), "."),
        (("-x",), "."),
        (("--deselect", "test_made.py::test_once"), "."),
        ((), "test_made.py"),
        ((), "test_made.py::test_many"),
        (("--collect-only",), "."),
    ],
    ids=["-k", "-m", "-x", "--deselect", "file", "test", "--collect-only"],
)
def test_a_part_is_not_written_as_the_whole(tmp_path, options, place):
    assert tried(tmp_path, TESTS, *options, place=place)[2]["a_part"]


def test_tests_that_cannot_be_collected_leave_a_part(tmp_path):
    code, rows, record = tried(tmp_path, TESTS + "\nimport no_such_module\n")
    assert code == 2 and rows == [] and record["a_part"] == "it ended with exit status 2"
