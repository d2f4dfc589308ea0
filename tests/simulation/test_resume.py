"""A run that was interrupted anywhere and resumed leaves the same bytes as one that was not."""

import contextlib
import json
import re
import shutil
import signal as signals
import subprocess
import sys
from pathlib import Path

import pytest
from small_events import model_of, new_model, outcome, processor_of, run, small_event, with_turns

from mf_llm import InputError, Rollout
from mf_llm.simulation import load_rollouts
from mf_llm.simulation.journal import Journal
from stopped_journal import Crash, stop_journal

FILES = ("actions.parquet", "steps.parquet", "rollout.json")
# Three warm-up steps (3, 3, 2) and two of three people.
N_STEPS = 5


def make(output=None, resume=False, event=None, model=None, **settings):
    arguments = {"signal": "both", "action": "label_text"} | settings
    return run(
        model or model_of("qwen2"), processor_of("qwen2"), event or small_event(14), output, resume, **arguments
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_two_processes_do_not_write_one_run(tmp_path):
    """The lock goes with the process that holds it, and leaves nothing behind."""
    whole = make(tmp_path / "whole")
    held = Journal(tmp_path / "run", {}, resume=False)
    with pytest.raises(InputError, match=r"must be written by one process, but another one is writing .*journal"):
        make(tmp_path / "run", resume=True)
    held.close(remove=True)
    assert make(tmp_path / "run", resume=True) == whole
    assert contents(tmp_path / "run").keys() == contents(tmp_path / "whole").keys()


@pytest.mark.parametrize("kind", ["both", "none", "recent"])
@pytest.mark.parametrize("in_the_middle", [False, True], ids=["between", "inside"])
@pytest.mark.parametrize("lines", range(N_STEPS + 1))
def test_a_crash_at_every_step_changes_nothing(tmp_path, monkeypatch, lines, in_the_middle, kind):
    expected = make(tmp_path / "whole", signal=kind)
    with monkeypatch.context() as patch:
        stop_journal(patch, lines, in_the_middle=in_the_middle)
        with pytest.raises(Crash):
            make(tmp_path / "cut", signal=kind)
    left = contents(tmp_path / "cut")
    assert set(left) == {"journal.jsonl"} and left["journal.jsonl"].count(b"\n") == lines
    found = make(tmp_path / "cut", resume=True, signal=kind)
    assert outcome(found) == outcome(expected)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert set(contents(tmp_path / "cut")) == {*FILES, "timings.json"} == set(contents(tmp_path / "whole"))


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "mistral", "gpt2", "llama"])
def test_a_crash_changes_nothing_in_other_families(tmp_path, monkeypatch, family):
    settings = {"signal": "both", "readout": "sampled"}
    event, model, processor = small_event(waves=(4, 4, 3, 3)), model_of(family), processor_of(family)
    run(model, processor, event, tmp_path / "whole", warm_up="w2", **settings)
    with monkeypatch.context() as patch:
        stop_journal(patch, 4)
        with pytest.raises(Crash):
            run(model, processor, event, tmp_path / "cut", warm_up="w2", **settings)
    run(model, processor, event, tmp_path / "cut", True, warm_up="w2", **settings)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_many_crashes_one_after_another(tmp_path, monkeypatch):
    make(tmp_path / "whole")
    for _ in range(N_STEPS):  # the header first, then a step each time
        with monkeypatch.context() as patch:
            stop_journal(patch, 1)
            with pytest.raises(Crash):
                make(tmp_path / "cut", resume=True)
    make(tmp_path / "cut", resume=True)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(("lines", "kind"), [(1, "both"), (5, "none")])
def test_a_killed_process_loses_at_most_one_step(tmp_path, lines, kind):
    folder = tmp_path / "killed"
    script = Path(__file__).with_name("killed_run.py")
    died = subprocess.run(
        [sys.executable, str(script), str(folder), str(lines), kind], check=False, capture_output=True
    )
    assert died.returncode == -signals.SIGKILL, died.stderr.decode()[-2000:]
    assert (folder / "journal.jsonl").read_bytes().count(b"\n") == lines
    calls = []
    model = new_model("qwen2")
    model.backbone("policy").register_forward_pre_hook(lambda *a: calls.append(1))
    run(model, processor_of("qwen2"), small_event(14), folder, True, signal=kind)
    run(model_of("qwen2"), processor_of("qwen2"), small_event(14), tmp_path / "whole", signal=kind)
    assert results(folder) == results(tmp_path / "whole")
    assert bool(calls)


def test_a_crash_while_the_rollout_is_saved(tmp_path, monkeypatch):
    make(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("mf_llm.simulation.rollout.write_json", lambda *a: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            make(tmp_path / "cut")
    assert "journal.jsonl" in contents(tmp_path / "cut") and "rollout.json" not in contents(tmp_path / "cut")
    with pytest.raises(InputError, match=r"without rollout.json; the rollout cannot be read; finish the run"):
        Rollout.load(tmp_path / "cut")
    make(tmp_path / "cut", resume=True)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_a_crash_between_saving_and_clearing_up(tmp_path, monkeypatch):
    expected = make(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "close", lambda self, remove=False: self._file.close())
        make(tmp_path / "cut")
    assert "journal.jsonl" in contents(tmp_path / "cut")
    found = make(tmp_path / "cut", resume=True)
    assert outcome(found) == outcome(expected)
    assert set(contents(tmp_path / "cut")) == set(contents(tmp_path / "whole"))


def test_a_finished_run_is_not_made_again(tmp_path):
    expected = make(tmp_path)
    before = contents(tmp_path)
    model = new_model("qwen2")
    calls = []
    model.backbone("policy").register_forward_pre_hook(lambda *a: calls.append(1))
    found = make(tmp_path, resume=True, model=model)
    assert found == expected and calls == [] and contents(tmp_path) == before


def test_resume_in_an_empty_or_new_folder_starts(tmp_path):
    assert outcome(make(tmp_path, resume=True)) == outcome(make(tmp_path / "new" / "deeper", resume=True))


@pytest.mark.parametrize("finished", [False, True], ids=["journal", "rollout"])
def test_without_resume_an_existing_folder_is_refused_and_untouched(tmp_path, monkeypatch, finished):
    with monkeypatch.context() as patch:
        if not finished:
            stop_journal(patch, 3)
        with contextlib.suppress(Crash):
            make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"`output` must be a new folder, but {tmp_path} holds a rollout")):
        make(tmp_path)
    assert contents(tmp_path) == before


OTHER = {
    "config.seed = 0": {"seed": 7},
    "config.signal = 'both'": {"signal": "text"},
    "config.readout = 'exact'": {"readout": "sampled"},
    "config.warm_up = 8": {"warm_up": 6},
    "config.agents_per_step = 3": {"agents_per_step": 4},
    "config.action = 'label_text'": {"action": "choice"},
    "config.max_new_tokens = 5": {"max_new_tokens": 4},
    "config.signal_max_tokens = 8": {"signal_max_tokens": 9},
    "config.max_prompt_tokens = 600": {"max_prompt_tokens": 700},
    "config.anchored = False": {"anchored": True},
    "config.calibrated = False": {"calibrated": True},
    "config.writers = None": {"writers": 2},
    "event_hash = ": {"event": with_turns(small_event(14), at={13: {"action": "Something else."}})},
    "event_id = 'rumour-1'": {"event": small_event(14, event_id="rumour-2")},
}


@pytest.mark.parametrize("finished", [False, True], ids=["journal", "rollout"])
@pytest.mark.parametrize("named", OTHER)
def test_another_run_may_not_go_on_and_the_difference_is_named(tmp_path, monkeypatch, named, finished):
    with monkeypatch.context() as patch:
        if not finished:
            stop_journal(patch, 2)
        with contextlib.suppress(Crash):
            make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} was made with {named}")):
        make(tmp_path, resume=True, **OTHER[named])
    assert contents(tmp_path) == before


def test_other_weights_may_not_go_on(tmp_path):
    make(tmp_path)
    with pytest.raises(InputError, match=r"was made with versions.weights = '[0-9a-f]{16}' and now it is"):
        make(tmp_path, resume=True, model=new_model("qwen2", tied=False))


@pytest.mark.parametrize(
    "line",
    [b"no json\n", b"[]\n", b"5\n", b'{"step": 3}\n', b"\xff\xfe\n", b'{"step": {}, "actions": [[1]]}\n', b"\n"],
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_line_that_is_none_is_refused(tmp_path, monkeypatch, line, place):
    with monkeypatch.context() as patch:
        stop_journal(patch, 4)
        with pytest.raises(Crash):
            make(tmp_path)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[place] = line
    path.write_bytes(b"".join(lines))
    pattern = rf"line {place + 1}: is not a line of a journal|was made with "
    with pytest.raises(InputError, match=pattern):
        make(tmp_path, resume=True)
    assert path.read_bytes() == b"".join(lines)


def test_a_tail_of_zeros_is_dropped(tmp_path, monkeypatch):
    make(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_journal(patch, 3)
        with pytest.raises(Crash):
            make(tmp_path / "cut")
    with (tmp_path / "cut" / "journal.jsonl").open("ab") as file:
        file.write(b"\0" * 4096)
    make(tmp_path / "cut", resume=True)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_made_or_written_is_refused(tmp_path, monkeypatch, resume):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"`output` must be a folder that can be written, got .*name another"):
            make(folder, resume=resume)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"that can be written, got .* \(Permission denied\)"):
        make(tmp_path / "run", resume=resume)


# -- files of a finished rollout --------------------------------------------------------------------------------------


def test_a_rollout_survives_saving_and_loading(tmp_path):
    rollout = make()
    event = small_event(14)
    assert rollout.save(tmp_path / "a") == tmp_path / "a"
    loaded = Rollout.load(tmp_path / "a")
    assert loaded == rollout
    assert loaded.event_hash == event.content_hash() and loaded.topic == event.topic
    assert isinstance(loaded.categories, tuple) and isinstance(loaded.actions[-1].probabilities, tuple)
    loaded.save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == set(FILES)
    record = json.loads((tmp_path / "a" / "rollout.json").read_text())
    assert record["schema_version"] == 1 and record["n_failed"] == rollout.n_failed
    assert record["config"]["resolved"]["warm_up_turns"] == 8


def test_what_people_did_after_the_warm_up_is_in_no_file(tmp_path):
    event = with_turns(
        small_event(14), at={i: {"action": f"TRUTH{i}", "kind": "TRUTH", "person": "TRUTH"} for i in range(8, 14)}
    )
    make(tmp_path, event=with_turns(event, at={}, veracity="TRUTH"))
    import pyarrow.parquet as pq

    tables = [str(pq.read_table(tmp_path / name).to_pylist()) for name in FILES[:2]]
    assert "TRUTH" not in "".join(tables) + (tmp_path / "rollout.json").read_text()
    assert "I do not believe this story." in tables[0]


def test_tables_are_read_by_pandas_and_datasets(tmp_path):
    rollout = make(tmp_path)
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    actions = pandas.read_parquet(tmp_path / "actions.parquet")
    assert list(actions.text) == [row.text for row in rollout.actions]
    assert set(actions.event_id) == {"rumour-1"} and set(actions.seed) == {0}
    steps = datasets.Dataset.from_parquet(str(tmp_path / "steps.parquet"), cache_dir=str(tmp_path / "cache"))
    assert steps["signal"][:] == [row.signal for row in rollout.steps]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_damaged_files_are_refused(tmp_path, name, damage):
    make().save(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"\xff\x00[]"}[damage])
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        Rollout.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "must have schema_version 1"),
        ({"schema_version": None}, "must have schema_version 1"),
        ({"categories": None}, "cannot be read"),
        ({"surprise": 1}, "cannot be read"),
    ],
)
def test_a_record_of_another_shape_is_refused(tmp_path, change, message):
    make().save(tmp_path)
    record = json.loads((tmp_path / "rollout.json").read_text()) | change
    (tmp_path / "rollout.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        Rollout.load(tmp_path)


@pytest.mark.parametrize("record", ["[]", "null", "3"])
def test_a_record_that_is_no_object_is_refused(tmp_path, record):
    make().save(tmp_path)
    (tmp_path / "rollout.json").write_text(record)
    with pytest.raises(InputError, match="cannot be read"):
        Rollout.load(tmp_path)


def test_tables_of_the_wrong_columns_are_refused(tmp_path):
    make().save(tmp_path)
    shutil.copy(tmp_path / "steps.parquet", tmp_path / "actions.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        Rollout.load(tmp_path)


def test_load_rollouts_reads_a_run_or_one_rollout(tmp_path):
    events = [small_event(10, event_id="b"), small_event(10, event_id="a")]
    made = run(model_of("qwen2"), processor_of("qwen2"), events, tmp_path / "run", signal="none")
    assert load_rollouts(tmp_path / "run") == [made[1], made[0]]
    assert load_rollouts(str(tmp_path / "run" / "rollouts" / "b-seed0")) == [made[0]]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"`run_dir` must be a folder with finished rollouts, got .*nothing"):
        load_rollouts(tmp_path / "nothing")


def test_simulated_rows_and_trajectory():
    rollout = make()
    assert [row.turn for row in rollout.simulated()] == list(range(8, 14))
    assert rollout.trajectory() == [row.shares for row in rollout.steps]
    assert rollout.trajectory()[0] == pytest.approx((1.0 / 3.75, 2.75 / 3.75, 0.0))
    assert [row.source for row in rollout.actions] == ["real"] * 8 + ["simulated"] * 6
