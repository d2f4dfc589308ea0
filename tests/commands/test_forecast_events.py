"""``mf-llm forecast`` from run folders to files."""

import json

import numpy as np
import pytest
from made_events import CATEGORIES, make_rollout

from mf_llm.commands.forecast_events import ForecastRequest, run_forecast
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import Windows
from mf_llm.events import load_event_sets
from mf_llm.forecasting import Forecast, Recalibration

WINDOWS = Windows(16, 16)
N = {"train": 6, "validation": 8, "test": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Events of crowds that turn after the warm-up, rollouts that know where to but are too sure of it, and lean."""
    folder = tmp_path_factory.mktemp("forecast")
    rng, records, crowds = np.random.default_rng(0), [], {}
    for split, n in N.items():
        for number in range(n):
            event_id, before, after = f"{split} {number}", rng.dirichlet([4, 3, 2]), rng.dirichlet([4, 3, 2])
            crowds[event_id] = after
            labels = [*rng.choice(CATEGORIES, p=before, size=16), *rng.choice(CATEGORIES, p=after, size=48)]
            turns = [{"state": {}, "action": "", "labels": {"stance": str(label)}} for label in labels]
            about = {"event_id": event_id, "topic": "t", "split": split, "dimensions": {"stance": list(CATEGORIES)}}
            records.append(about | {"turns": turns})
    data = folder / "events.jsonl"
    data.write_text("\n".join(map(json.dumps, records)))
    for event in load_event_sets(str(data))["events"]:
        for seed in range(3):
            rollout = simulated(event, crowds[event.event_id], seed)
            rollout.save(folder / event.split / "rollouts" / f"{event.event_id}-seed{seed}")
    return folder


def simulated(event, crowd, seed):
    rng = np.random.default_rng([seed, *event.event_id.encode()])
    shares = rng.dirichlet(300 * crowd + 1) * np.array([1.6, 1.0, 0.6])
    return make_rollout(event, lambda turn, label: tuple(shares / shares.sum()), WINDOWS, seed=seed, data_set="events")


def request(made, output, runs=("test",), **fields):
    about = {"runs": tuple(made / run for run in runs), "data": str(made / "events.jsonl"), "output": output}
    return ForecastRequest(**{"n_bootstrap": 100, "plots": False} | about | fields)


def test_forecasts_are_recalibrated_judged_and_written(made, tmp_path, capsys):
    report = run_forecast(request(made, tmp_path, recalibrate_on=(made / "validation",), plots=True))
    record = report.summary["data_sets"]["events"]
    assert list(record["methods"]) == ["rollouts", "rollouts, recalibrated", "carry", "carry, recalibrated"]
    crps = {name: entry["crps"]["value"] for name, entry in record["methods"].items()}
    assert crps["rollouts, recalibrated"] < min(crps["rollouts"], crps["carry"])
    assert [(entry["a"], entry["b"]) for entry in record["differences"]] == [
        ("rollouts, recalibrated", "carry"),
        ("rollouts, recalibrated", "carry, recalibrated"),
    ]
    assert report.summary["recalibrations"]["events"]["rollouts"]["n_events"] == N["validation"]
    learned = Recalibration.load(tmp_path / "recalibrations" / "events-rollouts.json")
    assert learned.made_from["events"] == [f"validation {number}" for number in range(N["validation"])]
    paths = sorted((tmp_path / "forecasts" / "events").iterdir())
    assert len(paths) == N["test"]
    forecast = Forecast.load(paths[0])
    assert forecast.shares.shape == (3, 3, 3)
    assert forecast.made_with["recalibration"] == learned.kind
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "forecasts.parquet")
    assert table.num_rows == N["test"] * 3 * 3
    assert table.column_names[:4] == ["data_set", "event_id", "unit", "name"]
    assert {"pit.png", "coverage.png", "forecast.json", "forecast_scores.csv", "forecast_windows.csv"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert len(list((tmp_path / "plots" / "events").glob("*.png"))) == N["test"]
    assert "rollouts, recalibrated - carry" in capsys.readouterr().out


def test_without_validation_runs_forecasts_stay_as_they_are(made, tmp_path):
    report = run_forecast(request(made, tmp_path))
    assert list(report.summary["data_sets"]["events"]["methods"]) == ["rollouts", "carry"]
    assert not (tmp_path / "recalibrations").exists()
    assert not (tmp_path / "plots").exists()


def test_the_same_request_writes_the_same_files(made, tmp_path):
    for name in ("one", "two"):
        run_forecast(request(made, tmp_path / name, recalibrate_on=(made / "validation",)))
    for name in ("forecast.json", "forecast_windows.csv", "recalibrations/events-rollouts.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_seeds_may_lie_in_several_run_folders(made, tmp_path):
    events = {event.event_id: event for event in load_event_sets(str(made / "events.jsonl"))["events"]}
    simulated(events["test 0"], np.full(3, 1 / 3), 7).save(tmp_path / "more" / "rollouts" / "x")
    run_forecast(request(made, tmp_path / "out", runs=("test", tmp_path / "more")))
    path = tmp_path / "out" / "forecasts" / "events"
    seeds = [Forecast.load(file).seeds for file in path.iterdir()]
    assert sorted(map(len, seeds)) == [3] * 5 + [4]


def test_events_whose_windows_cannot_be_judged_are_forecast_by_step(made, tmp_path, capsys):
    from mf_llm.simulation.rollout import StepRow

    events = {event.event_id: event for event in load_event_sets(str(made / "events.jsonl"))["events"]}
    rollout = simulated(events["test 0"], np.full(3, 1 / 3), 0)
    rollout.actions = rollout.actions[:20]
    about = {
        "wave": None,
        "n_people": 4,
        "n_failed": 0,
        "signal": "",
        "signal_failure": None,
        "shares": (0.5, 0.3, 0.2),
    }
    rollout.steps = [StepRow(step=t, real=t < 4, **about) for t in range(5)]
    rollout.save(tmp_path / "run" / "rollouts" / "x")
    assert run_forecast(request(made, tmp_path / "out", runs=(tmp_path / "run",), plots=True)) is None
    assert "nothing to judge them by" in capsys.readouterr().out
    (path,) = (tmp_path / "out" / "forecasts" / "events").iterdir()
    assert Forecast.load(path).unit == "step"
    assert not (tmp_path / "out" / "forecast.json").exists()


def test_nothing_is_learned_from_test_or_judged_events(made, tmp_path):
    with pytest.raises(InputError, match="got 'test 0', a test event"):
        run_forecast(request(made, tmp_path, recalibrate_on=(made / "test",)))
    with pytest.raises(InputError, match="got 'validation 0', one of the judged events"):
        run_forecast(request(made, tmp_path, runs=("validation",), recalibrate_on=(made / "validation",)))
    assert not list(tmp_path.iterdir())
