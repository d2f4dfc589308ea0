"""Real and simulated shares of single events, over time: which events are shown, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mf_llm.evaluation.distributions import kl_divergence
from mf_llm.evaluation.forecasters import full_name
from mf_llm.evaluation.judged_event import JudgedEvent, judge_forecast, judge_rollouts
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.reporting.comparison_files import TUNED, UNTUNED, ComparisonFiles
from mf_llm.reporting.real_events import RealEvents
from mf_llm.reporting.rollout_files import RolloutFiles

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Line:
    """What one method said about one event.

    Attributes:
        name: of the method, with its training seed.
        kind: "tuned", "untuned" or "reference".
        places: the windows it was judged in, counted from 0.
        shares: `[T, K]`.
        kl: per window, in nats.
    """

    name: str
    kind: str
    places: NDArray[np.int64]
    shares: Floats
    kl: Floats


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One event: what people did, and what methods said about it."""

    label: str
    plan: WindowPlan
    lines: Sequence[Line]


def leading_models(files: ComparisonFiles) -> dict[str, str]:
    """ "tuned" and "untuned" -> the method of that kind with the largest mean gain, where there is one."""
    found = {kind: files.best(kind) for kind in (TUNED, UNTUNED)}
    return {kind: method for kind, method in found.items() if method}


def shown_events(files: ComparisonFiles, label: str, method: str, at_most: int) -> list[str]:
    """Events of a data set, spread evenly from those that a method meets best to those that it meets worst."""
    events = files.judged_events(method, label)
    ordered = sorted(events, key=lambda event: (float(events[event]["kl"]), event))
    count = min(at_most, len(ordered))
    return [ordered[int((place + 0.5) / count * len(ordered))] for place in range(count)]


def read_trajectory(
    files: ComparisonFiles, rollouts: RolloutFiles, real: RealEvents, label: str, event_id: str
) -> Trajectory | None:
    """The numbers of one event, of the leading models (first training seed) and of the reference.

    Raises:
        InputError: rollouts are not those of this event.
    """
    plan, task = real.plan(label, event_id), real.tasks.get(label)
    if plan is None or task is None:
        return None
    lines = []
    for kind, method in leading_models(files).items():
        for seed in rollouts.seeds(method, label)[:1]:
            members = rollouts.load(method, label, seed, event_id)
            if members:
                several = len(files.made(method).get("checkpoints", {})) > 1
                name = f"{method} (seed {seed})" if several else method
                lines.append(_line(name, kind, judge_rollouts(plan.event, members, task.windows), plan))
    reference = task.training.reference
    judged = judge_forecast(plan, reference, task.training)
    lines.append(_line(full_name(reference, task.training), "reference", judged, plan))
    return Trajectory(label, plan, lines)


def _line(name: str, kind: str, judged: JudgedEvent, plan: WindowPlan) -> Line:
    places = np.asarray([plan.names.index(name) for name in judged.plan.names])
    return Line(name, kind, places, judged.q, kl_divergence(judged.plan.truth, judged.q))
