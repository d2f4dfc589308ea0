"""`carry-regressed`: what the training events teach about how crowds move on from where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from mf_llm.evaluation.distributions import clamp
from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.events.event import Event

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
N_FOLDS = 5

Floats = NDArray[np.float64]

# One fit serves all events of a data set.
_fits: WeakKeyDictionary[Training, Floats] = WeakKeyDictionary()


@dataclass(frozen=True)
class CarryRegressed:
    """Softmax regression of the rest's shares on the log-odds of `carry`, with offset log `carry`.

    ``p = softmax(log c + B x + b)``, with `c` the carry-forward shares and ``x = log c - mean(log c)``. `B` and `b`
    are fitted on train and validation events by cross-entropy to the mean shares of their windows, with a ridge
    penalty chosen by cross-validation over events (blocks of one group stay in one fold). At ``B = b = 0`` it is
    `carry`; it stays so for surveys, with fewer than 10 such events, and where they are all blocks of one group.
    """

    name: str = "carry-regressed"

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares `[K]`."""
        offset = np.log(clamp(Carry()(event, plan, training)))[None]
        if training not in _fits:
            _fits[training] = _fit(training)
        return _softmax(_logits(_fits[training], offset))[0]


def _fit(training: Training) -> Floats:
    """The weights `[K + 1, K]` (`B` transposed, then `b`) of a data set."""
    plans, n_categories = training.plans, len(training.categories)
    none = np.zeros((n_categories + 1, n_categories))
    if len(plans) < 2 * N_FOLDS or training.windows.waves:
        return none
    offsets = np.log(clamp([Carry()(plan.event, plan, training) for plan in plans]))
    targets = np.stack([plan.truth.mean(axis=0) for plan in plans])
    folds = _folds(plans)
    if len(np.unique(folds)) < 2:
        return none
    return fit_ridge(offsets, targets, best_ridge(offsets, targets, folds))


def _folds(plans: list[WindowPlan]) -> NDArray[np.int64]:
    keys = [plan.event.group or plan.event.event_id for plan in plans]
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    return np.asarray([places[key] % N_FOLDS for key in keys], dtype=np.int64)


def best_ridge(offsets: Floats, targets: Floats, folds: NDArray[np.int64]) -> float:
    """The penalty with the lowest cross-validated cross-entropy; the largest one among equals."""
    losses = []
    for ridge in RIDGES:
        total = 0.0
        for fold in np.unique(folds):
            weights = fit_ridge(offsets[folds != fold], targets[folds != fold], ridge)
            q = clamp(_softmax(_logits(weights, offsets[folds == fold])))
            total -= float((targets[folds == fold] * np.log(q)).sum())
        losses.append(total)
    return max(ridge for ridge, loss in zip(RIDGES, losses, strict=True) if loss <= min(losses) + 1e-9)


def fit_ridge(offsets: Floats, targets: Floats, ridge: float) -> Floats:
    """Minimises ``mean_i CE(y_i, softmax(o_i + W^T x_i)) + ridge * |W|^2`` over `W` `[K + 1, K]`.

    Args:
        offsets: log carry-forward shares `[n, K]`.
        targets: shares `[n, K]`.
        ridge: the penalty.
    """
    from scipy.optimize import minimize

    features, shape = _features(offsets), (offsets.shape[1] + 1, offsets.shape[1])

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        q = _softmax(offsets + features @ weights)
        value = -(targets * np.log(q)).sum() / len(targets) + ridge * (weights**2).sum()
        return value, (features.T @ (q - targets) / len(targets) + 2 * ridge * weights).ravel()

    return minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B").x.reshape(shape)


def _features(offsets: Floats) -> Floats:
    centred = offsets - offsets.mean(axis=1, keepdims=True)
    return np.concatenate([centred, np.ones((len(offsets), 1))], axis=1)


def _logits(weights: Floats, offsets: Floats) -> Floats:
    return offsets + _features(offsets) @ weights


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
