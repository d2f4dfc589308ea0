"""Puts what a finished command found into ``results/``: scores, plans and figures, and how they were made.

    python scripts/collect_results.py interventions runs/bridge/interventions/plan
    python scripts/collect_results.py natural_experiments runs/natural
    python scripts/collect_results.py forecast runs/forecast --name NAME --runs runs/test --calibrated-on runs/val

Signals and actions stay in the run folders, since they quote people. ``made_by.json`` says with which command, seeds,
versions, data and protocol the numbers were made.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import PROTOCOL_VERSION
from mf_llm.forecasting.forecast_plots import plot_calibration
from mf_llm.simulation.rollout import load_rollouts

RESULTS = Path(__file__).resolve().parent.parent / "results"
# Of `mf-llm intervene`: no branches, and no page, which shows what people wrote.
INTERVENTIONS = (
    "effects.csv",
    "effects_by_seed.csv",
    "ranking.csv",
    "intervene.json",
    "plots/effects-ranking.png",
    "plots/effects-trajectories.png",
)
NATURAL = ("natural_experiments.csv", "natural_experiments.json", "natural_experiments.png")
# Of `mf-llm forecast`: no ``forecast_windows.csv``, which is large.
FORECAST = ("forecast.json", "forecast_scores.csv")


def interventions(source: Path, folder: Path) -> None:
    """What ``mf-llm intervene`` found."""
    plan = _json(source / "intervene.json")
    branches = sorted((source / "branches").iterdir())
    versions = [branch.versions for one in branches for branch in load_rollouts(one)]
    if not (source / "ranking.csv").is_file() or any(found != versions[0] for found in versions):
        raise InputError(f"{source} must hold the finished results of one `mf-llm intervene`; go on with --resume.")
    _copy(source, folder, INTERVENTIONS)
    command = ["mf-llm", "intervene", "RUN", "--plan", "PLAN", *([] if plan["halving"] else ["--all-seeds"])]
    simulate = ["mf-llm", "simulate", plan["plan"]["event"] or "EVENTS", "--model", _without_places(plan["model"])]
    simulate += ["--dtype", plan["dtype"], "--seeds", str(len(plan["seeds"])), "--output", "RUN"]
    record = {
        "commands": [shlex.join(simulate), shlex.join(command)],
        "seeds": plan["seeds"],
        "data_hash": plan["event_hash"],
    }
    _save(folder, record | {"versions": versions[0]})


def natural_experiments(source: Path, folder: Path) -> None:
    """What ``examples/natural_experiments.py`` found."""
    made = _json(source / "natural_experiments.json")
    _copy(source, folder, NATURAL)
    keys = ("seeds", "data_hash", "versions", "models")
    _save(folder, {"commands": [made["command"]]} | {key: made[key] for key in keys})


def forecast(source: Path, folder: Path, *, title: str, runs: Sequence[Path], calibrated_on: Sequence[Path]) -> None:
    """What ``mf-llm forecast`` found, with its figures.

    Args:
        source: its output.
        folder: where it goes.
        title: what was simulated, in a few words.
        runs, calibrated_on: the run folders it was given.
    """
    summary = _json(source / "forecast.json")
    command = ["mf-llm", "forecast", *(run.name for run in runs), "--data", "DATA"]
    command += [part for run in calibrated_on for part in ("--recalibrate-on", run.name)]
    made = {run.name: _run_record(run) for run in (*runs, *calibrated_on)}
    _copy(source, folder, FORECAST)
    with TemporaryDirectory() as drawn:
        plot_calibration(summary, drawn, title=f"Counts of real people in forecasts: {title}")
        _copy(Path(drawn), folder, sorted(path.name for path in Path(drawn).glob("*.png")))
    record = {"title": title, "commands": [shlex.join(command)], "simulated": made}
    _save(folder, record | {"seeds": next(iter(made.values()))["seeds"], "bootstrap_seed": summary["seed"]})


def _run_record(run: Path) -> dict[str, Any]:
    """How rollouts were simulated; the hashes of their events are in the data hash."""
    record = _json(run / "run.json")
    return {
        "model": record["model"],
        "dtype": record["dtype"],
        "seeds": record["seeds"],
        "configs": {name: one["config"] for name, one in record["data_sets"].items()},
        "n_events": {name: len(one["events"]) for name, one in record["data_sets"].items()},
        "versions": load_rollouts(run)[0].versions,
    }


def _save(folder: Path, record: dict[str, Any]) -> None:
    write_json(folder / "made_by.json", _without_places(record | {"protocol": PROTOCOL_VERSION}))


def _copy(source: Path, folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (source / name).is_file()]
    if missing:
        raise InputError(f"{source} must hold {', '.join(missing)}; the command is not finished, or drew no plots.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith(".json"):
            write_json(folder / name, _without_places(_json(source / name)))
        else:
            shutil.copy(source / name, folder / Path(name).name)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.parent} must hold {path.name}; the command is not finished, or this is another's.")
    return json.loads(path.read_text(encoding="utf-8"))


def _without_places(value: Any) -> Any:
    """A record with folders by their names alone: where they lay is nobody's business."""
    if isinstance(value, dict):
        return {key: _without_places(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_places(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("interventions", "natural_experiments", "forecast"))
    parser.add_argument("source", type=Path, help="output folder of the command")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", help="forecast: folder below results/forecast")
    parser.add_argument("--title", help="forecast: what was simulated, in a few words; the name by default")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="forecast: the runs that were forecast")
    parser.add_argument(
        "--calibrated-on", type=Path, nargs="+", default=[], help="forecast: those of --recalibrate-on"
    )
    args = parser.parse_args(arguments)
    try:
        if args.kind == "forecast":
            if not args.name or not args.runs:
                raise InputError("forecast needs --name and --runs.")
            about = {"runs": args.runs, "calibrated_on": args.calibrated_on, "title": args.title or args.name}
            forecast(args.source, args.results / "forecast" / args.name, **about)
        else:
            collect = {"interventions": interventions, "natural_experiments": natural_experiments}[args.kind]
            collect(args.source, args.results / args.kind)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
