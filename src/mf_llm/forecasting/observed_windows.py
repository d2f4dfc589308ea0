"""What is forecast and what people did there: windows that all rollouts reach, and whole counts of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import effective_size
from mf_llm.evaluation.matching import match
from mf_llm.evaluation.protocol import WindowPlan, Windows, plan_event
from mf_llm.evaluation.readouts import end_of_warm_up, read_answers
from mf_llm.events.event import Event

if TYPE_CHECKING:
    from mf_llm.simulation import Rollout


def forecast_plan(event: Event, rollouts: Sequence[Rollout], windows: Windows) -> WindowPlan:
    """The windows of an event in which every rollout simulated everybody (of a wave: somebody).

    Args:
        event: the event.
        rollouts: of this event, one per seed.
        windows: how events are cut; the warm-up is that of the rollouts.

    Returns:
        The plan; it has no windows where no rollout reaches over a whole one.

    Raises:
        InputError: the rollouts belong to another event, differ in more than their seed, or simulated nobody.
    """
    match(rollouts, {rollouts[0].data_set or "events": [event]})
    start = end_of_warm_up(rollouts[0])
    if start is None or rollouts[0].dimension is None:
        raise InputError(
            f"`rollouts` must hold simulated people on a dimension, got none of event {event.event_id!r}; there is no "
            "forecast; simulate it with a dimension."
        )
    plan = plan_event(event, windows, rollouts[0].dimension, start=start)
    if tuple(rollouts[0].categories) != plan.categories:
        raise InputError(
            f"`categories` must be those of event {event.event_id!r}, {list(plan.categories)}, got "
            f"{list(rollouts[0].categories)}; shares would be compared crosswise; simulate again."
        )
    covered = [read_answers(event, [rollout], len(plan.categories)).covered(plan) for rollout in rollouts]
    return plan.selected(np.all(covered, axis=0))


def window_sizes(plan: WindowPlan) -> tuple[int, ...]:
    """People of each window; weighted people count with their effective size (Kish)."""
    return tuple(max(1, round(effective_size(plan.weights[window]))) for window in plan.judged)


def window_counts(plan: WindowPlan) -> NDArray[np.int64]:
    """Human label counts of the windows, `[T, K]`; rows sum to `window_sizes`.

    Where people have weights these are their weighted shares of the effective number of people, rounded to whole
    people by largest remainders: sampling theory of counts then holds approximately.
    """
    rows = [_whole(shares * n, n) for shares, n in zip(plan.truth, window_sizes(plan), strict=True)]
    return np.stack(rows) if rows else np.empty((0, len(plan.categories)), dtype=np.int64)


def _whole(expected: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    counts = np.floor(expected + 1e-9).astype(np.int64)
    largest = np.argsort(-(expected - counts), kind="stable")[: total - counts.sum()]
    counts[largest] += 1
    return counts
