"""From rollouts to the members of an ensemble: shares of each rollout, per window or per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import SMOOTHING, effective_size, normalise
from mf_llm.evaluation.readouts import read_answers, readout_name
from mf_llm.forecasting.observed_windows import window_sizes

if TYPE_CHECKING:
    from mf_llm.evaluation.protocol import WindowPlan
    from mf_llm.simulation import Rollout

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Members:
    """Shares `[R, T, K]` of the rollouts, with the names and sizes of the T windows or steps."""

    names: tuple[str, ...]
    n_people: tuple[int, ...]
    shares: Floats
    readout: str
    n_failed: int


def window_members(plan: WindowPlan, rollouts: Sequence[Rollout]) -> Members:
    """Weighted shares of the people of each window, by rollout.

    Raises:
        InputError: the plan is one of another event, has no windows, or a rollout has no answer in one of them.
    """
    if (plan.event.event_id, plan.dimension) != (rollouts[0].event_id, rollouts[0].dimension):
        raise InputError(
            f"`plan` must be one of event {rollouts[0].event_id!r} on {rollouts[0].dimension!r}, got one of event "
            f"{plan.event.event_id!r} on {plan.dimension!r}; people and answers would not belong together; cut the "
            "event with `forecast_plan`."
        )
    answers = [read_answers(plan.event, [rollout], len(plan.categories)) for rollout in rollouts]
    for rollout, answer in zip(rollouts, answers, strict=True):
        if not plan.n_windows or not all(answer.covered(plan)):
            raise InputError(
                f"`plan` must have windows in which every rollout simulated everybody, got {plan.n_windows} windows "
                f"of event {plan.event.event_id!r}, not all reached with seed {rollout.seed}; there is no forecast of "
                "them; cut the event with `forecast_plan`, or simulate it to its end."
            )
    mass = np.stack([[plan.weights[window] @ answer.mass[window] for window in plan.judged] for answer in answers])
    sampled = answers[0].sampled
    shares = normalise(mass)
    if sampled:
        # Of weighted people, and of waves of which a part was simulated, fewer stand behind a share.
        known = [[effective_size(plan.weights[w][answer.known[w]]) for w in plan.judged] for answer in answers]
        shares = without_sampling(shares, np.mean(known, axis=0))
    return Members(
        names=plan.names,
        n_people=window_sizes(plan),
        shares=shares,
        readout="sampled" if sampled else "exact",
        n_failed=sum(answer.n_failed for answer in answers),
    )


def step_members(rollouts: Sequence[Rollout]) -> Members:
    """The shares that the rollouts recorded of each step after the warm-up.

    Raises:
        InputError: the rollouts have other steps, or a step has no reading.
    """
    steps = [[step for step in rollout.steps if not step.real] for rollout in rollouts]
    places = [[(step.step, step.n_people) for step in run] for run in steps]
    if not places[0] or any(place != places[0] for place in places):
        raise InputError(
            f"`rollouts` must have simulated the same steps, got {[len(run) for run in steps]} of event "
            f"{rollouts[0].event_id!r}; their shares cannot be put beside each other; finish them with --resume."
        )
    for rollout, run in zip(rollouts, steps, strict=True):
        for step in run:
            if step.shares is None:
                raise InputError(
                    f"`rollouts` must have a reading of every step, got none at step {step.step} of event "
                    f"{rollout.event_id!r} with seed {rollout.seed}; there is no share to forecast; leave it out."
                )
    shares = np.asarray([[step.shares for step in run] for run in steps], dtype=np.float64)
    sampled = readout_name(rollouts[0]) == "sampled"
    n_people = tuple(step.n_people for step in steps[0])
    return Members(
        names=tuple(step.wave or str(step.step) for step in steps[0]),
        n_people=n_people,
        shares=without_sampling(shares, np.asarray(n_people)) if sampled else shares,
        readout="sampled" if sampled else "exact",
        n_failed=sum(step.n_failed for run in steps for step in run),
    )


def anchor_concentration(rollout: Rollout) -> float:
    """How sure the anchor of an anchored readout may be: of ``Dirichlet(counts + alpha * prior)``, ``W + alpha``.

    The anchor is the mean of that posterior, counted on the W people of the warm-up (of a survey on those of its last
    wave, with their effective size); the crowd scatters about it, whatever a model says.

    Returns:
        ``W + alpha``; infinity where nothing is anchored.
    """
    if not rollout.config.get("anchored"):
        return np.inf
    counted = [row for row in rollout.actions if row.source == "real" and row.label is not None]
    if counted and counted[-1].wave is not None:
        counted = [row for row in counted if row.wave == counted[-1].wave]
    return effective_size([row.weight for row in counted]) + float(rollout.config["anchor_strength"])


def without_sampling(shares: Floats, n: Floats) -> Floats:
    """Members `[R, T, K]` with the part of their spread taken out that comes from simulating n `[T]` people only.

    Moments: of the variance between R shares, ``mean_r p_r (1 - p_r) / (n - 1)`` is expected from sampling alone (the
    unbiased estimate, summed over categories). The members are drawn towards their mean until the rest is left, none
    if sampling explains it all; then +0.5 people per category of the pooled counts, so that what no rollout drew is
    not impossible.
    """
    n_rollouts, _, n_categories = shares.shape
    mean = shares.mean(axis=0)
    spread = ((shares - mean) ** 2).sum(axis=(0, 2)) / max(n_rollouts - 1, 1)
    sampling = (shares * (1 - shares)).sum(axis=2).mean(axis=0) / np.maximum(n - 1, 1)
    left = np.divide(spread - sampling, spread, out=np.zeros_like(spread), where=spread > sampling)
    members = mean + np.sqrt(left)[:, None] * (shares - mean)
    pseudo = SMOOTHING * n_categories
    kept = (n_rollouts * n / (n_rollouts * n + pseudo))[:, None]
    return kept * members + (1 - kept) / n_categories
