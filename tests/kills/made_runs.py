"""Events, a tiny model and the words of commands that take a fraction of a second with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from made_benchmark import write_data

from mf_llm import cli
from mf_llm.models.tiny import save_tiny_backbone

TIMINGS = "timings.json"
METHODS = """
options: {readout: exact, action: label_text, agents_per_step: 6, signal_max_tokens: 4, max_new_tokens: 3}
data_sets:
  poll: {action: choice, max_people_per_step: 6}
methods:
  carry: {forecaster: carry}
  state: {options: {signal: none}}
  mf: {options: {signal: both}}
pairs:
  - [mf, state]
"""
PLAN = {
    "target": {"category": "deny", "steps": [3, 4], "goal": "lower"},
    "candidates": [
        {"name": "news", "cost": 1, "interventions": [{"step": 3, "topic": "The mayor says that it is true."}]},
        {"name": "voices", "interventions": [{"step": 2, "actions": [{"text": "True!", "label": "support"}]}]},
    ],
}


def write_inputs(folder: Path) -> None:
    """What the commands read."""
    write_data(folder / "data")
    save_tiny_backbone(folder / "base", "qwen2")
    (folder / "methods.yaml").write_text(METHODS, encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(PLAN), encoding="utf-8")


def simulate_words(folder: Path, *more: str) -> list[str]:
    """``mf-llm simulate`` of one event with two seeds."""
    words = ["simulate", str(folder / "data" / "threads.jsonl"), "--split", "test", "--limit", "1", "--seeds", "2"]
    words += ["--output", "{output}", "--model", str(folder / "base"), "--dtype", "float32", "--signal", "both"]
    return [*words, "--agents-per-step", "4", "--max-new-tokens", "3", "--signal-max-tokens", "4", *more]


def intervene_words(folder: Path, run: Path, *more: str) -> list[str]:
    """``mf-llm intervene`` on a run of `simulate_words`."""
    words = ["intervene", str(run), "--plan", str(folder / "plan.json"), "--output", "{output}", "--no-plots"]
    return [*words, *more]


def compare_words(folder: Path, *more: str) -> list[str]:
    """``mf-llm compare`` of two simulated methods and a forecaster on two data sets."""
    words = ["compare", str(folder / "data"), "--output", "{output}", "--methods", "all", "--limit", "2"]
    words += ["--method-list", str(folder / "methods.yaml"), "--model", str(folder / "base"), "--dtype", "float32"]
    return [*words, "--bootstrap", "20", "--events-together", "2", "--no-report", *more]


def call(command: list[str], output: Path) -> int:
    """``mf-llm COMMAND`` in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mf-llm", *(word.replace("{output}", str(output)) for word in command)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder. Of those that say how long steps took, and nothing else, only that they are there."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(folder))] = b"" if path.name == TIMINGS else path.read_bytes()
            if path.name == TIMINGS:
                assert set(json.loads(path.read_text(encoding="utf-8"))) == {"seconds_per_step"}
    return found
