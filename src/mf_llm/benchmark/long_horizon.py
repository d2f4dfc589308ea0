"""Long horizons: the test blocks of a stream in a row, and what becomes of a forecast far from its warm-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from mf_llm.benchmark.benchmark import SPLIT, Benchmark
from mf_llm.errors import InputError
from mf_llm.evaluation.comparison import Comparison
from mf_llm.evaluation.distributions import dynamic_time_warping, js_divergence, kl_divergence
from mf_llm.evaluation.judged_event import JudgedEvent
from mf_llm.events import Event, Turn
from mf_llm.simulation.rollout import Rollout

# Actions after the warm-up at which a stretch of the horizon ends; the last stretch ends with the event.
ENDS = (64, 256, 1024, 4096, 16384)
COLUMNS = (
    "method",
    "dataset",
    "event",
    "training_seed",
    "first_action",
    "last_action",
    "kl",
    "dtw",
    "drift",
    "real_drift",
    "prompt_tokens",
)


def joined_blocks(events: Sequence[Event]) -> list[Event]:
    """The events of a data set with the test blocks of each group as one event; other test events are left out.

    Blocks follow each other by their numbers, and answers stay within their block. The train and validation events
    are as they were.

    Args:
        events: of one data set.
    """
    groups: dict[str, list[Event]] = {}
    for event in events:
        if event.split == SPLIT and event.group is not None and event.block is not None:
            groups.setdefault(event.group, []).append(event)
    joined = [_joined(group, sorted(blocks, key=_block)) for group, blocks in groups.items() if len(blocks) > 1]
    return [*(event for event in events if event.split != SPLIT), *joined]


def replayed(event: Event, n_actions: int) -> Event:
    """A synthetic event of `n_actions` turns: the event again and again (without its times).

    What is forecast far away is then known to be what was there before: only the simulation can drift.

    Raises:
        InputError: it would be shorter than the event.
    """
    if n_actions < len(event.turns):
        raise InputError(
            f"`n_actions` must be at least the {len(event.turns)} turns of event {event.event_id!r}, got {n_actions}; "
            "nothing would be repeated."
        )
    n = -(-n_actions // len(event.turns))
    turns = _in_a_row([event.turns] * n)[:n_actions]
    turns = [replace(turn, time=None) for turn in turns]
    return replace(event, event_id=f"{event.event_id} replayed to {n_actions}", turns=tuple(turns), block=None)


def horizon_rows(benchmark: Benchmark, comparison: Comparison) -> list[dict[str, Any]]:
    """KL, DTW and drift of every method in stretches of the horizon, with the keys `COLUMNS`.

    ``kl`` is the mean over the windows of a stretch, ``dtw`` that of the whole trajectory up to its end. ``drift`` is
    the Jensen-Shannon divergence between the simulated shares of the stretch and those of the first window, and
    ``real_drift`` the same of people. ``prompt_tokens`` is the mean per step: it must not grow.

    Args:
        benchmark: with the events that were judged.
        comparison: what was found.
    """
    rows = []
    for (method, label), cell in comparison.methods.cells.items() if comparison.methods is not None else ():
        if cell.scores is None:
            continue
        tokens = _tokens(benchmark, method)
        for seed, events in cell.scores.seeds.items():
            for judged in events:
                event = judged.plan.event.event_id
                known = {"method": method, "dataset": label, "event": event, "training_seed": seed}
                rows += [known | stretch for stretch in stretches(judged, tokens.get((event, seed)))]
    return rows


def stretches(judged: JudgedEvent, tokens: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
    """One record per stretch of the horizon of one event; see `horizon_rows`.

    Args:
        judged: the event.
        tokens: first turn of each simulated step -> its prompt tokens.
    """
    plan, truth, q = judged.plan, judged.plan.truth, judged.q
    ends = np.cumsum([len(window) for window in plan.judged])
    bounds = [0, *(end for end in ENDS if end < ends[-1]), int(ends[-1])]
    found = []
    for low, high in pairwise(bounds):
        inside = (ends > low) & (ends <= high)
        if not inside.any():
            continue
        upto = int(np.flatnonzero(inside)[-1]) + 1
        turns = np.concatenate([window for window, here in zip(plan.judged, inside, strict=True) if here])
        spent = [n for first, n in (tokens or {}).items() if turns[0] <= first <= turns[-1]]
        found.append(
            {
                "first_action": low + 1,
                "last_action": high,
                "kl": float(kl_divergence(truth[inside], q[inside]).mean()),
                "dtw": dynamic_time_warping(truth[:upto], q[:upto]),
                "drift": float(js_divergence(q[0], q[inside].mean(axis=0))),
                "real_drift": float(js_divergence(truth[0], truth[inside].mean(axis=0))),
                "prompt_tokens": float(np.mean(spent)) if spent else None,
            }
        )
    return found


def _block(event: Event) -> int:
    return event.block or 0


def _joined(group: str, blocks: Sequence[Event]) -> Event:
    first, last = blocks[0], blocks[-1]
    return replace(
        first,
        event_id=f"{group}, blocks {first.block} to {last.block}",
        turns=tuple(_in_a_row([block.turns for block in blocks])),
        block=None,
    )


def _in_a_row(parts: Sequence[Sequence[Turn]]) -> list[Turn]:
    """Turns one after another; whom they answer moves along."""
    turns: list[Turn] = []
    for part in parts:
        place = len(turns)
        turns += [turn if turn.parent is None else replace(turn, parent=turn.parent + place) for turn in part]
    return turns


def _tokens(benchmark: Benchmark, method: str) -> dict[tuple[str, int], dict[int, int]]:
    """(event, training seed) -> first turn of each simulated step -> its prompt tokens, of the first rollout."""
    found = {}
    for job in (job for job in benchmark.jobs() if job.method.name == method):
        for event in job.events:
            for folder in job.finished(event)[:1]:
                rollout = Rollout.load(folder)
                first: dict[int, int] = {}
                for row in rollout.actions:
                    first.setdefault(row.step, row.turn)
                steps = [step for step in rollout.steps if not step.real]
                found[event.event_id, job.seed] = {first[step.step]: step.prompt_tokens for step in steps}
    return found
