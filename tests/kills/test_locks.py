"""Two processes on one folder are kept apart, and what a killed one leaves keeps nobody away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_runs import call, compare_words, contents, intervene_words, simulate_words, write_inputs

from mf_llm.errors import InputError
from mf_llm.folder_lock import only_writer
from mf_llm.training.script_arguments import train_and_save

pytestmark = [
    pytest.mark.trust("faults", "two processes on one folder, and locks of processes that are gone"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX"),
]
HOLDER = """
import sys
from mf_llm.folder_lock import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
REFUSED = "must be written by one process, but another one is writing"
COMMANDS = ("simulate", "intervene", "compare", "forecast")


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen]:
    """While this lasts another process writes into the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """Inputs, and a finished run to branch off and to forecast from."""
    folder = tmp_path_factory.mktemp("locks")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MF_LLM_CACHE", str(folder / "cache"))
        assert call(simulate_words(folder), folder / "run") == 0
        yield folder


def words(place: Path, name: str) -> list[str]:
    if name == "intervene":
        return intervene_words(place, place / "run")
    if name == "forecast":
        data = str(place / "data" / "threads.jsonl")
        return ["forecast", str(place / "run"), "--data", data, "--output", "{output}", "--bootstrap", "20"]
    return (simulate_words if name == "simulate" else compare_words)(place)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_another_process_writes_is_left_alone_until_it_is_gone(tries, place, tmp_path, capsys, name):
    output = tmp_path / "new" / "run"
    tries.add(2)
    with held(output) as process:
        assert list(output.iterdir()) == []  # a lock is no file
        assert call(words(place, name), output) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("mf-llm: `output` ") and f"{REFUSED} {output};" in said
        assert list(output.iterdir()) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert call(words(place, name), output) == 0
    assert contents(output)


def test_a_finished_run_is_not_touched_and_its_copy_is_free(tries, place, tmp_path, capsys):
    run, copy = shutil.copytree(place / "run", tmp_path / "run"), tmp_path / "copy"
    before = contents(run)
    tries.add(2)
    with held(run):
        assert call([*simulate_words(place), "--resume"], run) == 2
        assert REFUSED in capsys.readouterr().err
        shutil.copytree(run, copy)
        assert call([*simulate_words(place), "--resume"], copy) == 0
    assert contents(run) == contents(copy) == before


def test_of_two_that_begin_at_once_one_makes_the_run(tries, place, tmp_path):
    for number in range(tries.of(1, 6)):
        tries.add()
        output = tmp_path / str(number)
        command = [word.replace("{output}", str(output)) for word in simulate_words(place)]
        both = [
            subprocess.Popen([sys.executable, "-m", "mf_llm.cli", *command], stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate()[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 2], said
        refused = said[[process.returncode for process in both].index(2)]
        assert REFUSED in refused or "holds a run already" in refused
        assert contents(output) == contents(place / "run")


def test_training_does_not_begin_in_a_folder_that_another_process_writes(tries, tmp_path):
    trained = []
    args = SimpleNamespace(output_dir=str(tmp_path), resume_from_checkpoint=None, should_save=False, push_to_hub=False)
    trainer = SimpleNamespace(args=args, train=lambda **settings: trained.append(settings), save_model=trained.append)
    tries.add()
    with held(tmp_path), pytest.raises(InputError, match=REFUSED):
        train_and_save(trainer)
    assert trained == []
    train_and_save(trainer)
    assert trained == [{"resume_from_checkpoint": None}, str(tmp_path)]


def test_processes_of_one_launch_share_the_lock_of_the_first(tries, tmp_path, monkeypatch):
    tries.add(2)
    with only_writer(tmp_path):
        with pytest.raises(InputError, match=REFUSED), only_writer(tmp_path):
            raise AssertionError("it should not have come here")
        monkeypatch.setenv("RANK", "1")
        with only_writer(tmp_path):
            assert os.listdir(tmp_path) == []
    monkeypatch.delenv("RANK")
    with only_writer(tmp_path):
        pass
