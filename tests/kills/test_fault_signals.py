"""Ctrl-C and SIGTERM end a command in order: one line, the right exit code, and it goes on to the same files."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from made_runs import contents, simulate_words, write_inputs

from mf_llm.termination import ending_on_sigterm

pytestmark = pytest.mark.trust("faults", "commands that Ctrl-C or SIGTERM stops")

CODES = {"SIGINT": 130, "SIGTERM": 143}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_stopped_command_goes_on_to_the_same_files(tmp_path, tries):
    write_inputs(tmp_path)
    folder = tmp_path / "runs"
    folder.mkdir()
    case = {"folder": str(folder), "words": simulate_words(tmp_path), "stops": tries.of(3, 20)}
    (tmp_path / "case.json").write_text(json.dumps(case), encoding="utf-8")
    environment = os.environ | {"MF_LLM_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("stopped_commands.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "case.json")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    whole = contents(folder / "whole")
    stops = json.loads((folder / "stops.json").read_text(encoding="utf-8"))
    assert len(stops) == 2 * case["stops"]
    for stop in stops:
        tries.add()
        said = [line for line in stop["said"].replace("\r", "\n").splitlines() if "mf-llm: " in line]
        assert stop["code"] == CODES[stop["signal"]], stop
        assert len(said) == 1 and "Traceback" not in stop["said"], stop
        assert "finished steps are kept; go on" in said[0], stop
        assert stop["left"] == [] and stop["again"] == 0, stop
        assert contents(folder / stop["name"]) == whole, stop


def test_sigterm_is_left_as_it_was():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, ending_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it should have stopped here")
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    with ending_on_sigterm():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_get_no_signals_and_are_let_through():
    found = []

    @ending_on_sigterm()
    def work():
        found.append(threading.current_thread() is threading.main_thread())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
