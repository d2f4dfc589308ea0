"""How a simulation grows with people, states and steps: ten million people, a thousand steps, and the first output.

    python scripts/benchmark_scale.py [--output results/scale] [--parts step million ...] [--dtype float32]

Each part runs in a process of its own and is written when it is done; parts that are there with the same settings are
not measured again. Afterwards scale.csv holds what was asked for and what was found, growth.png the plot.

    start       seconds from the command to the first output of a cached model                    (under a minute)
    table       a Parquet table of 10,000,000 people is read and merged                             (a minute)
    step        a step over 10,000,000 people against one over 10,000, both in 2,000 states         (minutes)
    million     ten steps of a million people in 200 states, with signals of 96 tokens              (minutes)
    growth      tokens and seconds of 1 to 1,000 steps, and of 10 to 2,000 states                   (minutes)
    replay      peak memory of 1,000 to 40,000 actions of one replayed event                        (minutes)
    coarsening  the last wave of the packaged survey, all 1,000 people against at most 200 states   (minutes)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.evaluation.plotting import COLOURS, STYLE
from mf_llm.evaluation.provenance import versions
from mf_llm.models.backbones import preferred_dtype
from mf_llm.models.default_backbone import DEFAULT_BACKBONE

ROOT = Path(__file__).resolve().parent.parent
CHILD = Path(__file__).resolve().with_name("scale_child.py")
PARTS = ("start", "table", "step", "million", "growth", "replay", "coarsening")
PACKAGES = ("torch", "transformers", "numpy", "pyarrow")
SIZES: dict[str, dict[str, Any]] = {
    "start": {"start_repeats": 3},
    "table": {"table_rows": 10_000_000},
    "step": {"few_people": 10_000, "many_people": 10_000_000, "step_states": 2000, "step_repeats": 1},
    "million": {"million_people": 1_000_000, "million_states": 200, "million_steps": 10, "option_orders": 1},
    "growth": {
        "growth_steps": 1000,
        "growth_states": [10, 50, 200, 500, 1000, 2000],
        "growth_repeats": 3,
        "growth_model_states": [10, 50, 200, 500],
    },
    "replay": {"replay_actions": [1000, 10_000, 40_000]},
    "coarsening": {"survey_every": 1},
}
SMALL: dict[str, dict[str, Any]] = {
    "start": {"start_repeats": 1},
    "table": {"table_rows": 20_000},
    "step": {"few_people": 100, "many_people": 10_000, "step_states": 20, "step_repeats": 1},
    "million": {"million_people": 1000, "million_states": 5, "million_steps": 2, "option_orders": 1},
    "growth": {
        "growth_steps": 20,
        "growth_states": [10, 30],
        "growth_repeats": 1,
        "growth_model_states": [10, 30],
    },
    "replay": {"replay_actions": [200, 1000]},
    "coarsening": {"survey_every": 40},
}
COLUMNS = ("part", "measure", "value", "at_most")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "results/scale")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default=DEFAULT_BACKBONE)
    parser.add_argument("--dtype", default="auto", help="type of the weights: auto, float32, bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0: as torch sets them")
    parser.add_argument("--small", action="store_true", help="a trial of everything in miniature")
    args = parser.parse_args(arguments)
    for part in args.parts:
        measure(part, args)
    rows = [row for part in PARTS for row in asked(part, args.output)]
    write_csv(args.output / "scale.csv", COLUMNS, rows)
    growth = args.output / "growth.json"
    if growth.exists():
        plot(json.loads(growth.read_text(encoding="utf-8"))["rows"], args.output)
    for row in rows:
        most = "" if row["at_most"] is None else f" (at most {row['at_most']:g})"
        print(f"{row['part']}: {row['measure']} {row['value']:.4g}{most}")


def measure(part: str, args: argparse.Namespace) -> None:
    """Measures one part, unless it is there."""
    path = args.output / f"{part}.json"
    dtype = str(preferred_dtype()).removeprefix("torch.") if args.dtype == "auto" else args.dtype
    name = Path(args.model).name if Path(args.model).is_dir() else args.model
    settings = {**(SMALL if args.small else SIZES)[part], "dtype": dtype, "threads": args.threads}
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == settings | {"model": name}:
        print(f"{part}: there already", file=sys.stderr)
        return
    print(f"{part} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder) / "settings.json", Path(folder) / "report.json"
        write_json(wanted, settings | {"model": args.model})
        command = [sys.executable, str(CHILD), part, str(wanted), str(report)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        found = json.loads(report.read_text(encoding="utf-8"))
    about = {
        "command": f"python scripts/benchmark_scale.py --parts {part} --dtype {dtype}",
        "settings": settings | {"model": name},
        "versions": versions(PACKAGES),
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(path, about | found)


def asked(part: str, output: Path) -> list[dict[str, Any]]:
    """What is asked of a part beside what was found."""
    if not (output / f"{part}.json").exists():
        return []
    found = json.loads((output / f"{part}.json").read_text(encoding="utf-8"))
    values: dict[str, tuple[Any, float | None]]
    if part == "start":
        values = {"seconds to the first output": (found["slowest"], 10.0)}
    elif part == "table":
        values = {"seconds": (found["seconds"], 60.0), "peak GiB": (found["peak_gib"], None)}
    elif part == "step":
        values = {"many people over few": (found["ratio"], 1.2)}
    elif part == "million":
        values = {"seconds": (found["seconds"], 300.0), "peak GiB": (found["peak_gib"], 3.0)}
    elif part == "replay":
        peaks = zip(found["actions"], found["peak_gib"], strict=True)
        values = {f"peak GiB of {n:,} actions": (peak, None) for n, peak in peaks}
        values["KiB of an action more"] = (found["kib_per_action"], None)
    elif part == "coarsening":
        values = {"states": (found["coarse_states"], 200), "KL": (found["kl"], 0.01)}
    else:
        late, lines = found["late_over_early"], found["states"]
        values = {f"{name} of late steps over early ones": (late[name], None) for name in late}
        values |= {
            f"R^2 of {name} against states, {model}": (line["r2"], None)
            for model, both in lines.items()
            for name, line in both.items()
        }
    return [
        {"part": part, "measure": name, "value": value, "at_most": most}
        for name, (value, most) in values.items()
        if value is not None
    ]


def plot(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes growth.csv and growth.png: tokens and seconds of a step against its number and against states."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    write_csv(output / "growth.csv", list(rows[0]), rows)
    names = {"tiny": "tiny random model", "model": "default backbone"}
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        panels = figure.subplots(2, 2, sharex="col")
        for line, value in enumerate(("tokens", "seconds")):
            for column, (over, x) in enumerate((("steps", "step"), ("states", "states"))):
                axes = panels[line][column]
                for colour, model in zip(COLOURS, names, strict=False):
                    chosen = [row for row in rows if row["over"] == over and row["model"] == model]
                    if chosen:
                        points = ([row[x] for row in chosen], [row[value] for row in chosen])
                        axes.plot(*points, "o", color=colour, ms=2 if over == "steps" else 4, label=names[model])
                axes.set_xscale("log")
                if over == "states":
                    axes.set_yscale("log")
                else:
                    axes.set_ylim(bottom=0)
                axes.set_ylabel(f"{value} of a step")
            panels[1][0].set_xlabel("number of the step (10 states)")
            panels[1][1].set_xlabel("distinct states")
        panels[0][1].legend(frameon=False)
        figure.savefig(output / "growth.png", dpi=200)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
