"""``mf-llm simulate`` with events side by side, few writers and calibration."""

import json
import sys

import pytest
from small_events import outcome

from mf_llm import cli
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation import load_rollouts


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone") / "tiny-qwen2", "qwen2")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, tiny_folder):
    """Calls ``mf-llm simulate`` on three small events; returns exit code, stdout and stderr."""
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))
    stances, events = ["support", "deny", "query"], tmp_path / "events.jsonl"
    with events.open("w") as file:
        for e, n in enumerate((24, 20, 29)):
            turns = [
                {"action": f"word {i} of {e}", "labels": {"stance": stances[(i * (e + 1)) % 3]}} for i in range(n)
            ]
            event = {"event_id": f"event-{e}", "topic": f"Bridge {e}", "turns": turns}
            file.write(json.dumps(event | {"dimensions": {"stance": stances}}) + "\n")
    short = ["--max-new-tokens", "4", "--signal-max-tokens", "6", "--agents-per-step", "5", "--dtype", "float32"]

    def run(*args):
        monkeypatch.setattr(
            sys, "argv", ["mf-llm", "simulate", str(events), "--model", str(tiny_folder), *short, *args]
        )
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


def test_side_by_side_leaves_what_one_after_the_other_leaves(call, tmp_path):
    assert call("--output", str(tmp_path / "a"))[0] == 0
    assert call("--output", str(tmp_path / "b"), "--events-together", "2")[0] == 0
    assert call("--output", str(tmp_path / "c"), "--events-together", "9", "--seeds", "2")[0] == 0
    a, b = load_rollouts(tmp_path / "a"), load_rollouts(tmp_path / "b")
    assert len(a) == 3 and a == b
    assert [one for one in load_rollouts(tmp_path / "c") if one.seed == 0] == a
    for name in ("actions.parquet", "steps.parquet", "run.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # How many share a batch is no setting of a run: it may change when the run is resumed.
    assert call("--output", str(tmp_path / "a"), "--events-together", "3", "--resume")[0] == 0
    speeds = json.loads((tmp_path / "cache" / "speed.json").read_text())
    assert sorted(key.split("tiny-qwen2 ")[1] for key in speeds) == ["float32", "x2 float32", "x9 float32"]


def test_the_estimate_uses_the_speed_that_was_measured_side_by_side(call, tmp_path):
    def guess(*args):
        code, out, _ = call("--dry-run", *args)
        assert code == 0
        return out

    assert "a first guess" in guess("--events-together", "2")
    call("--output", str(tmp_path / "a"))
    assert "as measured here before" in guess() and "as measured here before" in guess("--events-together", "2")
    path = tmp_path / "cache" / "speed.json"
    one = next(iter(json.loads(path.read_text())))
    path.write_text(json.dumps({one: 1e-3, one.replace(" float32", " x2 float32"): 1e9}))
    assert " h (as measured" in guess() and "about 1 s (as measured" in guess("--events-together", "2")
    assert " h (as measured" in guess("--events-together", "3")


def test_writers_and_calibration_reach_the_simulation(call, tmp_path):
    assert call("--output", str(tmp_path / "plain"))[0] == 0
    code, out, _ = call("--output", str(tmp_path / "run"), "--writers", "0", "--calibrated", "--signal", "statistics")
    assert code == 0 and "0 failed generations" in out
    plain, found = load_rollouts(tmp_path / "plain"), load_rollouts(tmp_path / "run")
    assert any(row.text for one in plain for row in one.simulated())
    assert not any(row.text for one in found for row in one.simulated())
    assert all((one.config["writers"], one.config["calibrated"]) == (0, True) for one in found)
    assert all((one.config["writers"], one.config["calibrated"]) == (None, False) for one in plain)
    assert [outcome(one) for one in found] != [outcome(one) for one in plain]
    code, _, err = call("--output", str(tmp_path / "run"), "--writers", "1", "--signal", "statistics", "--resume")
    assert code == 2 and "config.calibrated" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--calibrated", "--anchored"], "`calibrated` must be False with anchored=True"),
        (["--calibrated", "--action", "text"], '`calibrated` must be False with action="text"'),
        (["--writers", "-1"], "--writers"),
        (["--events-together", "0"], "--events-together"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(call, options, says):
    code, out, err = call("--dry-run", *options)
    assert code == 2 and out == "" and says in err and "Traceback" not in err


def test_help_names_the_options(call):
    code, out, _ = call("--help")
    assert code == 0
    for option in ("--events-together", "--writers", "--calibrated"):
        assert option in out
