"""How a data set is simulated so that the protocol can judge it: warm-up, length and anchor follow from its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.protocol import MAX_LABELLED, choose_windows, first_dimension
from mf_llm.evaluation.regression import regression_weights
from mf_llm.events.event import Event
from mf_llm.simulation.simulation_config import SimulationConfig


def protocol_config(events: Sequence[Event], options: Mapping[str, Any]) -> SimulationConfig:
    """The configuration of a simulation of a labelled data set.

    Args:
        events: the events of the data set, of all splits: train and validation events choose the windows, the prior
            of the anchor, its strength and its weights (as for the forecasters `carry` and `carry-regressed`).
        options: fields of `SimulationConfig`; what is given here is not chosen. The anchor "carry-regressed" gets the
            weights of that forecaster, and is "carry" where that is so (surveys, fewer than 10 events to learn from).

    Raises:
        InputError: an option is no field of `SimulationConfig`, or no event has a dimension.
    """
    unknown = sorted(set(options) - {field.name for field in fields(SimulationConfig)})
    if unknown:
        raise InputError(
            f"`options` must be fields of SimulationConfig, got {', '.join(map(repr, unknown))}; the simulation would "
            "be another one than asked for; correct the name."
        )
    options = dict(options)
    dimension = options.get("dimension") or first_dimension(events)
    windows = choose_windows(events, dimension)
    if not windows.waves:
        if options.get("warm_up") is None:
            options["warm_up"] = windows.warm_up
        if options.get("max_actions") is None:
            options["max_actions"] = MAX_LABELLED
    config = SimulationConfig(**options)
    if config.anchored and config.anchor_prior is None:
        categories = next(event.dimensions[dimension] for event in events if dimension in event.dimensions)
        training = Training(events, windows, dimension, categories)
        prior = dict(zip(categories, training.prior.tolist(), strict=True))
        config = replace(config, anchor_prior=prior, anchor_strength=training.alpha)
        if config.anchor == "carry-regressed" and config.anchor_weights is None:
            weights = regression_weights(training)
            learned = dict(zip(categories, weights.T.tolist(), strict=True))
            config = replace(config, anchor_weights=learned) if weights.any() else replace(config, anchor="carry")
    return config
