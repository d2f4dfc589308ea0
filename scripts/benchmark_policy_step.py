"""What a policy step of IB-Tune costs beside TRL's SFT: memory and tokens per second, with the same LoRA and backbone.

    python scripts/benchmark_policy_step.py [--quick] [--output results/policy_step]

Every method runs in processes of its own, by turns (A B A B ...), so that whatever else the machine does hits all of
them. Tokens are those that go through the policy with a gradient, padding not counted; SFT gets as many rows per step
as give the tokens of IB-Tune's step. Drawing signals goes through the mean-field model without a gradient: its tokens
are not counted, its seconds are.

Peak memory is the resident memory of the whole process at its highest since training began (on a GPU: of its tensors).
The bar is about that; the rise over the loaded model stands beside it, since it is what a larger batch multiplies.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.evaluation.tables import render
from mf_llm.events import load_event_sets
from mf_llm.models.default_backbone import DEFAULT_BACKBONE

ROOT = Path(__file__).resolve().parent.parent
CHILD = Path(__file__).resolve().with_name("policy_step_child.py")
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate")
MAX_MEMORY, MIN_SPEED = 1.15, 0.8  # what is asked for, relative to SFT

BAR, SFT, LEAN = "IB-Tune", "TRL SFT", "TRL SFT, lean head"
ALWAYS = {BAR: {"method": "ib-tune"}, SFT: {"method": "sft"}, LEAN: {"method": "sft-lean"}}
METHODS: dict[str, dict[str, Any]] = {
    **ALWAYS,
    "IB-Tune, statistics alone": {"method": "ib-tune", "signal": "statistics"},
    "IB-Tune, 2 updates per draw": {"method": "ib-tune", "updates_per_draw": 2},
    "IB-Tune anchored": {"method": "ib-tune", "anchored": True},
    "IB-Tune anchored, statistics alone": {"method": "ib-tune", "anchored": True, "signal": "statistics"},
}
QUICK = 4  # methods of a quick run
COLUMNS = (
    *("method", "repeat", "rows", "tokens_per_step", "tokens_per_second", "people_per_second", "seconds_per_step"),
    *("draw", "base", "rest_of_preparation", "forward_backward_update", "drawn_tokens_per_step", "padding"),
    *("peak_mib", "loaded_mib", "rise_mib", "tokens_per_cpu_second", "tokens_per_second_after_drawing"),
)
RATIOS = (
    *("tokens_per_second", "tokens_per_second_after_drawing", "tokens_per_cpu_second", "people_per_second"),
    *("peak_mib", "rise_mib"),
)
NOTES = {
    "tokens": "tokens that go through the policy with a gradient, padding not counted; IB-Tune encodes the prompt of "
    "a step once for all its people, SFT once per person: at equal tokens it trains on more people",
    "memory": "peak_mib is the process's resident memory at its highest since training began (VmHWM, reset where the "
    "system allows it; allocated tensors on a GPU); loaded_mib what it was then; rise_mib the difference",
    "seconds": "whole optimiser steps; draw: signals, which are drawn for many transitions together: a step is "
    "charged with its share, as if each transition came once in a run; base: the anchor's pass without adapters; "
    "rest_of_preparation: prompts and tensors; forward_backward_update: everything else",
    "cpu seconds": "of all threads of the process; other processes on the machine change them less than seconds",
    "schedule": "the policy's part of the sequential schedule, adapters on both roles; the optimiser states that the "
    "mean field's part leaves (two numbers per adapter parameter) are not in memory",
    "lean head": "SFT with the logits of labelled tokens alone, as TRL takes them where Triton runs; elsewhere TRL "
    "takes those of the whole prompt too",
    "after drawing": "the policy step alone. In the sequential schedule the mean field stands still while the policy "
    "is trained: each transition's signal is drawn once, before the first step that needs it, whatever the epochs",
    "ratio": "to TRL SFT of the same repeat; median, lowest and highest over repeats",
}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        for rows, about in measure(args):
            summary = summarise(rows)
            write_csv(args.output / "policy_step.csv", COLUMNS, rows)
            record = {**about, "notes": NOTES, "bars": bars(summary), "summary": summary, "runs": rows}
            write_json(args.output / "policy_step.json", record)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(tables(summary, about))
    print(f"Written: {args.output}")
    return 0


def measure(args: argparse.Namespace) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Runs all methods by turns; after each round it yields one row per run so far, and what they have in common."""
    names = args.methods or list(METHODS)[: QUICK if args.quick else None]
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        raise InputError(f"`--methods` must be some of {', '.join(METHODS)}, got {', '.join(unknown)}.")
    names = [*ALWAYS, *(name for name in names if name not in ALWAYS)]
    steps = args.steps + args.steps % 2  # whole draws where signals are used twice
    common = {
        "n_transitions": args.transitions_per_step * (steps + 2),
        "steps": steps,
        **{key: getattr(args, key) for key in ("events", "model", "dtype", "lora_r", "signal_max_tokens", "seed")},
        "gradient_checkpointing": args.gradient_checkpointing,
    }
    events = [event for members in load_event_sets(args.events).values() for event in members]
    model = Path(args.model).name if Path(args.model).is_dir() else args.model
    about = {
        "settings": {**common, "model": model, "events": Path(args.events).name},
        "transitions_per_step": args.transitions_per_step,
        "versions": versions(PACKAGES),
        "data_hash": data_hash(events),
    }
    rows: list[dict[str, Any]] = []
    sft_rows, child, same = 1, {}, ("adapter_parameters", "dtype", "adapter_dtype", "device", "threads")
    for repeat in range(args.repeats):
        for name in names:
            size = sft_rows if name in (SFT, LEAN) else args.transitions_per_step
            report = _run({**common, **METHODS[name], "rows": size})
            if child and any(report[key] != child[key] for key in same):
                raise RuntimeError(f"Two methods are not alike: {[(key, report[key], child[key]) for key in same]}")
            child = {key: report[key] for key in same}
            rows.append(_row(name, repeat, size, report))
            if name == BAR and not repeat:
                sft_rows = _matching_rows(rows[0]["tokens_per_step"], {**common, **METHODS[SFT]})
            speed, peak = rows[-1]["tokens_per_second"], rows[-1]["peak_mib"]
            line = f"[{repeat + 1}/{args.repeats}] {name}: {speed:.0f} tokens/s, peak {peak:.0f} MiB"
            print(line, file=sys.stderr, flush=True)
        machine = {**child, "processor": _processor(), "cores": os.cpu_count()}
        yield rows, {**about, "repeats": repeat + 1, "machine": machine}


def _run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One process; its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        # TRL tells its makers of every trainer otherwise, and a request would be timed.
        environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "CI": "true"}
        command = [sys.executable, str(CHILD), json.dumps(settings), str(report)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if not report.exists():
            tail = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise InputError(f"A measured run of {settings['method']!r} failed: {tail[0]}")
        return json.loads(report.read_text(encoding="utf-8"))


def _matching_rows(tokens: float, settings: Mapping[str, Any]) -> int:
    """How many rows of SFT hold as many tokens as a step of IB-Tune."""
    from mf_llm.models import MFLLMProcessor
    from mf_llm.training.sft import count_tokens, sft_rows

    sys.path.insert(0, str(CHILD.parent))
    from policy_step_child import Settings, transitions_of

    wanted = Settings(**settings, rows=1)
    rows = sft_rows(transitions_of(wanted), MFLLMProcessor.from_backbones(wanted.model), seed=wanted.seed)
    return max(1, round(tokens / (count_tokens(rows) / len(rows))))


def _row(name: str, repeat: int, size: int, report: Mapping[str, Any]) -> dict[str, Any]:
    steps = report["steps"]
    total = {key: sum(step[key] for step in steps) for key in steps[0]}
    mean = {key: value / len(steps) for key, value in total.items()}
    mib = {key: report[key] / 2**20 for key in ("peak", "loaded")}
    return {
        "method": name,
        "repeat": repeat,
        "rows": size,
        "tokens_per_step": mean["tokens"],
        "tokens_per_second": total["tokens"] / total["seconds"],
        "people_per_second": total["people"] / total["seconds"],
        "seconds_per_step": mean["seconds"],
        "draw": mean["draw"],
        "base": mean["base"],
        "rest_of_preparation": mean["prepare"] - mean["draw"] - mean["base"],
        "forward_backward_update": mean["seconds"] - mean["prepare"],
        "drawn_tokens_per_step": mean["drawn_tokens"],
        "padding": 1 - total["tokens"] / total["padded"],
        "peak_mib": mib["peak"],
        "loaded_mib": mib["loaded"],
        "rise_mib": mib["peak"] - mib["loaded"],
        "tokens_per_cpu_second": total["tokens"] / total["cpu_seconds"],
        "tokens_per_second_after_drawing": total["tokens"] / (total["seconds"] - total["draw"]),
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per method: median, lowest and highest of everything, and of the ratios to both SFTs of the same repeat."""
    sft, lean = ({row["repeat"]: row for row in rows if row["method"] == name} for name in (SFT, LEAN))
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        values = {column: [row[column] for row in mine] for column in COLUMNS[3:]}
        for suffix, other in (("ratio", sft), ("lean_ratio", lean)):
            values |= {f"{key}_{suffix}": [row[key] / other[row["repeat"]][key] for row in mine] for key in RATIOS}
        summary[name] = {
            key: {"median": statistics.median(ones), "low": min(ones), "high": max(ones)}
            for key, ones in values.items()
        }
    return summary


def bars(summary: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bars, judged by medians: the policy step with a drawn signal, against SFT and lean SFT.

    Speed is judged twice: of the step alone, and with all signals drawn for one epoch charged to its steps.
    """
    found = []
    speeds = {
        "tokens per second of the step": "tokens_per_second_after_drawing",
        "tokens per second, drawing included": "tokens_per_second",
    }
    for against, suffix in ((SFT, "ratio"), (LEAN, "lean_ratio")):
        kind = {"of": BAR, "against": against}
        memory = summary[BAR][f"peak_mib_{suffix}"]
        found.append(
            {"bar": "peak memory", **kind, **memory, "at_most": MAX_MEMORY, "met": memory["median"] <= MAX_MEMORY}
        )
        for bar, key in speeds.items():
            speed = summary[BAR][f"{key}_{suffix}"]
            found.append({"bar": bar, **kind, **speed, "at_least": MIN_SPEED, "met": speed["median"] >= MIN_SPEED})
    return found


def tables(summary: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Both tables and the verdict."""

    def ratio(name: str, key: str) -> str:
        one = summary[name][f"{key}_ratio"]
        return f"{one['median']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"

    def number(name: str, key: str, digits: int = 0) -> str:
        return f"{summary[name][key]['median']:.{digits}f}"

    side_by_side = [
        (
            name,
            number(name, "tokens_per_step"),
            number(name, "tokens_per_second"),
            ratio(name, "tokens_per_second_after_drawing"),
            ratio(name, "tokens_per_second"),
            number(name, "peak_mib"),
            ratio(name, "peak_mib"),
            number(name, "rise_mib"),
            ratio(name, "rise_mib"),
            number(name, "people_per_second", 2),
        )
        for name in summary
    ]
    parts = ("draw", "base", "rest_of_preparation", "forward_backward_update")
    seconds = [
        (
            name,
            *(number(name, part, 2) for part in (*parts, "seconds_per_step")),
            number(name, "drawn_tokens_per_step"),
        )
        for name in summary
    ]
    machine = about["machine"]
    title = f"A training step: {about['settings']['model']}, {machine['dtype']}, {machine['device']}"
    title += f", {machine['threads']} threads, LoRA r = {about['settings']['lora_r']}"
    columns = [
        "method",
        "tokens/step",
        "tokens/s",
        "step alone x SFT",
        "with drawing x SFT",
        "peak MiB",
        "x SFT",
        "rise MiB",
        "x SFT",
        "people/s",
    ]
    caption = f"Medians [lowest, highest] of {about['repeats']} runs each; ratios to SFT of the same round."
    text = render(title, columns, side_by_side, 150, caption)
    columns = ["method", "draw", "base", "prepare", "forward, backward, update", "step", "tokens drawn"]
    text += render("Seconds of a step", columns, seconds, 140)
    for bar in bars(summary):
        limit = f"at most {bar['at_most']}" if "at_most" in bar else f"at least {bar['at_least']}"
        verdict = "met" if bar["met"] else "MISSED"
        times = f"{bar['median']:.2f} [{bar['low']:.2f}, {bar['high']:.2f}]"
        text += f"{bar['of']} against {bar['against']}, {bar['bar']}: {times}, asked for {limit}: {verdict}\n"
    return text


def _processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "results" / "policy_step", help="folder of the results")
    add("--quick", action="store_true", help="2 transitions per step, and nothing anchored")
    add("--methods", nargs="+", metavar="NAME", help=f"some of {'; '.join(METHODS)} (the first three always run)")
    add("--events", default="bridge-closure", help="file or folder of events, packaged name, or Hub data set id")
    add("--model", default=DEFAULT_BACKBONE, help="backbone")
    add("--dtype", default="auto", help="type of its weights")
    add("--transitions-per-step", type=int, help="transitions of a step; by default 4, quick 2")
    add("--steps", type=int, default=2, help="measured steps of a run, after one or two that are not")
    add("--repeats", type=int, default=3, help="rounds through all methods")
    add("--signal-max-tokens", type=int, default=48, help="longest signal")
    add("--lora-r", type=int, default=8, help="rank of the adapters")
    add("--gradient-checkpointing", action="store_true", help="of both")
    add("--seed", type=int, default=0, help="of transitions, order, adapters and signals")
    args = parser.parse_args(arguments)
    if args.transitions_per_step is None:
        args.transitions_per_step = 2 if args.quick else 4
    return args


if __name__ == "__main__":
    sys.exit(main())
