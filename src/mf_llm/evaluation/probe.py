"""`probe`: carry-regressed, and what a frozen backbone reads out of the topic and the warm-up texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.evaluation.regression import (
    RIDGES,
    Mask,
    best_ridge,
    event_folds,
    fit_ridge,
    held_out_loss,
    log_carry,
    log_odds,
    mean_shares,
    regressed,
)
from mf_llm.evaluation.text_features import TextFeatures
from mf_llm.events.event import Event

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

COMPONENTS = (2, 4, 8, 16, 32)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """What the training events of a data set taught.

    Attributes:
        weights: `[K + 1 + d, K]`: `B` transposed, `b`, `C` transposed; None: nothing was learned, it is `carry`.
        components: what makes the d components of text features; None where d is 0 (it is `carry-regressed`).
    """

    weights: Floats | None = None
    components: Pipeline | None = None

    @property
    def n_components(self) -> int:
        """d."""
        return 0 if self.components is None else self.components[-1].n_components


@dataclass(frozen=True, eq=False)
class Probe:
    """Softmax regression on the log-odds of `carry` and on text features, with offset log `carry`.

    ``p = softmax(log c + B x + b + C z)``: `c`, `x`, `B` and `b` as in `CarryRegressed`, with its penalty; `z` are the
    first d principal components of the standardised features (`TextFeatures`) of the topic and of the warm-up texts,
    fitted on train and validation events. d and the penalty of `C` have the lowest cross-validated cross-entropy over
    events (blocks of one group stay in one fold, and the components are fitted without the held-out fold); ``C = 0``
    is among the candidates. At zero weights it is `carry`; it stays so for surveys, with fewer than 10 such events,
    and where they are all blocks of one group: no text is then read.

    Attributes:
        features: the backbone that reads, and where its features are kept.
    """

    features: TextFeatures = field(default_factory=TextFeatures)
    name: str = "probe"

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares `[K]`."""
        fit = self.fit(training)
        if fit.weights is None:
            return Carry()(event, plan, training)
        return regressed(log_carry([plan], training), fit.weights, self.text_inputs([plan], fit))[0]

    def text_inputs(self, plans: Sequence[WindowPlan], fit: ProbeFit) -> Floats:
        """The inputs `z` `[n, d]` of a fit: what is read of the topics and the warm-up texts of `plans`."""
        if fit.components is None:
            return np.empty((len(plans), 0))
        return _scores(fit.components, self._read(plans))

    def fit(self, training: Training) -> ProbeFit:
        """What is learned from a data set, once."""
        if training not in self._fits:
            self._fits[training] = self._fit(training)
        return self._fits[training]

    @cached_property
    def _fits(self) -> WeakKeyDictionary[Training, ProbeFit]:
        return WeakKeyDictionary()

    def _fit(self, training: Training) -> ProbeFit:
        folds = event_folds(training)
        if folds is None:
            return ProbeFit()
        offsets, targets = log_carry(training.plans, training), mean_shares(training)
        odds, texts = log_odds(offsets), self._read(training.plans)
        ridge = best_ridge(offsets, odds, targets, folds)
        fit = ProbeFit(fit_ridge(offsets, odds, targets, ridge))
        best = held_out_loss(offsets, lambda _: odds, targets, folds, ridge)
        # At least two events for each component.
        smallest = min(int((folds != fold).sum()) for fold in np.unique(folds))
        for n_components in [number for number in COMPONENTS if number <= smallest // 2]:
            inputs = _Inputs(odds, texts, n_components)
            # Among equals the first wins: few components and a large penalty come first.
            for text_ridge in sorted(RIDGES, reverse=True):
                ridges = np.repeat([ridge, text_ridge], [odds.shape[1], n_components])
                loss = held_out_loss(offsets, inputs, targets, folds, ridges)
                if loss < best - 1e-9:
                    everything = np.ones(len(folds), dtype=bool)
                    weights = fit_ridge(offsets, inputs(everything), targets, ridges)
                    best, fit = loss, ProbeFit(weights, _components(texts, n_components))
        return fit

    def _read(self, plans: Sequence[WindowPlan]) -> Floats:
        """Features `[n, F]` of the topics and the warm-up texts."""
        from tqdm.auto import tqdm

        texts = [(plan.event.topic, [plan.event.turns[turn].action for turn in plan.warm_up]) for plan in plans]
        # Minutes of a core for a hundred events that were never read; disable=None: a bar on a terminal alone.
        disable = None if len(texts) > 1 else True
        bar = tqdm(texts, "topics and warm-up texts read", unit=" events", disable=disable, leave=False)
        return np.stack([self.features(topic, actions).ravel() for topic, actions in bar])


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The inputs `[n, K + 1 + d]` of all events, with components that are fitted on some of them, once each."""

    odds: Floats
    texts: Floats
    n_components: int
    _made: dict[bytes, Floats] = field(default_factory=dict)

    def __call__(self, learned: Mask) -> Floats:
        key = learned.tobytes()
        if key not in self._made:
            components = _components(self.texts[learned], self.n_components)
            self._made[key] = np.concatenate([self.odds, _scores(components, self.texts)], axis=1)
        return self._made[key]


def _components(features: Floats, n_components: int) -> Pipeline:
    """Standardised principal components, fitted on features `[n, F]`; what is missing counts as their mean."""
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = SimpleImputer(keep_empty_features=True), StandardScaler(), PCA(n_components, svd_solver="full")
    # Where all features are alike, the share of variance that a component explains is 0 / 0, and of no interest.
    with np.errstate(invalid="ignore"):
        return make_pipeline(*steps).fit(features)


def _scores(components: Pipeline, features: Floats) -> Floats:
    """Principal components `[n, d]`; divided by ``sqrt(F)``, all of them together have a variance of at most 1.

    They are not scaled to a variance of 1 each: of a component that hardly varies among the training events, that
    would make whatever another event has of it.
    """
    return components.transform(features) / np.sqrt(features.shape[1])
