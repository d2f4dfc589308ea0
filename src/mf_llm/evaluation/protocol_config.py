"""How a data set is simulated so that the protocol can judge it: warm-up, length and anchor follow from its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.protocol import MAX_LABELLED, choose_windows, first_dimension
from mf_llm.events.event import Event
from mf_llm.simulation.simulation_config import SimulationConfig


def protocol_config(events: Sequence[Event], options: Mapping[str, Any]) -> SimulationConfig:
    """The configuration of a simulation of a labelled data set.

    Args:
        events: the events of the data set, of all splits: train and validation events choose the windows, the prior
            of the anchor and its strength (as for the forecaster `carry`).
        options: fields of `SimulationConfig`; what is given here is not chosen.

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
        prior = {category: float(p) for category, p in zip(categories, training.prior, strict=True)}
        config = replace(config, anchor_prior=prior, anchor_strength=training.alpha)
    return config
