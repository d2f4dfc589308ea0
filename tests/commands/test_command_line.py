"""The command line as users meet it: exit codes, one-line errors, run folders, resume."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from broken_files import BROKEN_FILES

from mf_llm import cli
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation import load_rollouts


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls ``mf-llm ARGS`` in this process; returns exit code, stdout and stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mf-llm", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone") / "tiny-qwen2", "qwen2")


def labelled_file(path: Path, *, n_events: int = 2, n_turns: int = 24, split: str = "test") -> Path:
    stances = ["support", "deny", "query"]
    with path.open("a", encoding="utf-8") as file:
        for e in range(n_events):
            turns = [
                {"action": f"word {i} of {e}", "labels": {"stance": stances[(i * (e + 1)) % 3]}}
                for i in range(n_turns)
            ]
            event = {"event_id": f"{split}-{e}", "topic": f"Bridge {e}", "split": split, "turns": turns}
            file.write(json.dumps(event | {"dimensions": {"stance": stances}}) + "\n")
    return path


def quick(tiny_folder: Path, *args: object) -> list[object]:
    short = ["--max-new-tokens", 4, "--signal-max-tokens", 6, "--agents-per-step", 8, "--dtype", "float32"]
    return ["simulate", *args, "--model", tiny_folder, *short]


@pytest.mark.parametrize("broken", BROKEN_FILES, ids=lambda broken: broken.name)
@pytest.mark.parametrize("command", ["compare", "simulate"])
def test_broken_event_files_give_one_line_and_exit_code_2(run, tmp_path, broken, command):
    path = broken.place(tmp_path)
    code, out, err = run(command, path, *(["--dry-run"] if command == "simulate" else ["--output", tmp_path / "out"]))
    assert code == 2
    assert out == ""
    assert err.startswith("mf-llm: ") and err.count("\n") == 1
    assert "Traceback" not in err
    assert " ".join(broken.says.split()) in " ".join(err.split())
    assert str(path.name) in err
    if broken.line is not None:
        assert f"line {broken.line}" in err
    if broken.field is not None:
        assert f"`{broken.field}`" in err
    assert not (tmp_path / "out").exists()


def test_an_anchor_that_cannot_be_learned_is_said(run):
    code, out, _ = run("simulate", "bridge-closure", "--anchored", "--anchor", "probe", "--dry-run")
    assert code == 0 and out.startswith("bridge-closure: the anchor is carry: ")
    code, out, _ = run("simulate", "bridge-closure", "--anchored", "--anchor", "carry", "--dry-run")
    assert code == 0 and "the anchor is" not in out


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom mf_llm.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as stopped:\n    assert not stopped.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'matplotlib'}\nassert not heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("simulate", "evaluate", "compare"):
        assert command in done.stdout


def test_dry_run_plans_without_loading_a_model(tmp_path):
    events = labelled_file(tmp_path / "events.jsonl")
    code = (
        f"from mf_llm.cli import app\napp(['simulate', {str(events)!r}, '--dry-run'], standalone_mode=False)\n"
        "import sys\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # 24 labelled actions: windows of 8 after 8, 16 people to simulate, one warm-up step and one rollout step.
    assert done.stdout.startswith("2 rollouts, 4 steps, 32 people to simulate")
    assert not (tmp_path / "runs").exists()


def test_simulate_then_evaluate(run, tmp_path, tiny_folder):
    events, output = labelled_file(tmp_path / "events.jsonl"), tmp_path / "run"
    labelled_file(events, split="train")
    code, out, err = run(*quick(tiny_folder, events, "--split", "test", "--seeds", 2, "--output", output))
    assert code == 0, err
    assert "4 rollouts, 64 people simulated" in out and "0 failed generations" in out
    rollouts = load_rollouts(output)
    assert sorted((rollout.event_id, rollout.seed) for rollout in rollouts) == [
        ("test-0", 0), ("test-0", 1), ("test-1", 0), ("test-1", 1),
    ]  # fmt: skip
    assert all(rollout.data_set == "events" for rollout in rollouts)

    import pyarrow.parquet as pq

    assert pq.read_table(output / "actions.parquet").num_rows == 4 * 24
    code, out, err = run("evaluate", output)
    assert code == 0, err
    rows = list(csv.DictReader((output / "evaluation.csv").open()))
    assert [row["event"] for row in rows] == ["test-0", "test-1"]
    assert all(float(row["kl"]) > 0 and row["n_windows"] == "2" for row in rows)
    assert sorted(path.name for path in (output / "plots").glob("*.png")) == ["test-0.png", "test-1.png"]


def test_options_are_listed_in_as_many_orders_as_asked_for(run, tmp_path, tiny_folder):
    events = labelled_file(tmp_path / "events.jsonl", n_events=1)
    given = quick(tiny_folder, events, "--signal", "none", "--action", "choice")
    shares = {}
    for orders in (1, 3):
        code, _, err = run(*given, "--option-orders", orders, "--output", tmp_path / str(orders))
        assert code == 0, err
        [rollout] = load_rollouts(tmp_path / str(orders))
        assert rollout.config["option_orders"] == orders
        shares[orders] = {row.probabilities for row in rollout.simulated()}
    # These people have no profile: who is asked in the same order answers the same.
    assert len(shares[1]) == 1 and len(shares[3]) == 3


def test_run_folder_is_not_overwritten_and_can_be_resumed(run, tmp_path, tiny_folder):
    events, output = labelled_file(tmp_path / "events.jsonl", n_events=1), tmp_path / "run"
    assert run(*quick(tiny_folder, events, "--output", output))[0] == 0
    files = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    code, _, err = run(*quick(tiny_folder, events, "--output", output))
    assert code == 2 and "holds a run already" in err and "--resume" in err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == files
    assert run(*quick(tiny_folder, events, "--output", output, "--resume"))[0] == 0
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == files
    code, _, err = run(*quick(tiny_folder, events, "--output", output, "--resume", "--signal", "none"))
    assert code == 2 and "config.signal = 'text'" in err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == files


def test_one_event_id_in_two_data_sets_is_refused_before_anything_runs(run, tmp_path, tiny_folder):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "events").mkdir(exist_ok=True)
        labelled_file(tmp_path / "events" / name, n_events=1)
    code, _, err = run(*quick(tiny_folder, tmp_path / "events", "--output", tmp_path / "run"))
    assert code == 2 and "`event_id` must differ" in err and "'test-0' 2 times" in err
    assert not (tmp_path / "run").exists()


def test_changed_events_are_not_scored(run, tmp_path, tiny_folder):
    events, output = labelled_file(tmp_path / "events.jsonl", n_events=1), tmp_path / "run"
    assert run(*quick(tiny_folder, events, "--output", output))[0] == 0
    events.write_text(events.read_text().replace("word 20", "word twenty"))
    code, _, err = run("evaluate", output)
    assert code == 2 and "test-0" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["simulate", "EVENTS", "--event", "nobody"], "`--event` must be the id of an event"),
        (["simulate", "EVENTS", "--split", "train"], "must hold an event that can be simulated"),
        (["simulate", "EVENTS", "--warm-up", "w5"], "`warm_up` must be a number"),
        (["simulate", "EVENTS", "--dimension", "mood"], "`--dimension` must be one that the events"),
        (["simulate", "EVENTS", "--steps", "wave"], "has no wave"),
        (["simulate", "EVENTS", "--steps", "time"], "`seconds_per_step` must be a positive number"),
        (["simulate", "EVENTS", "--steps", "time", "--seconds-per-step", "60"], "has no time"),
        (["simulate", "EVENTS", "--warm-up", "99"], "must leave somebody to simulate"),
        (["simulate", "EVENTS", "--model", "no/such-model", "--dry-run"], None),
        (["evaluate", "no-run"], "must be a folder with finished rollouts"),
        (["compare", "EVENTS", "--methods", "carry,magic"], "`--methods` must be different names out of"),
        (["compare", "EVENTS", "--methods", ""], "`--methods` must be"),
        (["simulate", "no-such-events"], "no-such-events"),
    ],
)
def test_wrong_arguments(run, tmp_path, args, says):
    events = labelled_file(tmp_path / "events.jsonl", n_events=1)
    code, _, err = run(*[events if arg == "EVENTS" else arg for arg in args])
    if says is None:
        assert code == 0
    else:
        assert code == 2 and says in err and err.count("\n") == 1


def test_unknown_option_is_the_users_error(run):
    code, _, err = run("simulate", "bridge-closure", "--colour", "red")
    assert code == 2 and "--colour" in err


def test_compare_writes_one_row_per_event_and_method(run, tmp_path):
    events = labelled_file(tmp_path / "events.jsonl", n_events=3, n_turns=40)
    labelled_file(events, n_events=4, n_turns=40, split="train")
    code, out, err = run("compare", events, "--output", tmp_path / "out", "--methods", "uniform,carry")
    assert code == 0, err
    rows = list(csv.reader((tmp_path / "out" / "results.csv").open()))
    assert ",".join(rows[0]) == (
        "dataset,event,method,readout,dimension,kl,kl_low,kl_high,best_constant,reference,gain,n_windows,protocol,seed"
    )
    assert len(rows) == 1 + 2 * 3
    assert {row[2] for row in rows[1:]} == {"uniform", "carry"}
    assert "carry" in out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["protocol"] == 1


def test_a_fault_of_ours_is_one_line_and_exit_code_1(run, tmp_path, monkeypatch):
    import mf_llm.commands.compare_methods as commands

    def broken(*args, **kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(commands, "run_compare", broken)
    code, _, err = run("compare", "bridge-closure")
    assert code == 1 and err.startswith("mf-llm: RuntimeError: two lines") and err.count("\n") == 1


def test_interruption_says_how_to_go_on(run, monkeypatch):
    import mf_llm.commands.compare_methods as commands

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run_compare", interrupted)
    code, _, err = run("compare", "bridge-closure")
    assert code == 130 and "--resume" in err
