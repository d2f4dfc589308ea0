"""What the tests of the trust battery tried, gathered into one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.evaluation.provenance import versions

COLUMNS = ("area", "what", "tried", "failed", "left_out")
DIED = "died"  # where not even the area of a test is known
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
    ends at its first failure, which counts once; one in which a process died has failed; one that was skipped, or
    that tried nothing, was left out. A part of the battery (some files, ``-k``, ``-x``, an interruption) writes
    ``trust_part.csv`` and ``trust_part.json``, so that nobody takes it for the whole.

    Args:
        folder: where the table goes.
        tests: the folder of all tests.
    """

    def __init__(self, folder: Path, tests: Path) -> None:
        self._folder, self._all_tests = folder, tests
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of each test three reports come: setup, call and teardown; properties grow, and one failure is enough.

        Of a process that died there is a report without properties, behind that of the setup.
        """
        test = self._tests.setdefault(report.nodeid, {"outcomes": set(), "properties": {}})
        test["outcomes"].add(report.outcome)
        test["properties"] |= dict(report.user_properties)
        if report.when not in ("setup", "call", "teardown"):
            test["properties"].setdefault("trust", (DIED, report.nodeid))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Adds up and writes."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for test in self._tests.values():
            properties = test["properties"]
            if "trust" not in properties:
                continue
            area, what = properties["trust"]
            row = rows.setdefault((area, what), {"area": area, "what": what, "tried": 0, "failed": 0, "left_out": 0})
            failed, tried = "failed" in test["outcomes"], properties.get("tries", 1)
            if not failed and (tried == 0 or "skipped" in test["outcomes"]):
                row["left_out"] += 1
                continue
            row["tried"] += max(tried, 1)
            row["failed"] += failed
        areas = (*AREAS, DIED)
        ordered = [rows[key] for key in sorted(rows, key=lambda key: (areas.index(key[0]), key[1]))]
        why = self._why_a_part(session.config, exitstatus)
        name = "trust_part" if why else "trust"
        write_csv(self._folder / f"{name}.csv", COLUMNS, ordered)
        record = {"versions": versions(PACKAGES), "exit_status": int(exitstatus)} | ({"a_part": why} if why else {})
        write_json(self._folder / f"{name}.json", record)

    def _why_a_part(self, config: pytest.Config, exitstatus: int) -> str:
        """Why not everything was tried; empty where it was."""
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return f"it ended with exit status {int(exitstatus)}"
        if config.option.markexpr not in ("", "trust"):
            return f"-m {config.option.markexpr}"
        for option in ("keyword", "deselect", "ignore", "ignore_glob", "maxfail", "lf", "stepwise", "collectonly"):
            if getattr(config.option, option, None):
                return f"{option}: {getattr(config.option, option)}"
        places = {(config.invocation_params.dir / place.partition("::")[0]).resolve() for place in config.args}
        return "" if places == {self._all_tests} else f"of {', '.join(config.args)}"
