"""How a data set is simulated so that the protocol can judge it: warm-up, length and anchor follow from its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.protocol import MAX_LABELLED, WindowPlan, choose_windows, first_dimension, plan_event
from mf_llm.evaluation.regression import regression_weights
from mf_llm.events.event import Event
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import plan_simulation

# Features name a simulation; in these digits they are the same however many threads computed them.
_DIGITS = 6


def protocol_config(events: Sequence[Event], options: Mapping[str, Any]) -> SimulationConfig:
    """The configuration of a simulation of a labelled data set.

    Args:
        events: the events of the data set, of all splits: train and validation events choose the windows, the prior
            of the anchor, its strength and its weights (as for the forecasters `carry`, `carry-regressed`, `probe`).
        options: fields of `SimulationConfig`; what is given here is not chosen. The anchors "carry-regressed" and
            "probe" get the weights of those forecasters; they are "carry" where these are (surveys, fewer than 10
            events to learn from), and "probe" is "carry-regressed" where no text helps. For "probe" the default
            backbone reads the topics and the texts of the warm-ups; the features are kept on disk
            (`mf_llm.evaluation.text_features`).

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
        if config.anchor != "carry" and config.anchor_weights is None:
            config = _with_weights(config, events, training)
    return config


def _with_weights(config: SimulationConfig, events: Sequence[Event], training: Training) -> SimulationConfig:
    """The configuration with what its anchor learns from training events."""
    weights = regression_weights(training)
    if not weights.any():
        return replace(config, anchor="carry")
    anchor, features = "carry-regressed", None
    if config.anchor == "probe":
        from mf_llm.evaluation.probe import Probe

        probe = Probe()
        fit = probe.fit(training)
        if fit.weights is not None and fit.n_components:
            anchor, weights = "probe", fit.weights
            plans = _warm_ups(config, events, training)
            read = probe.text_inputs(plans, fit).round(_DIGITS).tolist()
            features = dict(zip((plan.event.event_id for plan in plans), read, strict=True))
    learned = dict(zip(training.categories, weights.T.tolist(), strict=True))
    return replace(config, anchor=anchor, anchor_weights=learned, anchor_features=features)


def _warm_ups(config: SimulationConfig, events: Sequence[Event], training: Training) -> list[WindowPlan]:
    """The events that can be simulated, cut where their warm-up ends."""
    plans = []
    for event in events:
        if training.dimension not in event.dimensions:
            continue
        try:
            start = plan_simulation(event, config).warm_up
        except InputError:  # said where it is to be simulated
            continue
        plans.append(plan_event(event, training.windows, training.dimension, start=start))
    return plans
