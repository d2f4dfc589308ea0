"""A full disk or a folder that may not be written: one line that says so, nothing lost, and a run that can go on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from faults import failing_call, files, largest_file, read_only
from made_runs import TIMINGS, call, compare_words, contents, intervene_words, simulate_words, write_inputs

from mf_llm.atomic_files import write_text
from mf_llm.endpoints.chat import Answer
from mf_llm.simulation.engines.answer_log import AnswerLog

pytestmark = pytest.mark.trust("faults", "writes to a disk that is full or may not be written")

JOURNAL = "journal.jsonl"
COMMANDS = ("simulate", "intervene", "compare")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Inputs, and a finished run of each command."""
    folder = tmp_path_factory.mktemp("full-disk")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MF_LLM_CACHE", str(folder / "cache"))
        for name in COMMANDS:
            assert call(words(folder, name), folder / name) == 0
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))


def words(place: Path, name: str, *more: str) -> list[str]:
    if name == "intervene":
        return intervene_words(place, place / "simulate", *more)
    return (simulate_words if name == "simulate" else compare_words)(place, *more)


def check_told(line: str, folder: Path, why: int) -> None:
    """One line that names a file, says why, and what to do."""
    assert line.startswith(f"mf-llm: {folder}{os.sep}"), line
    assert f" cannot be written ({os.strerror(why)}); make room, or name a folder that can be written, " in line
    assert line.endswith("(with --resume where there is one); what was written before is kept")


def check_kept(folder: Path, before: dict[str, bytes], whole: Path) -> None:
    """What was there before is there, all of it can be read, and nothing half-written is left."""
    found, expected = files(folder), contents(whole)
    assert not [path.name for path in folder.rglob("*") if path.name.startswith(".")]
    for name, content in before.items():
        kept = found[name]
        assert kept.startswith(content) if name.endswith(JOURNAL) else kept == content, name
    for name, content in found.items():
        if name.endswith(JOURNAL):  # whole lines, and what fitted of the last one
            assert all(isinstance(json.loads(line), dict) for line in content.split(b"\n")[:-1])
        elif not name.endswith(TIMINGS):
            assert content == expected[name], name


def last_line(capsys) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_a_disk_that_is_full_from_any_call_on(tries, place, tmp_path, capsys):
    """Each folder, each sync and each file that is moved to its place, one after another."""
    command = words(place, "simulate", "--resume", "--seeds", "1")
    assert call(command, tmp_path / "whole") == 0
    for nth in count(1):
        output = tmp_path / str(nth) / "run"
        with failing_call(nth, tmp_path / str(nth)) as before:
            code = call(command, output)
        if not before:
            break
        tries.add()
        assert code == 1
        check_told(last_line(capsys), output.parent, errno.ENOSPC)
        check_kept(output, {name.removeprefix("run/"): one for name, one in before[0].items()}, tmp_path / "whole")
        assert call(command, output) == 0
        assert contents(output) == contents(tmp_path / "whole")
    assert code == 0 and nth > 20


@pytest.mark.parametrize("name", ["intervene", "compare"])
def test_a_disk_that_is_full_when_results_are_written(tries, place, tmp_path, capsys, name):
    """The results of an earlier run are there until new ones take their place."""
    whole, more = contents(place / name), ("--resume",) if name == "intervene" else ()
    output = tmp_path / "run"
    shutil.copytree(place / name, output)
    results = [path.name for path in output.iterdir() if path.is_file() and path.name != "intervene.json"]
    for nth in count(1):
        if nth % 2:
            for result in results:
                (output / result).unlink(missing_ok=True)
        with failing_call(nth, output) as before:
            code = call(words(place, name, *more), output)
        if not before:
            break
        tries.add()
        assert code == 1
        check_told(last_line(capsys), output, errno.ENOSPC)
        check_kept(output, before[0], place / name)
    assert code == 0 and nth > 2 * len(results)
    assert contents(output) == whole


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_files_that_may_not_grow(tries, place, tmp_path, capsys):
    """A write that fails in its middle: of every file of a run, and of journals after a few steps."""
    whole, command = contents(place / "simulate"), words(place, "simulate", "--resume")
    sizes = {len(content) for name, content in whole.items() if not name.endswith(TIMINGS)}
    for size in [0, 2000, 3000, *sorted(one - 1 for one in sizes)]:
        output = tmp_path / str(size)
        tries.add()
        with largest_file(size):
            code = call(command, output)
        if code:
            check_told(last_line(capsys), output, errno.EFBIG)
            check_kept(output, {}, place / "simulate")
        assert code == 1
        assert call(command, output) == 0
        assert contents(output) == whole


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_answers_of_a_server_that_no_longer_fit(tmp_path):
    log = AnswerLog(tmp_path)
    line = {"turn": 1, "purpose": "text", "answer": Answer(value="x" * 200)}
    told = re.escape(f"{tmp_path / 'answers.jsonl'} cannot be written (")
    with pytest.raises(OSError, match=told), largest_file(600), log.open():
        for step in range(3):
            log.add(step=step, key=f"key {step}", **line)
    assert (tmp_path / "answers.jsonl").stat().st_size == 600
    found = AnswerLog(tmp_path)
    assert found.known(0, "key 0") == line["answer"] and found.known(2, "key 2") is None
    with found.open():
        found.add(step=2, key="key 2", **line)
    assert AnswerLog(tmp_path).known(2, "key 2") == line["answer"]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("why", [errno.EROFS, errno.EACCES], ids=["file system", "permission"])
def test_a_folder_that_may_not_be_written(place, tmp_path, capsys, name, why):
    output = tmp_path / "there" / "run"
    output.parent.mkdir()
    with read_only(output.parent, why):
        assert call(words(place, name), output) == 1
    check_told(last_line(capsys), output.parent, why)
    assert not any(output.parent.iterdir())
    # One that holds results already.
    shutil.copytree(place / name, output)
    with read_only(output.parent, why):
        assert call(words(place, name, *(("--resume",) if name != "compare" else ())), output) == 1
    check_told(last_line(capsys), output.parent, why)
    assert contents(output) == contents(place / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission(place, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o555)
    assert call(words(place, "simulate"), tmp_path / "there" / "run") == 1
    check_told(last_line(capsys), tmp_path / "there", errno.EACCES)


def can_mount() -> bool:
    """A disk of one's own can be mounted here, as root or in a name space of users."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/mnt"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_real_disks_that_are_too_small(tries, place, tmp_path):
    """Of ever more bytes, and for ever more files; then they may not be written; then there is room."""
    if not can_mount():
        pytest.skip("needs the right to mount a small disk")
    case = {"folder": str(tmp_path), "words": words(place, "simulate", "--resume")}
    (tmp_path / "case.json").write_text(json.dumps(case), encoding="utf-8")
    script = Path(__file__).with_name("full_disk.py")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, str(script), str(tmp_path / "case.json")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    disks = json.loads((tmp_path / "disks.json").read_text(encoding="utf-8"))
    assert len(disks) > 6
    tries.add(len(disks))
    for number, disk in enumerate(disks):
        assert [disk[when]["code"] for when in ("full", "read_only", "resumed")] == [1, 1, 0]
        check_told(disk["full"]["line"], tmp_path / "disk", errno.ENOSPC)
        check_told(disk["read_only"]["line"], tmp_path / "disk", errno.EROFS)
        check_kept(tmp_path / f"failed-{number}" / "run", {}, place / "simulate")
        assert contents(tmp_path / f"resumed-{number}") == contents(place / "simulate")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_journal_beside_a_finished_rollout_is_removed(place, tmp_path, name):
    """A kill between the two leaves it there."""
    output = tmp_path / "run"
    shutil.copytree(place / name, output)
    for path in output.rglob("rollout.json"):
        path.with_name(JOURNAL).write_text("{}\n")
    assert call(words(place, name, *(("--resume",) if name != "compare" else ())), output) == 0
    assert contents(output) == contents(place / name)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    kept = [".a.json.x", f".b.json.{died.pid}", f".a.json.{os.getppid()}", "a.json.1"]
    for name in (*kept, f".a.json.{died.pid}"):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "a.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "a.json"])
