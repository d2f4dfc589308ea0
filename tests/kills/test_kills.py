"""Whenever a run is killed, what it goes on to is what it would have made at once, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import compare_words, contents, intervene_words, simulate_words, write_inputs

# Kills of each of the three commands; a kill costs about half a second of one core.
KILLS, KILLS_OF_THE_BATTERY = 9, 51


@pytest.mark.trust("faults", "commands that are killed, at any place")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_commands_go_on_to_the_same_files(tries, tmp_path):
    write_inputs(tmp_path)
    words = {
        "simulate": simulate_words(tmp_path),
        "intervene": intervene_words(tmp_path, tmp_path / "simulate" / "whole"),
        "compare": compare_words(tmp_path),
    }
    cases, wanted = [], tries.of(KILLS, KILLS_OF_THE_BATTERY)
    for seed, (name, command) in enumerate(words.items()):
        (tmp_path / name).mkdir()
        # What `compare` finds in its folder it takes without being told.
        resume = [] if name == "compare" else ["--resume"]
        case = {"folder": str(tmp_path / name), "words": command, "resume": resume, "kills": wanted, "seed": seed}
        cases.append(case)
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    environment = os.environ | {"MF_LLM_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("killed_commands.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "cases.json")],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name in words:
        folder = tmp_path / name
        kills = json.loads((folder / "kills.json").read_text(encoding="utf-8"))["kills"]
        assert len(kills) >= wanted
        tries.add(len(kills))
        whole = contents(folder / "whole")
        assert contents(folder / "again") == whole
        for killed in sorted(folder.glob("killed-*")):
            found = contents(killed)
            differing = [path for path in sorted(whole.keys() | found.keys()) if whole.get(path) != found.get(path)]
            assert not differing, (name, [kill for kill in kills if kill.startswith(f"{killed.name}:")])
