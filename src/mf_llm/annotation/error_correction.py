"""Measured shares corrected for what an annotator is known to mix up.

An annotator that reads `k` out of texts whose true category is `j` with rate ``C[j, k]`` measures ``m = C^T p`` in a
population with true shares `p`. `p` is found by maximum likelihood, which minimises ``KL(m || C^T p)`` on the simplex,
with the multiplicative steps of expectation maximisation:

    p_j  <-  p_j * sum_k m_k C[j, k] / (C^T p)_k

Why this and not the inverse matrix or least squares: the steps never leave the simplex, the problem is convex, the
loss is the divergence shares are judged by, so that small shares count by their ratio, and where the exact solution
``C^-T m`` is a distribution it is the result. It holds for soft readings too, with `C` the *mean probabilities* per
true category. (Saerens et al. 2002 run the same steps on each text's posterior, which trusts the annotator to be
calibrated on other data; here only rates are trusted.) The assumption left is that the rates are those of the texts
they were counted on.

A correction spreads sampling noise: of 16 texts an unregularised one is often worse than none. `strength` adds
pseudo-people with shares `prior` to the likelihood, a Dirichlet prior on `p`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mf_llm.annotation.annotator import Annotations
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import clamp, normalise
from mf_llm.evaluation.intervals import Interval
from mf_llm.evaluation.judged_event import JudgedEvent
from mf_llm.evaluation.paired import MethodScores, Resampling, mean_kl, paired_difference
from mf_llm.evaluation.scoring import readout

Floats = NDArray[np.float64]

DEFAULT_STRENGTH = 10.0
STRENGTHS = (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_STEPS, _TOLERANCE = 20_000, 1e-12


@dataclass(frozen=True, eq=False)
class ErrorRates:
    """What an annotator mixes up.

    Attributes:
        rates: C `[K, K]`: mean probability of category k over texts whose true category is j; rows sum to 1.
        prior: true shares `[K]` of the texts they were counted on.
        strength: pseudo-people of the prior in a correction.
    """

    rates: Floats
    prior: Floats
    strength: float = 0.0

    def __post_init__(self) -> None:
        rates, prior = np.asarray(self.rates, dtype=np.float64), np.asarray(self.prior, dtype=np.float64)
        object.__setattr__(self, "rates", rates)
        object.__setattr__(self, "prior", prior)
        square = rates.ndim == 2 and rates.shape == (len(prior), len(prior))
        if not square or not _are_shares(rates) or not _are_shares(prior):
            raise InputError(
                f"`rates` and `prior` must be [K, K] with rows that sum to 1, and [K] shares, got {rates.tolist()} "
                f"and {prior.tolist()}; shares cannot be corrected with them; count them with error_rates."
            )
        if not self.strength >= 0:
            raise InputError(f"`strength` must be at least 0, got {self.strength}; it counts people.")

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"rates": self.rates, "prior": self.prior, "strength": self.strength}


def _are_shares(p: Floats) -> bool:
    return bool(np.all(p >= 0) and np.all(np.abs(p.sum(axis=-1) - 1) <= 1e-6))


def error_rates(annotations: Annotations, truth: ArrayLike, *, pseudo_count: float = 1.0) -> ErrorRates:
    """Counts what an annotator mixes up; rows without an answer are left out.

    Args:
        annotations: of texts the annotator was not fitted on (`FittedClassifier.held_out`, or a validation split);
            their `hard()` for a correction of hard labels.
        truth: `[n]`, people's category of each text, as an index.
        pseudo_count: texts per true category that are added with the annotator's overall shares, so that a category
            with few texts does not get extreme rates.

    Raises:
        InputError: there is no answered text.
    """
    ok = annotations.answered
    if not ok.any():
        raise InputError("`annotations` must hold an answer, got none; no error can be counted; annotate again.")
    p, true = annotations.probabilities[ok], np.asarray(truth, dtype=np.int64)[ok]
    one_hot = np.eye(len(annotations.categories))[true]
    rates = one_hot.T @ p + pseudo_count * p.mean(axis=0)
    return ErrorRates(normalise(rates), normalise(one_hot.sum(axis=0) + pseudo_count))


def correct_shares(
    measured: ArrayLike,
    rates: ArrayLike,
    *,
    n: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    strength: float = 0.0,
) -> Floats:
    """True shares that explain measured ones: maximum likelihood, or with a Dirichlet prior the posterior mode.

    Args:
        measured: m, `[K]` or `[T, K]` shares.
        rates: C `[K, K]`, see `ErrorRates`.
        n: people behind each row of `measured`, a number or `[T]`; needed with a prior.
        prior: `[K]` shares of the prior.
        strength: pseudo-people of the prior; 0 for none.

    Returns:
        p, shaped like `measured`.

    Raises:
        InputError: a prior without `n`.
    """
    m, c = np.asarray(measured, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    rows = np.atleast_2d(m)
    if strength and (n is None or prior is None):
        raise InputError(
            "`n` and `prior` must be given with a `strength` above 0, got none; its weight against the texts would be "
            "unknown; give the number of texts of each row and the prior's shares."
        )
    people = np.broadcast_to(np.asarray(1.0 if n is None else n, dtype=np.float64), (len(rows),))[:, None]
    added = strength * np.asarray(prior, dtype=np.float64) if strength else 0.0
    p = np.full_like(rows, 1 / rows.shape[1])
    for _ in range(_STEPS):
        explained = p @ c
        ratio = np.divide(rows, explained, out=np.zeros_like(rows), where=explained > 0)
        new = (people * p * (ratio @ c.T) + added) / (people + strength)
        new /= new.sum(axis=1, keepdims=True)
        moved = np.abs(new - p).max()
        p = new
        if moved < _TOLERANCE:
            break
    return p.reshape(m.shape)


def corrected(judged: JudgedEvent, rates: ErrorRates) -> JudgedEvent:
    """A replay with corrected shares, on the same windows; the answers of single people are left out.

    Args:
        judged: from `judge_annotated`.
        rates: counted on the same kind of readings, soft or hard.

    Raises:
        InputError: `judged` is a forecast, without answers of people.
    """
    if judged.answers is None:
        raise InputError("`judged` must hold answers of people, got a forecast; there is nothing to correct.")
    masses = []
    for window, answers in zip(judged.plan.judged, judged.answers, strict=True):
        weights = judged.plan.weights[window]
        masses.append((weights / weights.mean()) @ answers)
    mass = np.stack(masses)
    n = mass.sum(axis=1)
    p = correct_shares(mass / n[:, None], rates.rates, n=n, prior=rates.prior, strength=rates.strength)
    # Hard labels keep their smoothing, so that the two rows differ in nothing but the correction.
    return replace(judged, q=readout(n[:, None] * p, True) if judged.sampled else clamp(p), answers=None)


def with_strength(rates: ErrorRates, strength: float) -> ErrorRates:
    """The same rates with another number of pseudo-people in the prior."""
    return replace(rates, strength=strength)


def choose_strength(judged: Sequence[JudgedEvent], rates: ErrorRates) -> ErrorRates:
    """The same rates with the strength out of `STRENGTHS` that has the lowest KL on these (validation) events."""
    candidates = [with_strength(rates, strength) for strength in STRENGTHS]
    return min(candidates, key=lambda one: float(np.mean([corrected(event, one).kl for event in judged])))


@dataclass(frozen=True)
class CorrectionValidation:
    """Whether a correction brings measured shares nearer to those of people, on held-out events.

    Attributes:
        n_events: number of events.
        before, after: KL(human || measured) and KL(human || corrected), in nats, mean over events.
        change: after - before, paired; below 0 where the correction helps.
        strength: pseudo-people of the prior that was used.
    """

    n_events: int
    before: Interval
    after: Interval
    change: Interval
    strength: float

    @property
    def helps(self) -> bool:
        """The whole interval of the change lies below 0: only then is a correction worth applying."""
        return self.change.high is not None and self.change.high < 0

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        bounds = {name: getattr(self, name).to_dict() for name in ("before", "after", "change")}
        return {"n_events": self.n_events, "strength": self.strength, "helps": self.helps, **bounds}


def validate_correction(
    judged: Sequence[JudgedEvent],
    rates: ErrorRates,
    *,
    data_set: str = "events",
    resampling: Resampling | None = None,
) -> CorrectionValidation:
    """KL before and after a correction, on events whose labels the rates were not counted on.

    Args:
        judged: replays of the held-out events.
        rates: the rates.
        data_set: name of the data set, for the bootstrap.
        resampling: the bootstrap draws (default: seed 0).
    """
    resampling = resampling or Resampling()
    before = MethodScores("measured", data_set, {0: judged})
    after = MethodScores("corrected", data_set, {0: [corrected(event, rates) for event in judged]})
    return CorrectionValidation(
        len(before.events),
        mean_kl(before, resampling).interval(),
        mean_kl(after, resampling).interval(),
        paired_difference(after, before, resampling).interval(),
        rates.strength,
    )
