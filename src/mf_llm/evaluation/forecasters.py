"""Forecasters without a language model: uniform, prior, carry and last. Every table shows them.

A *method* is any callable ``method(event, plan, training) -> [T, K]`` (or `[K]`, the same for all windows) with a
``name`` (and, if it is no forecast, a ``readout``). It may look at the warm-up of the event (``plan.warm_up``) and, of
a later turn, at its state, weight and wave; never at what the person did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import label_counts, normalise
from mf_llm.evaluation.protocol import MAX_LABELLED, WindowPlan, Windows, plan_event
from mf_llm.events.event import Event

ALPHAS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
DEFAULT_ALPHA = 10.0
SURVEY_ALPHA = 10.0
PRIOR_PSEUDO_COUNT = 0.5

Floats = NDArray[np.float64]


class Method(Protocol):
    """What `compare` judges."""

    @property
    def name(self) -> str:
        """The name of its row."""
        ...

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares, `[T, K]` or `[K]`."""
        ...


class Training:
    """What may be learned from: the train and validation events of one data set, on one dimension.

    Args:
        events: events of the data set; those of other splits than train and validation are not looked at.
        windows: how events are cut.
        dimension: what is counted.
        categories: its K categories.
    """

    def __init__(self, events: Sequence[Event], windows: Windows, dimension: str, categories: Sequence[str]) -> None:
        self.windows, self.dimension, self.categories = windows, dimension, tuple(categories)
        self.train = [event for event in events if event.split == "train" and dimension in event.dimensions]
        self.validation = [event for event in events if event.split == "validation" and dimension in event.dimensions]

    @cached_property
    def plans(self) -> list[WindowPlan]:
        """The plans of train and validation events that are long enough to be judged."""
        plans = [plan_event(event, self.windows, self.dimension) for event in self.train + self.validation]
        return [plan for plan in plans if plan.n_windows]

    @cached_property
    def prior(self) -> Floats:
        """Label shares `[K]` of the train events: counts of their first 304 labels + 0.5, all events pooled.

        For surveys the weighted counts of the last wave of each train event: the wave that stands where the judged
        wave stands in a test event. Without train events the prior is uniform.
        """
        counts = np.zeros(len(self.categories))
        index = {category: position for position, category in enumerate(self.categories)}
        for event in self.train:
            turns = [turn for turn in event.turns if turn.labels.get(self.dimension) in index]
            if self.windows.waves:
                turns = [turn for turn in turns if turn.wave == turns[-1].wave]
            else:
                turns = turns[:MAX_LABELLED]
            labels = [index[turn.labels[self.dimension]] for turn in turns]
            weights = [turn.weight for turn in turns] if self.windows.waves else None
            counts += label_counts(labels, len(self.categories), weights)
        return normalise(counts + PRIOR_PSEUDO_COUNT)

    @cached_property
    def scores(self) -> dict[str, float]:
        """KL on train + validation: ``prior``, and ``carry`` for every alpha; empty without such events."""
        if not self.plans or self.windows.waves:
            return {}
        scores = {"prior": self._mean_kl([self.prior] * len(self.plans))}
        for alpha in ALPHAS:
            forecasts = [dirichlet(plan.counts(plan.warm_up), self.prior, alpha) for plan in self.plans]
            scores[f"carry(alpha={alpha:g})"] = self._mean_kl(forecasts)
        return scores

    @cached_property
    def alpha(self) -> float:
        """The alpha of `carry` with the lowest KL on train + validation (10 for surveys, or where there are none)."""
        if self.windows.waves:
            return SURVEY_ALPHA
        if not self.scores:
            return DEFAULT_ALPHA
        return min(ALPHAS, key=lambda alpha: self.scores[f"carry(alpha={alpha:g})"])

    @cached_property
    def reference(self) -> Method:
        """The one of `prior`, `carry` and `last` with the lowest KL on train + validation.

        Surveys, and data sets without train and validation events, take `carry`: a survey's prior is counted on the
        very waves it would be chosen by.
        """
        candidates: list[Method] = [Carry(), Prior(), Last()]
        if not self.scores:
            return candidates[0]
        return min(candidates, key=self.mean_kl)

    def mean_kl(self, method: Method) -> float:
        """KL of a method on train + validation (in-sample for whatever was fitted on them)."""
        return self._mean_kl([method(plan.event, plan, self) for plan in self.plans])

    def _mean_kl(self, forecasts: Sequence[Floats]) -> float:
        pairs = zip(self.plans, forecasts, strict=True)
        return float(np.mean([plan.score(forecast).mean() for plan, forecast in pairs]))


def dirichlet(counts: Floats, prior: Floats, alpha: float) -> Floats:
    """``(counts + alpha * prior) / (n + alpha)``: the mean of a Dirichlet posterior, `[K]`."""
    return normalise(np.asarray(counts, dtype=np.float64) + alpha * np.asarray(prior, dtype=np.float64))


@dataclass(frozen=True)
class Uniform:
    """Every category gets 1 / K."""

    name: str = "uniform"

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares `[K]`."""
        return np.full(len(plan.categories), 1 / len(plan.categories))


@dataclass(frozen=True)
class Prior:
    """The label shares of the train events."""

    name: str = "prior"

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares `[K]`."""
        return training.prior


@dataclass(frozen=True)
class Carry:
    """Dirichlet carry-forward: ``(counts of the warm-up + alpha * prior) / (W + alpha)``.

    In a survey the counts are those of the last warm-up wave (weights scaled to a mean of 1), plus 10 pseudo-people of
    the prior.

    Attributes:
        alpha: pseudo-people of the prior (None: chosen on train + validation).
    """

    alpha: float | None = None
    name: str = "carry"

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares `[K]`."""
        turns = plan.latest if plan.windows.waves else plan.warm_up
        return dirichlet(plan.counts(turns), training.prior, training.alpha if self.alpha is None else self.alpha)


@dataclass(frozen=True)
class Last:
    """`carry` on the last `win` actions of the warm-up, with the alpha of `carry`; in a survey the same as `carry`.

    Attributes:
        alpha: pseudo-people of the prior (None: that of `carry`).
    """

    alpha: float | None = None
    name: str = "last"

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares `[K]`."""
        alpha = training.alpha if self.alpha is None else self.alpha
        return dirichlet(plan.counts(plan.latest), training.prior, alpha)


def default_methods() -> tuple[Method, ...]:
    """The rows of every table: uniform, prior, carry, last."""
    return (Uniform(), Prior(), Carry(), Last())


def all_forecasters() -> dict[str, Method]:
    """Name -> method: the rows of every table, then those that have to be asked for.

    Only `probe` needs a language model, which is loaded when it first reads a text.
    """
    # They build on what is here.
    from mf_llm.evaluation.carry_sampled import CarrySampled
    from mf_llm.evaluation.probe import Probe
    from mf_llm.evaluation.regression import CarryRegressed
    from mf_llm.evaluation.trajectory_forecaster import Trajectory

    methods: tuple[Method, ...] = (*default_methods(), CarryRegressed(), Trajectory(), Probe(), CarrySampled())
    return {method.name: method for method in methods}


def method_name(method: object) -> str:
    """The name of a method's row."""
    return str(getattr(method, "name", None) or getattr(method, "__name__", type(method).__name__))


def full_name(method: object, training: Training) -> str:
    """The name with its alpha, as in ``carry(alpha=10)``."""
    if not hasattr(method, "alpha"):
        return method_name(method)
    alpha = training.alpha if method.alpha is None else method.alpha
    return f"{method_name(method)}(alpha={alpha:g})"


def forecast(method: Method, plan: WindowPlan, training: Training) -> Floats:
    """Calls a method and checks its answer.

    Returns:
        Shares `[T, K]`.

    Raises:
        InputError: the method did not return distributions of the right shape.
    """
    shape = (plan.n_windows, len(plan.categories))
    q = np.asarray(method(plan.event, plan, training), dtype=np.float64)
    if q.shape not in (shape, shape[1:]):
        raise InputError(
            f"`{method_name(method)}` must return shares of shape {shape} or {shape[1:]} for event "
            f"{plan.event.event_id!r}, got {q.shape}; it cannot be scored; return one row of shares per window."
        )
    if not np.all(np.isfinite(q)) or np.any(q < 0) or np.any(np.abs(q.sum(axis=-1) - 1) > 1e-3):
        raise InputError(
            f"`{method_name(method)}` must return shares (>= 0, sum 1) for event {plan.event.event_id!r}, got "
            f"{np.atleast_2d(q)[0].tolist()}; KL would be meaningless; divide counts by their sum."
        )
    return np.broadcast_to(q, shape)
