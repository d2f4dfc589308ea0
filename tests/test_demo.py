"""The demo does what the README says, with a tiny model in the place of the default backbone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation import Rollout, load_rollouts

DEMO = Path(__file__).resolve().parent.parent / "examples/demo.py"


def test_demo_prints_shares_and_leaves_tables_and_plots(tmp_path):
    backbone = save_tiny_backbone(tmp_path / "tiny", "llama")
    keep = tmp_path / "demo" / "notes.txt"
    keep.parent.mkdir()
    keep.write_text("mine")
    command = [sys.executable, DEMO, "--output", tmp_path / "demo", "--model", backbone]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in (
        "vaccine-intention-us, wave w6, 200 people simulated",
        "KL(real || .)",
        "gain",
        "Signal before step",
    ):
        assert words in done.stdout
    rollouts = load_rollouts(tmp_path / "demo/survey")
    assert [len(rollout.simulated()) for rollout in rollouts] == [200, 200]
    assert len(Rollout.load(tmp_path / "demo/bridge-closure").simulated()) == 32
    for name in ("vaccine-intention-us.png", "vaccine-intention-ri.pdf", "bridge-closure-trajectory.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 5_000
    assert (tmp_path / "demo/survey/evaluation.csv").is_file()
    assert keep.read_text() == "mine"
