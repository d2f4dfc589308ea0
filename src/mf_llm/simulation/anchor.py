"""The frozen anchor: what a forecaster without a language model would carry forward from the warm-up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan


def frozen_anchor(event: Event, plan: Plan, config: SimulationConfig) -> np.ndarray:
    """The anchor of an anchored readout: carry-forward shares, or what a fitted forecaster makes of them.

    Args:
        event: the event; nothing after its warm-up is looked at.
        plan: its plan; must have options.
        config: of the simulation.

    Returns:
        ``[K]`` shares.

    Raises:
        InputError: prior or weights of the configuration are not of the event's categories, or the features that its
            anchor needs are not there.
    """
    options = plan.answer.options
    prior = np.full(len(options), 1.0 / len(options))
    if config.anchor_prior is not None:
        if set(config.anchor_prior) != set(options):
            raise InputError(
                f"`anchor_prior` must give a positive share to each of {list(options)}, got "
                f"{dict(config.anchor_prior)}; the anchor is not defined."
            )
        prior = np.array([config.anchor_prior[option] for option in options])
        prior = prior / prior.sum()
    carry = carry_forward(event, plan, prior, config.anchor_strength)
    if config.anchor == "carry":
        return carry
    return _regressed(carry, options, config, _features(event, config))


def _features(event: Event, config: SimulationConfig) -> Sequence[float]:
    if config.anchor != "probe":
        return ()
    known = config.anchor_features or {}
    if event.event_id not in known:
        raise InputError(
            f"`anchor_features` must hold event {event.event_id!r}, got none of it; what probe makes of its texts is "
            "not known; let `protocol_config` read them."
        )
    return known[event.event_id]


def _regressed(
    carry: np.ndarray, options: Sequence[str], config: SimulationConfig, features: Sequence[float]
) -> np.ndarray:
    from mf_llm.evaluation.distributions import clamp
    from mf_llm.evaluation.regression import regressed

    weights = config.anchor_weights
    size = len(options) + 1 + len(features)
    if weights is None or set(weights) != set(options) or any(len(row) != size for row in weights.values()):
        raise InputError(
            f"`anchor_weights` must have {size} numbers for each of {list(options)}, got "
            f"{None if weights is None else dict(weights)}; what {config.anchor} makes of the warm-up is not known; "
            "let `protocol_config` fit them on training events."
        )
    by_option = np.array([weights[option] for option in options]).T
    return regressed(np.log(clamp(carry[None])), by_option, np.asarray(features, dtype=np.float64)[None])[0]


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
