"""Simulates a population of any size: people who read the same in prompts are one row with a weight.

    python examples/simulate_population.py --people 10000000 --n-steps 3
    python examples/simulate_population.py --table people.parquet --bins bins.yaml --weight weight --n-steps 10

Without a table one is made, of invented people. They react to the event after its warm-up, all of them in every step.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mf_llm import InputError, SimulationConfig, load_events
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.models.loading import load_model_and_processor
from mf_llm.simulation import Population, Rollout, load_bins, simulate

BINS = {"age": [18, 30, 45, 65, None]}
ROWS_AT_ONCE = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="Parquet or CSV file, or a folder of Parquet files")
    parser.add_argument("--bins", type=Path, help="YAML or JSON file: field -> edges, or bins of values, or null")
    parser.add_argument("--weight", help="column that says how many people a row stands for")
    parser.add_argument("--people", type=int, default=1_000_000, help="people that are invented without a table")
    parser.add_argument("--event", default="bridge-closure", help="packaged or local event that they react to")
    parser.add_argument("--model", default=DEFAULT_BACKBONE)
    parser.add_argument("--n-steps", type=int, default=3)
    parser.add_argument("--signal", default="both")
    parser.add_argument("--option-orders", type=int, default=2)
    parser.add_argument("--writers", type=int, default=8, help="people of a step who write a text")
    parser.add_argument("--signal-max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder for the rollout; it is not kept by default")
    args = parser.parse_args()
    try:
        run(args)
    except InputError as error:
        sys.exit(f"error: {error}")


def run(args: argparse.Namespace) -> None:
    """Reads or invents the people, merges and simulates them, and prints what that took."""
    with tempfile.TemporaryDirectory() as folder:
        table, bins = args.table, load_bins(args.bins) if args.bins is not None else None
        if table is None:
            table, bins = Path(folder) / "people.parquet", bins or BINS
            invent_people(table, args.people, args.seed)
        start = time.perf_counter()
        population = Population.from_table(table, weight=args.weight, bins=bins)
    seconds = time.perf_counter() - start
    print(f"{population.n_people:,} people, {len(population)} states, read and merged in {seconds:.1f} s")

    event = load_events(args.event)[0]
    model, processor = load_model_and_processor(args.model)
    config = SimulationConfig(
        signal=args.signal,
        option_orders=args.option_orders,
        writers=args.writers,
        max_new_tokens=32,
        signal_max_tokens=args.signal_max_tokens,
        seed=args.seed,
    )
    start = time.perf_counter()
    rollout = simulate(
        model, processor, event, config, population=population, n_steps=args.n_steps, output=args.output
    )
    seconds = time.perf_counter() - start
    print_steps(rollout)
    print(f"{seconds / len(rollout.steps):.1f} s per step (warm-up included), peak memory {peak_memory():.2f} GiB")


def print_steps(rollout: Rollout) -> None:
    """Shares and counts of the simulated steps, and what the last one saw and said."""
    for step in rollout.steps:
        if not step.real and step.shares is not None and step.counts is not None:
            parts = zip(rollout.categories, step.shares, step.counts, strict=True)
            shares = "; ".join(f"{name} {share:.4f} ({count:,})" for name, share, count in parts)
            print(f"step {step.step}, {step.prompt_tokens:,} tokens: {shares}")
    last = rollout.steps[-1]
    print(f"signal before the last step: {last.signal or 'none'}")
    for row in rollout.simulated():
        if row.step == last.step and row.text:
            print(f"  {row.state}\n    -> {row.label}: {row.text}")


def invent_people(path: Path, n_people: int, seed: int) -> None:
    """Writes a Parquet table of people with age, home, job and car, a million rows at a time."""
    generator = np.random.default_rng(seed)
    names = {
        "home": ["north bank", "south bank", "out of town"],
        "job": ["works in town", "works elsewhere", "retired", "student"],
        "car": ["owns a car", "shares a car", "has no car"],
    }
    schema = pa.schema([("age", pa.int32()), *((name, pa.string()) for name in names)])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, n_people, ROWS_AT_ONCE):
            size = min(ROWS_AT_ONCE, n_people - first)
            columns = [pa.array(generator.integers(18, 95, size), pa.int32())]
            for values in names.values():
                places = pa.array(generator.integers(0, len(values), size))
                columns.append(pa.array(values).take(places))
            writer.write_table(pa.table(columns, schema=schema))


def peak_memory() -> float:
    """The most memory that this process has held, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (30 if sys.platform == "darwin" else 20)


if __name__ == "__main__":
    main()
