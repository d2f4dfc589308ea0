"""Trains the checkpoints of the benchmark's tuned methods, each for several seeds.

    python scripts/train_benchmark.py DATA [--only mf-tuned --seeds 0 1 2]    trains what is not there yet
    python scripts/train_benchmark.py DATA --list                             says what is there

DATA is the folder with the research data sets. The runs stand in ``src/mf_llm/data/benchmark_training.yaml``; each is
trained into ``RUNS/RUN-seedN`` and goes on where it was interrupted. ``mf-llm compare --train`` does the same for the
methods it is asked for; here the runs can be spread over several calls. ``OMP_NUM_THREADS`` bounds the threads, so
that they can share a machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mf_llm.benchmark.training_runs import TrainingRuns, load_training_table
from mf_llm.benchmark.validation_sets import validation_sets
from mf_llm.errors import InputError
from mf_llm.events import load_event_sets
from mf_llm.models.default_backbone import DEFAULT_BACKBONE


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        table = load_training_table(args.table)
        names = args.only or list(table["runs"])
        sets = {} if args.list else load_event_sets(str(args.data))
        sets = validation_sets(sets) if args.validation else sets
        runs = TrainingRuns(table, sets, args.runs, model=args.model, dtype=args.dtype)
        jobs = [(name, seed) for seed in args.seeds for name in runs.with_needed(names) if name in names]
        for number, (name, seed) in enumerate(jobs, 1):
            head = f"[{number}/{len(jobs)}] {name}, seed {seed}"
            if args.list or runs.finished(name, seed):
                print(f"{head}: {'done' if runs.finished(name, seed) else 'not there'}", flush=True)
                continue
            start = time.perf_counter()
            print(f"{head}: begins", flush=True)
            runs.train(name, seed)
            print(f"{head}: finished in {time.perf_counter() - start:.0f} s", flush=True)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the data sets")
    parser.add_argument("--table", type=Path, help="the runs (YAML); those of the package by default")
    parser.add_argument("--runs", type=Path, default=Path("runs/train"), help="folder of the checkpoints")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds")
    parser.add_argument("--model", default=DEFAULT_BACKBONE, help="backbone of both roles")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--validation", action="store_true", help="leave out what `mf-llm compare --validation` judges on"
    )
    parser.add_argument("--list", action="store_true", help="say what is finished, and stop")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
