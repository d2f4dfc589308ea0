"""`carry-sampled`: what a forecast loses where people are drawn from it, as in a sampled readout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import smooth
from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.intervals import generator
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.events.event import Event


@dataclass(frozen=True)
class CarrySampled:
    """`carry`, read out of rollouts in which each person of a window draws a category from it.

    The counts of all rollouts are pooled, in surveys with the weights of the people, and every category gets +0.5.

    Attributes:
        n_rollouts: rollouts that are pooled.
        seed: the draws follow from it, the event and the window.
    """

    n_rollouts: int = 16
    seed: int = 0
    name: str = "carry-sampled"
    readout: ClassVar[str] = "sampled"

    def __post_init__(self) -> None:
        if self.n_rollouts < 1:
            raise InputError(f"`n_rollouts` must be at least 1, got {self.n_rollouts}; nobody would be drawn.")

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> NDArray[np.float64]:
        """Shares `[T, K]` of the people drawn, smoothed."""
        shares = Carry()(event, plan, training)
        q = []
        for name, window in zip(plan.names, plan.judged, strict=True):
            rng = generator(self.seed, "carry-sampled", event.event_id, name)
            people = rng.multinomial(self.n_rollouts, shares, size=len(window))
            weights = plan.weights[window]
            q.append(smooth(weights / weights.mean() @ people))
        return np.stack(q)
