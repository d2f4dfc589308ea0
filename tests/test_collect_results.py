"""What finished commands found comes into results/ with how it was made, and into tables; no word of anybody does."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from loaded_script import loaded_script

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("matplotlib")
pytest.importorskip("scoringrules")

import collect_results  # noqa: E402
import readme_tables  # noqa: E402
import update_readme  # noqa: E402

from mf_llm import cli  # noqa: E402
from mf_llm.evaluation.protocol import PROTOCOL_VERSION  # noqa: E402
from mf_llm.models.tiny import save_tiny_backbone  # noqa: E402

STANCES = ("support", "deny", "query")
WORD = "marmalade"  # in every text of a person, and in none of a plan
PLAN = {
    "event": "test-0",
    "target": {"category": "deny", "steps": [3, 4], "goal": "lower"},
    "candidates": [
        {"name": "news", "interventions": [{"step": 3, "topic": "The mayor says that it is true."}]},
        {"name": "weather", "placebo": True, "interventions": [{"step": 3, "topic": "It is cloudy."}]},
    ],
}


def call(*args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mf-llm", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code


def example(name):
    return loaded_script(ROOT / f"examples/{name}.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model, and events of all splits."""
    folder, rng = tmp_path_factory.mktemp("collect"), np.random.default_rng(0)
    save_tiny_backbone(folder / "tiny-qwen2", "qwen2")
    with (folder / "events.jsonl").open("w") as file:
        for split, n in {"train": 4, "validation": 6, "test": 6}.items():
            for number in range(n):
                labels = rng.choice(STANCES, p=rng.dirichlet([4, 3, 2]), size=40)
                turns = [{"state": {}, "action": WORD, "labels": {"stance": str(label)}} for label in labels]
                event = {"event_id": f"{split}-{number}", "topic": f"{WORD} {number}.", "split": split, "turns": turns}
                file.write(json.dumps(event | {"dimensions": {"stance": STANCES}}) + "\n")
    return folder


def simulate(made, output, *args):
    short = ["--max-new-tokens", 3, "--signal-max-tokens", 5, "--agents-per-step", 8, "--dtype", "float32"]
    call("simulate", made / "events.jsonl", "--model", made / "tiny-qwen2", "--output", output, *short, *args)


def check(folder, made, files):
    """All that is there, how it was made, and no text or place of it."""
    assert {path.name for path in folder.iterdir()} == {*files, "made_by.json"}
    record = json.loads((folder / "made_by.json").read_text())
    assert record["protocol"] == PROTOCOL_VERSION
    for path in folder.iterdir():
        if path.suffix != ".png":
            text = path.read_text()
            assert WORD not in text and str(made) not in text, path
    return record


def collected(*args):
    assert collect_results.main(list(map(str, args))) == 0


def test_interventions(made, tmp_path, capsys):
    simulate(
        made, tmp_path / "run", "--split", "test", "--limit", 1, "--seeds", 2, "--warm-up", 16, "--action", "choice"
    )
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    call("intervene", tmp_path / "run", "--plan", tmp_path / "plan.yaml", "--output", tmp_path / "out")
    collected("interventions", tmp_path / "out", "--results", tmp_path / "results")
    record = check(
        tmp_path / "results/interventions", made, [Path(name).name for name in collect_results.INTERVENTIONS]
    )
    assert record["commands"] == [
        "mf-llm simulate test-0 --model tiny-qwen2 --dtype float32 --seeds 2 --output RUN",
        "mf-llm intervene RUN --plan PLAN",
    ]
    assert record["seeds"] == [0, 1] and len(record["data_hash"]) == 64 and record["versions"]["weights"]
    lines = readme_tables.interventions_table(tmp_path / "results").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["news", "weather (placebo)"]
    assert "[" in lines[2]
    # Half a run is not collected.
    (tmp_path / "out/ranking.csv").unlink()
    assert collect_results.main(["interventions", str(tmp_path / "out"), "--results", str(tmp_path / "no")]) == 2
    assert "must hold the finished results" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_forecasts(made, tmp_path):
    runs = {}
    for split in ("validation", "test"):
        runs[split] = tmp_path / split
        simulate(made, runs[split], "--split", split, "--anchored", "--action", "choice", "--signal", "statistics")
    where = ["--data", made / "events.jsonl", "--recalibrate-on", runs["validation"]]
    call("forecast", runs["test"], *where, "--output", tmp_path / "out", "--no-plots")
    about = ["--runs", runs["test"], "--calibrated-on", runs["validation"], "--results", tmp_path / "results"]
    collected("forecast", tmp_path / "out", "--name", "zero", "--title", "anchored-zero (no model)", *about)
    files = (*collect_results.FORECAST, "pit.png", "coverage.png")
    record = check(tmp_path / "results/forecast/zero", made, files)
    assert record["commands"] == ["mf-llm forecast test --data DATA --recalibrate-on validation"]
    assert record["simulated"]["test"]["configs"]["events"]["anchored"] is True
    assert record["simulated"]["validation"]["n_events"] == {"events": 6} and record["seeds"] == [0]
    summary = json.loads((tmp_path / "results/forecast/zero/forecast.json").read_text())
    assert len(summary["data_hash"]) == 64
    lines = readme_tables.forecast_table(tmp_path / "results").splitlines()
    cells = [cell.strip() for cell in lines[2].split("|")]
    methods = summary["data_sets"]["events"]["methods"]
    assert cells[1:4] == [
        "anchored-zero (no model): events", "6", f"{methods['rollouts, recalibrated']['crps']['value']:.4f}",
    ]  # fmt: skip
    assert "[" in cells[6] and 0 <= float(cells[10]) <= 1


def test_natural_experiments(made, tmp_path):
    (tmp_path / "shifts.yaml").write_text(
        "version: 1\nwarm_up: 16\nn_people: 16\nshifts:\n  turn: {data_set: events, before: [train-0], after: "
        "[train-1], category: deny, news: It is so., known: 2020-01-01T00:00:00Z, after_time: 2020-01-02T00:00:00Z}\n"
    )
    given = [
        made,
        "--shifts",
        tmp_path / "shifts.yaml",
        "--output",
        tmp_path / "out",
        "--seeds",
        1,
        "--dtype",
        "float32",
    ]
    given += ["--models", f"{made / 'tiny-qwen2'}:plain"]
    assert example("natural_experiments").main(list(map(str, given))) == 0
    collected("natural_experiments", tmp_path / "out", "--results", tmp_path / "results")
    record = check(tmp_path / "results/natural_experiments", made, collect_results.NATURAL)
    assert record["commands"] == [
        "python examples/natural_experiments.py DATA --models tiny-qwen2:plain --seeds 1 --people-per-wave 200 "
        "--dtype float32 --shifts shifts.yaml"
    ]
    assert record["models"]["tiny-qwen2:plain"]["weights"]
    lines = readme_tables.natural_experiments_table(tmp_path / "results").splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["without", "with", "-"]


def test_ensembles(made, tmp_path):
    given = ["--events", made / "events.jsonl", "--model", made / "tiny-qwen2", "--output", tmp_path / "ensemble"]
    given += ["--seeds", 5, "--dtype", "float32", "--signal", "statistics", "--action", "choice"]
    assert example("benchmark_ensemble").main(list(map(str, given))) == 0
    record = json.loads((tmp_path / "ensemble/ensemble.json").read_text())
    assert record["shares_differ_by"] < 1e-6 and record["read_together"] and record["seeds"] == [0, 1, 2, 3, 4]
    assert 1 <= record["tokens_ratio"] <= 5 and record["ratio"] > 0
    assert record["command"] == (
        "python examples/benchmark_ensemble.py --events events.jsonl --model tiny-qwen2 --seeds 5 --dtype float32 "
        "--signal statistics --action choice"
    )
    assert example("benchmark_ensemble").main([*map(str, given), "--read-alone", "--warm-up-seed", "0"]) == 0
    alone = json.loads((tmp_path / "ensemble/ensemble.json").read_text())
    assert alone["shares_differ_by"] == 0 and not alone["read_together"] and "--read-alone" in alone["command"]
    lines = readme_tables.ensemble_table(tmp_path).splitlines()
    assert "| statistics, choice, one warm-up |" in lines[2]
    assert f"| {alone['ratio']:.1f} | {alone['tokens_ratio']:.1f} |" in lines[2]


def test_a_table_has_no_place_before_its_results_are_there():
    place = "<!-- begin ensemble -->\n<!-- end ensemble -->"
    with pytest.raises(ValueError, match="must not have a place"):
        update_readme.updated(place, [])
