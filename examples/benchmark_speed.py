"""How fast people act: the usual way of asking a model, continuous batching, and mf_llm, side by side in one run.

    python examples/benchmark_speed.py --output runs/speed [--quick] [--device_threads 2] [--dtype float32]
    python examples/benchmark_speed.py --output results/speed --dtype float32 --measured 256 \
        --repeats 2 --repeated_prefixes 600

Same backbone, type of weights and prompts, exactly 24 new tokens, a person's part of 40 tokens. Each method runs
in processes of its own, by turns (A B C A B C ...), so that whatever else the machine does hits all of them. Writes
speed.csv, speed.json and speed.png. Seconds belong to the machine; the ratios of one run are what can be compared.
Where a method would take hours it asks fewer people (the column `measured`): its batches are all alike. The second
command takes about 25 minutes on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from transformers import HfArgumentParser

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.evaluation.plotting import COLOURS, STYLE
from mf_llm.evaluation.provenance import versions
from mf_llm.evaluation.tables import render
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.readout import normalise
from mf_llm.speed.speed_case import (
    METHODS,
    NEW_TOKENS,
    PERSON_TOKENS,
    REFERENCE_BATCH,
    SpeedCase,
    SpeedResult,
    people_per_second,
)

PACKAGES = ("torch", "transformers")
OURS = "mf_llm"
# People that a method really asks at most; of the reference these are one batch of prompts for each readout.
MEASURED = {
    ("sampled", "reference"): 16,
    ("sampled", "continuous batching"): 32,
    ("exact", "reference"): 4,
    ("exact", "one pass per person"): 16,
}
# What is asked for: how many times as fast as which method at least, at this prefix and number of people.
BAR_PREFIX, BAR_PEOPLE = 600, 256
BARS = {("sampled", "reference"): 4.0, ("exact", "reference"): 20.0, ("exact", "one pass per person"): 6.0}


@dataclass
class SpeedArguments:
    """What is measured."""

    output: str = field(metadata={"help": "Folder for speed.csv, speed.json and speed.png."})
    quick: bool = field(default=False, metadata={"help": "A prefix of 600 tokens and 256 people alone, once."})
    model: str = field(default=DEFAULT_BACKBONE, metadata={"help": "Folder, checkpoint or Hub id."})
    dtype: str = field(default="auto", metadata={"help": "Type of the weights: auto, float32, bfloat16 or float16."})
    readouts: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": "Of: sampled, exact."})
    prefixes: list[int] = field(default_factory=lambda: [100, 600, 2000], metadata={"help": "Tokens of shared parts."})
    people: list[int] = field(default_factory=lambda: [16, 256, 2048, 10000], metadata={"help": "People of a step."})
    measured: int = field(default=0, metadata={"help": "People that mf_llm really asks at most; 0: all of them."})
    repeats: int = field(default=3, metadata={"help": "Turns; of each case the median counts."})
    repeated_prefixes: list[int] | None = field(
        default=None, metadata={"help": "Prefixes of all turns; the others come in the first alone. Default: all."}
    )
    batch_tokens: int = field(default=0, metadata={"help": "batch_tokens of mf_llm; 0: its default."})
    device_threads: int = field(default=0, metadata={"help": "Threads of the processor; 0: as torch sets them."})


def main() -> None:
    (args,) = HfArgumentParser(SpeedArguments, description=__doc__).parse_args_into_dataclasses()
    if args.quick:
        args.prefixes, args.people, args.repeats = [BAR_PREFIX], [BAR_PEOPLE], 1
    output = Path(args.output)
    records, machine = measure(args)
    command = "python examples/benchmark_speed.py " + " ".join(sys.argv[1:])
    output.mkdir(parents=True, exist_ok=True)
    likelihoods = {place(record): record.pop("likelihoods") for record in records}
    write_csv(output / "speed.csv", list(records[0]), records)
    about = {"new_tokens": NEW_TOKENS, "person_tokens": PERSON_TOKENS, "repeats": args.repeats, "model": args.model}
    write_json(
        output / "speed.json",
        {
            "command": command,
            "versions": versions(PACKAGES),
            **machine,
            **about,
            "bars": bars(records, likelihoods),
            "records": records,
        },
    )
    plot(records, output / "speed.png")
    print(table(records, machine))
    print(f"Results: {output / 'speed.csv'}, {output / 'speed.json'} and {output / 'speed.png'}")


def cases(args: SpeedArguments, readout: str, method: str, turn: int = 0) -> list[SpeedCase]:
    """What one method does, small to large; where it asks no more people than for fewer, it is measured once."""
    most = MEASURED.get((readout, method), args.measured or max(args.people))
    most = min(most, REFERENCE_BATCH) if args.quick and method != OURS else most
    common = {"readout": readout, "method": method}
    again = args.prefixes if turn == 0 or args.repeated_prefixes is None else args.repeated_prefixes
    return [
        SpeedCase(**common, prefix=prefix, people=people, measured=min(people, most))
        for prefix, people in product(sorted(set(args.prefixes) & set(again)), sorted(args.people))
    ]


def place(record: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """Which case a record is about."""
    return record["readout"], record["method"], record["prefix"], record["people"]


def bars(records: Sequence[Mapping[str, Any]], likelihoods: Mapping[tuple[str, str, int, int], Any]) -> list[dict]:
    """What is asked for beside what was found, for the cases that were measured.

    Returns:
        One dict for each method of `BARS`: how many times as fast as it mf_llm is (`times`, and `at_least`), its peak
        memory over that of the method (`memory`; above 1 is more), and the largest difference of a probability
        (`difference`; None for written answers).
    """
    found = {place(record): record for record in records}
    rows = []
    for (readout, method), least in BARS.items():
        one, other = ((readout, name, BAR_PREFIX, BAR_PEOPLE) for name in (OURS, method))
        if one not in found or other not in found:
            continue
        ours, theirs = found[one], found[other]
        row = {"readout": readout, "method": method, "at_least": least, "memory": None, "difference": None}
        row["times"] = ours["people_per_second"] / theirs["people_per_second"]
        if theirs["peak_bytes"]:
            row["memory"] = ours["peak_bytes"] / theirs["peak_bytes"]
        if likelihoods[one] is not None:
            p, q = (normalise(np.array(likelihoods[name])) for name in (one, other))
            row["difference"] = float(np.abs(p[: len(q)] - q[: len(p)]).max())
        rows.append(row)
    return rows


def measure(args: SpeedArguments) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A record of each case, the median of its repeats, and of the machine."""
    asked = [(readout, method) for readout in args.readouts for method in METHODS[readout]]
    found: dict[tuple[str, str, int, int], list[SpeedResult]] = {}
    machines = []
    for turn in range(args.repeats):
        for readout, method in asked:
            print(f"[{turn + 1}/{args.repeats}] {readout}, {method}", file=sys.stderr, flush=True)
            now = cases(args, readout, method, turn)
            distinct = list({(case.prefix, case.measured): case for case in now}.values())
            if not distinct:
                continue
            report = _in_a_process(args, distinct)
            machines.append(report["ceilings"])
            for case, result in zip(distinct, report["results"], strict=True):
                found.setdefault((readout, method, case.prefix, case.measured), []).append(SpeedResult(**result))
    records = []
    for readout, method in asked:
        for case in cases(args, readout, method):
            results = sorted(found[readout, method, case.prefix, case.measured], key=lambda result: result.seconds)
            middle = results[len(results) // 2]
            spread = {"fastest": results[0].seconds, "slowest": results[-1].seconds}
            rate = {"people_per_second": people_per_second(case, middle)}
            records.append(asdict(case) | rate | asdict(middle) | spread)
    machine = {name: report[name] for name in ("device", "dtype", "threads", "batch_tokens")}
    best = {name: max(one[name] for one in machines) for name in machines[0]}
    return records, machine | {"ceilings": best}


def _in_a_process(args: SpeedArguments, wanted: Sequence[SpeedCase]) -> dict[str, Any]:
    settings = {"model": args.model, "dtype": args.dtype, "threads": args.device_threads}
    settings["batch_tokens"] = args.batch_tokens
    with tempfile.TemporaryDirectory() as folder:
        asked, report = Path(folder) / "settings.json", Path(folder) / "report.json"
        write_json(asked, settings | {"cases": [asdict(case) for case in wanted]})
        subprocess.run([sys.executable, "-m", "mf_llm.speed.speed_run", asked, report], check=True, stdout=sys.stderr)
        return json.loads(report.read_text(encoding="utf-8"))


def table(records: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """All cases, and how many times as fast as the others mf_llm is."""
    columns = ["readout, method", "prefix", "people", "measured", "people/s", "mf_llm is", "prefill tok/s"]
    columns += ["decode tok/s", "compute", "bandwidth", "peak MiB"]
    ours = {(r["readout"], r["prefix"], r["people"]): r["people_per_second"] for r in records if r["method"] == OURS}
    rows = [
        [
            f"{r['readout']}, {r['method']}",
            *(str(r[name]) for name in ("prefix", "people", "measured")),
            f"{r['people_per_second']:.2f}",
            f"x {ours[r['readout'], r['prefix'], r['people']] / r['people_per_second']:.1f}",
            _rate(r["prefill_tokens"], r["prefill_seconds"] or r["seconds"]),
            _rate(r["decode_tokens"], r["decode_seconds"]),
            f"{r['compute_share']:.0%}",
            f"{r['bandwidth_share']:.0%}",
            "-" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 2**20:.0f}",
        ]
        for r in records
    ]
    flops, bandwidth = (machine["ceilings"][name] / 1e9 for name in ("flops", "bandwidth"))
    title = f"{machine['device']}, {machine['threads']} threads, {machine['dtype']}"
    caption = (
        f"compute, bandwidth: share of what the machine reaches in a large matrix product ({flops:.0f} GFLOP/s) and "
        f"in a large copy ({bandwidth:.1f} GB/s)."
    )
    return render(title, columns, rows, 160, caption)


def _rate(tokens: int | None, seconds: float | None) -> str:
    return f"{tokens / seconds:.0f}" if tokens and seconds else "-"


def plot(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """People per second against people of a step, and against tokens of the shared part."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    readouts = list(dict.fromkeys(r["readout"] for r in records))
    names = list(dict.fromkeys(name for methods in METHODS.values() for name in methods))
    colours = dict(zip(names, COLOURS, strict=False))
    prefixes = sorted({r["prefix"] for r in records})
    with rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(prefixes) + 0.6, 2.4 * len(readouts) + 0.5), layout="constrained")
        panels = figure.subplots(len(readouts), len(prefixes), squeeze=False, sharex=True, sharey="row")
        for (row, readout), (column, prefix) in product(enumerate(readouts), enumerate(prefixes)):
            axes = panels[row][column]
            for method in METHODS[readout]:
                shown = [r for r in records if (r["readout"], r["prefix"], r["method"]) == (readout, prefix, method)]
                x, y = [r["people"] for r in shown], [r["people_per_second"] for r in shown]
                axes.plot(x, y, "o-", color=colours[method], ms=3.5, lw=1.1, label=method)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(f"{readout}, shared part of {prefix} tokens", fontsize=8)
            if column == 0:
                axes.set_ylabel("people per second")
            if row == len(readouts) - 1:
                axes.set_xlabel("people of a step")
        handles = {
            label: handle for a in figure.axes for handle, label in zip(*a.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, dpi=200)


if __name__ == "__main__":
    main()
