"""What the tests of the trust battery tried, gathered into one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.evaluation.provenance import versions

COLUMNS = ("area", "what", "tried", "failed", "left_out")
AREAS = ("inputs", "prompts", "checkpoints", "privacy", "faults", "numbers", "versions")
PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "huggingface-hub", "safetensors", "hypothesis")


class Tries:
    """How often something was tried.

    Attributes:
        full: whether the battery is tried in full.
        n: tries so far.
    """

    def __init__(self, *, full: bool) -> None:
        self.full, self.n = full, 0

    def of(self, quick: int, full: int) -> int:
        """How many tries there should be: a few in every run of the tests, all in the battery."""
        return full if self.full else quick

    def add(self, n: int = 1) -> None:
        """Counts, before the try: one that fails was tried too."""
        self.n += n


class Battery:
    """Writes ``trust.csv`` and ``trust.json`` when the last test has ended.

    One row per thing that was tried: how often, how many tests failed, and how many were left out. A test that fails
    ends at its first failure, which counts once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of each test three reports come: setup, call and teardown; properties grow, and one failure is enough."""
        test = self._tests.setdefault(report.nodeid, {"outcomes": set()})
        test["outcomes"].add(report.outcome)
        test["properties"] = dict(report.user_properties)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Adds up and writes."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for test in self._tests.values():
            properties = test["properties"]
            if "trust" not in properties:
                continue
            area, what = properties["trust"]
            row = rows.setdefault((area, what), {"area": area, "what": what, "tried": 0, "failed": 0, "left_out": 0})
            if "skipped" in test["outcomes"]:
                row["left_out"] += 1
                continue
            row["tried"] += properties.get("tries", 1)
            row["failed"] += "failed" in test["outcomes"]
        ordered = [rows[key] for key in sorted(rows, key=lambda key: (AREAS.index(key[0]), key[1]))]
        write_csv(self._folder / "trust.csv", COLUMNS, ordered)
        record = {"versions": versions(PACKAGES), "exit_status": int(exitstatus)}
        write_json(self._folder / "trust.json", record)
