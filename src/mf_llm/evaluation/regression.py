"""`carry-regressed`: what the training events teach about how crowds move on from where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
Mask = NDArray[np.bool_]

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
        return regressed(log_carry([plan], training), regression_weights(training))[0]


def regression_weights(training: Training) -> Floats:
    """The weights `[K + 1, K]` (`B` transposed, then `b`) of a data set; all 0 where `CarryRegressed` is `carry`."""
    if training not in _fits:
        _fits[training] = _fit(training)
    return _fits[training]


def regressed(offsets: Floats, weights: Floats, features: Floats | None = None) -> Floats:
    """``softmax(log c + B x + b)``, or with features ``softmax(log c + B x + b + C z)``.

    Args:
        offsets: log carry-forward shares `[n, K]`.
        weights: `[K + 1, K]`, as of `regression_weights`; with features `[K + 1 + d, K]`.
        features: `z`, `[n, d]`.

    Returns:
        Shares `[n, K]`.
    """
    inputs = log_odds(offsets) if features is None else np.concatenate([log_odds(offsets), features], axis=1)
    return softmax(offsets + inputs @ weights)


def _fit(training: Training) -> Floats:
    folds = event_folds(training)
    if folds is None:
        return np.zeros((len(training.categories) + 1, len(training.categories)))
    offsets, targets = log_carry(training.plans, training), mean_shares(training)
    features = log_odds(offsets)
    ridge = best_ridge(offsets, features, targets, folds)
    return fit_ridge(offsets, features, targets, ridge)


def event_folds(training: Training) -> NDArray[np.int64] | None:
    """The fold of each train and validation event, blocks of one group in one fold.

    None where nothing should be learned: surveys, fewer than 10 events, or all of them blocks of one group.
    """
    if len(training.plans) < 2 * N_FOLDS or training.windows.waves:
        return None
    keys = [plan.event.group or plan.event.event_id for plan in training.plans]
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    folds = np.asarray([places[key] % N_FOLDS for key in keys], dtype=np.int64)
    return folds if len(np.unique(folds)) > 1 else None


def log_carry(plans: Sequence[WindowPlan], training: Training) -> Floats:
    """Logarithms of the carry-forward shares, `[n, K]`."""
    return np.log(clamp([Carry()(plan.event, plan, training) for plan in plans]))


def log_odds(offsets: Floats) -> Floats:
    """The inputs ``[x, 1]`` of the regression, `[n, K + 1]`."""
    centred = offsets - offsets.mean(axis=1, keepdims=True)
    return np.concatenate([centred, np.ones((len(offsets), 1))], axis=1)


def mean_shares(training: Training) -> Floats:
    """The targets: mean shares of the windows of each train and validation event, `[n, K]`."""
    return np.stack([plan.truth.mean(axis=0) for plan in training.plans])


def best_ridge(offsets: Floats, features: Floats, targets: Floats, folds: NDArray[np.int64]) -> float:
    """The penalty with the lowest cross-validated cross-entropy; the largest one among equals."""
    losses = [held_out_loss(offsets, lambda _: features, targets, folds, ridge) for ridge in RIDGES]
    return max(ridge for ridge, loss in zip(RIDGES, losses, strict=True) if loss <= min(losses) + 1e-9)


def held_out_loss(
    offsets: Floats,
    features: Callable[[Mask], Floats],
    targets: Floats,
    folds: NDArray[np.int64],
    ridge: float | Floats,
) -> float:
    """Cross-validated cross-entropy, summed over the events.

    Args:
        offsets: log carry-forward shares `[n, K]`.
        features: gives the inputs `[n, d]` of all events; what has to be fitted for them may be fitted on the events
            of the mask alone.
        targets: shares `[n, K]`.
        folds: `[n]`.
        ridge: as for `fit_ridge`.
    """
    total = 0.0
    for fold in np.unique(folds):
        learned, held_out = folds != fold, folds == fold
        inputs = features(learned)
        weights = fit_ridge(offsets[learned], inputs[learned], targets[learned], ridge)
        q = clamp(softmax(offsets[held_out] + inputs[held_out] @ weights))
        total -= float((targets[held_out] * np.log(q)).sum())
    return total


def fit_ridge(offsets: Floats, features: Floats, targets: Floats, ridge: float | Floats) -> Floats:
    """Minimises ``mean_i CE(y_i, softmax(o_i + W^T x_i)) + sum_j ridge_j |W_j|^2`` over `W` `[d, K]`.

    Args:
        offsets: log carry-forward shares `[n, K]`.
        features: inputs `[n, d]`.
        targets: shares `[n, K]`.
        ridge: the penalty, or one for each input `[d]`.
    """
    from scipy.optimize import minimize

    shape = (features.shape[1], offsets.shape[1])
    penalty = np.broadcast_to(np.asarray(ridge, dtype=np.float64), shape[:1])[:, None]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        q = softmax(offsets + features @ weights)
        value = -(targets * np.log(q)).sum() / len(targets) + (penalty * weights**2).sum()
        return value, (features.T @ (q - targets) / len(targets) + 2 * penalty * weights).ravel()

    return minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B").x.reshape(shape)


def softmax(logits: Floats) -> Floats:
    """Shares along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
