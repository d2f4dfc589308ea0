"""From windows and forecasts to KL, gain, G and pooled skill, each with its bootstrap replicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mf_llm.evaluation.distributions import clamp, kl_divergence, normalise, smooth
from mf_llm.evaluation.intervals import Interval, centred, interval, people_draws
from mf_llm.evaluation.protocol import WindowPlan

Floats = NDArray[np.float64]


@dataclass
class Replicated:
    """A score of a data set and its bootstrap replicates `[B]` (None: nothing to resample); differences are paired."""

    value: float
    replicates: Floats | None

    def interval(self) -> Interval:
        """The value with its 95 % interval."""
        return interval(self.value, self.replicates)

    def __sub__(self, other: Replicated) -> Replicated:
        value = self.value - other.value
        if self.replicates is None or other.replicates is None:
            return Replicated(value, None)
        return Replicated(value, self.replicates - other.replicates)

    def __truediv__(self, other: Replicated) -> Replicated:
        """The ratio; nan where the denominator is not positive, no interval where a replicate of it is not."""
        value = self.value / other.value if other.value > 0 else float("nan")
        if self.replicates is None or other.replicates is None or not np.all(other.replicates > 0):
            return Replicated(value, None)
        return Replicated(value, self.replicates / other.replicates)

    @classmethod
    def mean(cls, values: Sequence[float] | Floats, draws: NDArray[np.int64] | None) -> Replicated:
        """Mean over events, with replicates from resampled event indices `[B, n]`."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), None if draws is None else values[draws].mean(axis=1))

    @classmethod
    def mean_of(cls, parts: Sequence[Replicated]) -> Replicated:
        """Unweighted mean of independent parts (data sets, groups of a survey)."""
        known = [part.replicates for part in parts if part.replicates is not None]
        replicates = np.mean(known, axis=0) if len(known) == len(parts) else None
        return cls(float(np.mean([part.value for part in parts])), replicates)


@dataclass
class Gains:
    """Gains of one method over data sets, for G and the pooled skill S."""

    gains: dict[str, Replicated] = field(default_factory=dict)
    margins: dict[str, Replicated] = field(default_factory=dict)

    def add(self, name: str, gain: Replicated, margin: Replicated) -> None:
        """Adds a data set: its gain, and its margin ``KL_reference - KL_best-constant``."""
        self.gains[name], self.margins[name] = gain, margin

    def mean_gain(self) -> Replicated:
        """``G``: unweighted mean of the data sets' gains, in nats."""
        return Replicated.mean_of(list(self.gains.values()))

    def pooled_skill(self) -> Replicated:
        """``S = sum_d gain_d / sum_d (KL_reference,d - KL_best-constant,d)``; nan where the margin is not positive."""
        return self.mean_gain() / Replicated.mean_of(list(self.margins.values()))

    def to_dict(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "G": self.mean_gain().interval().to_dict(),
            "S": self.pooled_skill().interval().to_dict(),
            "data_sets": list(self.gains),
        }


def respondent_draws(plan: WindowPlan, rng: np.random.Generator, n_bootstrap: int) -> list[Floats]:
    """For each judged wave, how often each respondent is drawn: `[B, n_t]`."""
    return [people_draws(len(window), rng, n_bootstrap) for window in plan.judged]


def survey_score(
    plan: WindowPlan,
    q: Floats,
    draws: Sequence[Floats],
    *,
    answers: Sequence[Floats] | None = None,
    sampled: bool = False,
    members: NDArray[np.bool_] | None = None,
) -> Replicated:
    """KL of a survey event (mean over judged waves), with respondents resampled together with their weights.

    Args:
        plan: the whole event.
        q: simulated shares `[T, K]` of the people in question, clamped or smoothed already.
        draws: `respondent_draws` of the whole event, so that methods and subgroups share them.
        answers: per wave `[n_t, K]`, the probabilities or label counts of the judged people, summed over rollouts:
            they are then resampled in P and Q together. Without it Q is held fixed.
        sampled: the answers are label counts.
        members: mask over the turns of the event: only these people (a subgroup).
    """
    values, replicates = [], []
    # A resample without a simulated person has no KL: there are no bounds then.
    with np.errstate(invalid="ignore"):
        for number, window in enumerate(plan.judged):
            inside = np.ones(len(window), dtype=bool) if members is None else members[window]
            people = window[inside]
            own = plan.weights[people] / plan.weights[people].mean()
            weights = draws[number][:, inside] * own
            # A draw can leave a small subgroup empty: it then stands as it is.
            weights[weights.sum(axis=1) == 0] = own
            one_hot = np.eye(len(plan.categories))[plan.labels[people]]
            simulated = q[number] if answers is None else readout(weights @ answers[number][inside], sampled)
            values.append(float(kl_divergence(normalise(own @ one_hot), q[number])))
            replicates.append(centred(values[-1], kl_divergence(normalise(weights @ one_hot), simulated)))
    found = np.mean(replicates, axis=0)
    return Replicated(float(np.mean(values)), found if np.all(np.isfinite(found)) else None)


def readout(mass: Floats, sampled: bool) -> Floats:
    """Q `[..., K]` from summed probabilities (clamped at 1e-4) or from label counts (+0.5 per category)."""
    return smooth(mass) if sampled else clamp(normalise(mass))


def intervals_of(scores: Mapping[str, Replicated]) -> dict[str, dict[str, float | None]]:
    """Named scores as JSON objects with intervals."""
    return {name: score.interval().to_dict() for name, score in scores.items()}
