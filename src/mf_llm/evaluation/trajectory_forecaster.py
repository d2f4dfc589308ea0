"""`trajectory`: exponential smoothing and a vector autoregression, learned from the shares alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from mf_llm.evaluation.distributions import clamp, kl_divergence, normalise
from mf_llm.evaluation.forecasters import Carry, Training, dirichlet
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.evaluation.regression import event_folds
from mf_llm.events.event import Event

logger = logging.getLogger(__name__)

DISCOUNTS = (1.0, 0.8, 0.6, 0.4)
RELAXATIONS = (0.0, 0.7, 0.9)
RIDGES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
FLOOR = 1e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TrajectoryFit:
    """What the training events of a data set taught.

    Attributes:
        discount: what a label counts for, compared with one that is `win` labels younger.
        relaxation: how much of the distance to `q*` is left after a window.
        weights: `[2 K + 2, K]`: `A` transposed, `a`, `B` transposed, `b`; None: nothing was learned, the
            forecast is `carry`.
        n_failed: settings that could not be tried, since a regression failed.
    """

    discount: float = 1.0
    relaxation: float = 0.0
    weights: Floats | None = None
    n_failed: int = 0


@dataclass(frozen=True)
class Trajectory:
    """Smoothed shares that relax towards where crowds of their kind went.

    With `l` the exponentially smoothed shares at the end of the warm-up (a label with i younger ones counts
    ``discount^(i / win)``), `m` the prior of the train events and `alpha` that of `carry`:

        l   = (sum_i discount^(i / win) e_{y_i} + alpha m) / (sum_i discount^(i / win) + alpha)
        q_0 = l + A (l - m) + a
        q*  = l + B (l - m) + b
        q_h = q* + relaxation^h (q_0 - q*),    h = 1 ... T windows after the warm-up

    which is a VAR(1) of the shares that starts at `q_0` and relaxes towards `q*`, with one rate for all categories.
    `A`, `a`, `B` and `b` are pooled over the windows of the train and validation events (each event with the same
    weight): weighted least squares with a ridge penalty (`statsmodels`). Shares that fall below `FLOOR` are raised to
    it, or to `l` where that is smaller. Discount, relaxation and penalty have the lowest cross-validated KL over
    events (blocks of one group stay in one fold); zeros are among the candidates, and with a discount of 1 they are
    `carry`.

    It stays `carry` for surveys, with fewer than 10 such events, and where they are all blocks of one group. A
    regression that fails (no solution, or no finite one) drops its setting from the candidates; how many were dropped
    is logged and stands in `fit`.
    """

    name: str = "trajectory"

    def __call__(self, event: Event, plan: WindowPlan, training: Training) -> Floats:
        """Forecast shares `[T, K]`."""
        fit = self.fit(training)
        if fit.weights is None:
            return np.tile(Carry()(event, plan, training), (plan.n_windows, 1))
        level = _level(plan, training, fit.discount)[None]
        horizons = np.arange(1, plan.n_windows + 1)
        start = np.repeat(level, plan.n_windows, axis=0)
        return _shares(start, _regressors(start, horizons, training.prior, fit.relaxation), fit.weights)

    def fit(self, training: Training) -> TrajectoryFit:
        """What is learned from a data set, once."""
        if training not in _fits:
            _fits[training] = _fit(training)
        return _fits[training]


_fits: WeakKeyDictionary[Training, TrajectoryFit] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class _JudgedWindows:
    """The judged windows of all training events, N of them, one below the other."""

    event: NDArray[np.int64]
    horizon: NDArray[np.int64]
    truth: Floats
    weight: Floats
    fold: NDArray[np.int64]

    @classmethod
    def of(cls, plans: Sequence[WindowPlan], folds: NDArray[np.int64]) -> _JudgedWindows:
        lengths = np.array([plan.n_windows for plan in plans])
        event = np.repeat(np.arange(len(plans)), lengths)
        horizon = np.concatenate([np.arange(1, length + 1) for length in lengths])
        truth = np.concatenate([plan.truth for plan in plans])
        return cls(event, horizon, truth, 1 / lengths[event] / len(plans), folds[event])


def _fit(training: Training) -> TrajectoryFit:
    folds = event_folds(training)
    if folds is None:
        return TrajectoryFit()
    windows = _JudgedWindows.of(training.plans, folds)
    # Among equals the first wins: what moves least comes first.
    best, best_kl, n_failed = TrajectoryFit(), np.inf, 0
    for discount in DISCOUNTS:
        levels = np.stack([_level(plan, training, discount) for plan in training.plans])[windows.event]
        still = np.zeros((2 * levels.shape[1] + 2, levels.shape[1]))
        for relaxation, ridge in [(0.0, None), *product(RELAXATIONS, RIDGES)]:
            regressors = _regressors(levels, windows.horizon, training.prior, relaxation)
            try:
                kl = 0.0
                for fold in np.unique(folds):
                    learned, held_out = windows.fold != fold, windows.fold == fold
                    weights = still if ridge is None else _regress(windows, levels, regressors, ridge, learned)
                    q = _shares(levels[held_out], regressors[held_out], weights)
                    kl += float(windows.weight[held_out] @ kl_divergence(windows.truth[held_out], clamp(q)))
                if kl < best_kl - 1e-9:
                    everything = np.ones(len(levels), dtype=bool)
                    weights = still if ridge is None else _regress(windows, levels, regressors, ridge, everything)
                    best, best_kl = TrajectoryFit(discount, relaxation, weights), kl
            except np.linalg.LinAlgError:
                n_failed += 1
    if n_failed:
        logger.warning("trajectory: %d settings could not be tried, since a regression failed.", n_failed)
    return replace(best, n_failed=n_failed)


def _level(plan: WindowPlan, training: Training, discount: float) -> Floats:
    """The smoothed shares `[K]` at the end of the warm-up."""
    n_younger = np.arange(len(plan.warm_up))[::-1]
    weights = discount ** (n_younger / plan.windows.window)
    counts = np.bincount(plan.labels[plan.warm_up], weights=weights, minlength=len(plan.categories)).astype(np.float64)
    return dirichlet(counts, training.prior, training.alpha)


def _regressors(levels: Floats, horizons: NDArray[np.int64], prior: Floats, relaxation: float) -> Floats:
    """``[f [l - m, 1], (1 - f) [l - m, 1]]`` with ``f = relaxation^h``, `[N, 2 K + 2]`."""
    inputs = np.concatenate([levels - prior, np.ones((len(levels), 1))], axis=1)
    left = (relaxation**horizons)[:, None]
    return np.concatenate([left * inputs, (1 - left) * inputs], axis=1)


def _regress(
    windows: _JudgedWindows, levels: Floats, regressors: Floats, ridge: float, learned: NDArray[np.bool_]
) -> Floats:
    """Ridge regression `[2 K + 2, K]` of how far the shares are from their level, on some of the windows.

    Raises:
        numpy.linalg.LinAlgError: there is no finite solution.
    """
    import statsmodels.api as sm

    weights = windows.weight[learned] / windows.weight[learned].sum()
    moves = (windows.truth - levels)[learned]
    columns = [
        sm.WLS(move, regressors[learned], weights=weights).fit_regularized(alpha=ridge, L1_wt=0).params
        for move in moves.T
    ]
    solution = np.stack(columns, axis=1)
    if not np.all(np.isfinite(solution)):
        raise np.linalg.LinAlgError("the solution is not finite")
    return solution


def _shares(levels: Floats, regressors: Floats, weights: Floats) -> Floats:
    return normalise(np.maximum(levels + regressors @ weights, np.minimum(levels, FLOOR)))
