"""From rollouts of one event to what its simulated people answered, person by person and window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.evaluation.scoring import readout
from mf_llm.events.event import Event

if TYPE_CHECKING:
    from mf_llm.simulation import Rollout

REAL, SIMULATED, FAILED = "real", "simulated", "failed"


@dataclass(frozen=True, eq=False)
class Answers:
    """What the simulated people of an event answered, summed over the rollouts of all seeds.

    Attributes:
        mass: `[n_turns, K]`: summed probabilities (exact) or label counts (sampled); 0 where nothing is known.
        attempted: mask over the turns: some rollout simulated this person, be it in vain.
        sampled: True for label counts.
        n_rollouts: number of rollouts.
        n_failed: rows without an answer: failed generations, and free text without a label.
        in_part: some people of a step stand for all of it (`max_people_per_step`).
        end: the first turn behind what the rollouts were told to simulate (`max_actions`); None for the event's end.
    """

    mass: NDArray[np.float64]
    attempted: NDArray[np.bool_]
    sampled: bool
    n_rollouts: int
    n_failed: int
    in_part: bool = False
    end: int | None = None

    def covered(self, plan: WindowPlan) -> list[bool]:
        """Which windows can be judged: all their people were simulated (some, where steps were in part), one answered.

        A rollout that was told to stop early leaves an incomplete last window, which is dropped like that of an event.
        """
        enough = np.any if plan.windows.waves or self.in_part else np.all
        # Those of its beginning do not stand for a window whose end was never simulated.
        end = len(self.attempted) if plan.windows.waves or self.end is None else self.end
        return [
            bool(enough(self.attempted[window]) and self.known[window].any() and window[-1] < end)
            for window in plan.judged
        ]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Mask over the turns: somebody answered there."""
        return self.mass.sum(axis=1) > 0

    def windows(self, plan: WindowPlan) -> NDArray[np.float64]:
        """Q `[T, K]`: the weighted answers of the judged people of each window, clamped or smoothed."""
        return np.stack([readout(self._weighted(plan, window), self.sampled) for window in plan.judged])

    def _weighted(self, plan: WindowPlan, window: NDArray[np.int64]) -> NDArray[np.float64]:
        weights = plan.weights[window]
        return (weights / weights.mean()) @ self.mass[window]


def end_of_warm_up(rollout: Rollout) -> int | None:
    """Index of the first turn after the warm-up; None for a rollout that holds real actions only.

    Not the first simulated one: where only a sample of a step is simulated, those before the first of the sample would
    be missing from the human shares, and others for each seed.
    """
    first = min((row.turn for row in rollout.actions if row.source != REAL), default=None)
    if first is None:
        return None
    return max((row.turn + 1 for row in rollout.actions if row.source == REAL), default=first)


def readout_name(rollout: Rollout) -> str:
    """ "exact" or "sampled", as the rollout's configuration says (else: by what its rows hold)."""
    name = rollout.config.get("readout")
    if name in ("exact", "sampled"):
        return name
    exact = any(row.probabilities is not None for row in rollout.actions if row.source == SIMULATED)
    return "exact" if exact else "sampled"


def read_answers(event: Event, rollouts: Sequence[Rollout], n_categories: int) -> Answers:
    """Sums the answers of the rollouts of one event.

    Raises:
        InputError: a row stands for a turn that the event does not have, or its probabilities are no distribution.
    """
    sampled = readout_name(rollouts[0]) == "sampled"
    categories = {category: place for place, category in enumerate(rollouts[0].categories)}
    mass = np.zeros((len(event.turns), n_categories))
    attempted = np.zeros(len(event.turns), dtype=bool)
    n_failed = 0
    for rollout in rollouts:
        changed = bool(rollout.config.get("resolved", {}).get("interventions"))
        for row in rollout.actions:
            if row.source not in (SIMULATED, FAILED) or (row.turn >= len(event.turns) and changed):
                continue  # people whom an intervention brought have nobody to be held against
            if not 0 <= row.turn < len(event.turns):
                raise InputError(
                    f"`turn` must lie in 0..{len(event.turns) - 1} in a rollout of event {event.event_id!r}, got "
                    f"{row.turn}; its person cannot be found; simulate the event again."
                )
            attempted[row.turn] = True
            if row.source == FAILED:
                n_failed += 1
            elif sampled and row.label in categories:
                mass[row.turn, categories[row.label]] += 1
            elif not sampled and row.probabilities is not None:
                mass[row.turn] += _distribution(row.probabilities, n_categories, event, row.turn)
            else:
                n_failed += 1
    in_part = any(rollout.config.get("max_people_per_step") is not None for rollout in rollouts)
    end = min((most for rollout in rollouts if (most := rollout.config.get("max_actions")) is not None), default=None)
    return Answers(mass, attempted, sampled, len(rollouts), n_failed, in_part, end)


def _distribution(answer: Sequence[float], n_categories: int, event: Event, turn: int) -> NDArray[np.float64]:
    shares = np.asarray(answer, dtype=np.float64)
    if shares.shape != (n_categories,) or not np.all(shares >= 0) or not abs(shares.sum() - 1) < 1e-3:
        raise InputError(
            f"`probabilities` must be a distribution over {n_categories} categories, got {shares.tolist()} at turn "
            f"{turn} of event {event.event_id!r}; the population cannot be read out; simulate the event again."
        )
    return shares
