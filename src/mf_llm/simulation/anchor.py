"""The frozen anchor: what a forecaster without a language model would carry forward from the warm-up."""

from __future__ import annotations

import numpy as np

from mf_llm.events import Event
from mf_llm.simulation.steps import Plan


def carry_forward(event: Event, plan: Plan, prior: np.ndarray, strength: float) -> np.ndarray:
    """The carry-forward shares ``(counts + alpha * prior) / (n + alpha)`` at the end of a warm-up (method, section 2).

    They are counted as the forecaster `carry` counts them: in a survey on the last warm-up wave alone.

    Args:
        event: the event; nothing after its warm-up is looked at.
        plan: its plan; must have options.
        prior: ``[K]`` prior shares of the options.
        strength: `alpha`, number of pseudo-actions of the prior.

    Returns:
        ``[K]`` shares.
    """
    from mf_llm.evaluation.forecasters import dirichlet
    from mf_llm.evaluation.protocol import Windows, plan_event

    windows = Windows(0, 0, waves=True) if plan.steps[0].wave is not None else Windows(1, 1)
    cut = plan_event(event, windows, plan.answer.dimension, start=plan.warm_up)
    return dirichlet(cut.counts(cut.latest if windows.waves else cut.warm_up), prior, strength)
