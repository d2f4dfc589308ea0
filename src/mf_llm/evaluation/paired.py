"""Paired differences between methods: the same events, people and training seeds are drawn for both.

What is resampled, all at once in each of the B bootstrap samples:

* **events**, stratified by data set, blocks of one stream in runs of 3 (`event_draws`);
* in surveys **respondents** instead, with their weights, in the human and the simulated shares together;
* **training seeds**, with replacement. One draw holds for all data sets, since a seed is one model that was judged on
  all of them. Methods trained with the same seeds share the draw (a difference is then one of pairs of models that
  saw the same data in the same order); others are drawn independently. A method with one seed has no such part.
  With S seeds the bootstrap shows (S - 1) / S of the variance between models: a third is missing at 3 seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import N_BOOTSTRAP, event_draws, generator
from mf_llm.evaluation.judged_event import JudgedEvent
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.evaluation.scoring import Replicated, respondent_draws, survey_score

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MethodScores:
    """One method on one data set.

    Attributes:
        method: its name.
        data_set: name of the data set.
        seeds: training seed -> the judged events, the same for every seed (sorted by id when made). A method without
            training has one entry.
    """

    method: str
    data_set: str
    seeds: Mapping[int, Sequence[JudgedEvent]]

    def __post_init__(self) -> None:
        if not self.seeds or not all(self.seeds.values()):
            raise InputError(
                f"`seeds` must hold judged events for each seed of {self.method!r} on {self.data_set!r}, got none for "
                "some; there is no mean over nothing; leave the seed out or simulate it."
            )
        ordered = {
            seed: tuple(sorted(events, key=lambda judged: judged.plan.event.event_id))
            for seed, events in sorted(self.seeds.items())
        }
        object.__setattr__(self, "seeds", ordered)
        first = next(iter(ordered))
        for seed, events in ordered.items():
            _check_same(self.name_of(first), ordered[first], self.name_of(seed), events)

    @property
    def events(self) -> Sequence[JudgedEvent]:
        """The judged events of the first seed."""
        return next(iter(self.seeds.values()))

    @property
    def plans(self) -> list[WindowPlan]:
        """The plans of the events (those of all seeds are equal)."""
        return [judged.plan for judged in self.events]

    @property
    def is_survey(self) -> bool:
        """Windows are waves: people are resampled instead of events."""
        return self.events[0].plan.windows.waves

    def kl(self) -> Floats:
        """KL of every seed and event, `[S, n]`, in nats."""
        return np.asarray([[judged.kl for judged in events] for events in self.seeds.values()])

    def name_of(self, seed: int) -> str:
        """What errors call one seed of the method."""
        return f"{self.method!r} on {self.data_set!r} (seed {seed})"


@dataclass(frozen=True)
class Resampling:
    """The bootstrap draws that all methods share: they follow from `seed` and from what is drawn, nothing else."""

    seed: int = 0
    n_bootstrap: int = N_BOOTSTRAP

    def of_events(self, data_set: str, plans: Sequence[WindowPlan]) -> NDArray[np.int64]:
        """Resampled events of a data set, `[B, n]`."""
        rng = generator(self.seed, "events", data_set)
        return event_draws([plan.event for plan in plans], rng, self.n_bootstrap)

    def of_respondents(self, data_set: str, plan: WindowPlan) -> list[Floats]:
        """How often each respondent of each judged wave is drawn, `[B, n_t]`."""
        rng = generator(self.seed, "people", data_set, plan.event.event_id)
        return respondent_draws(plan, rng, self.n_bootstrap)

    def of_seeds(self, seeds: Sequence[int]) -> Floats:
        """Share of each training seed in the draws, `[B, S]`; rows sum to 1."""
        n = len(seeds)
        rng = generator(self.seed, "training seeds", *map(str, seeds))
        return rng.multinomial(n, np.full(n, 1 / n), size=self.n_bootstrap) / n


def mean_kl(scores: MethodScores, resampling: Resampling) -> Replicated:
    """KL of a method on a data set: mean over events and training seeds, with its replicates `[B]`."""
    shares = resampling.of_seeds(tuple(scores.seeds))
    if scores.is_survey:
        return _mean_survey_kl(scores, shares, resampling)
    values = scores.kl()
    draws = resampling.of_events(scores.data_set, scores.plans)
    return Replicated(float(values.mean()), np.take_along_axis(shares @ values, draws, axis=1).mean(axis=1))


def mean_of_seeds(scores: Sequence[Replicated], shares: Floats) -> Replicated:
    """Mean over training seeds, which are resampled with the `shares` `[B, S]` of `Resampling.of_seeds`."""
    known = [score.replicates for score in scores if score.replicates is not None]
    replicates = (shares * np.stack(known, axis=1)).sum(axis=1) if len(known) == len(scores) else None
    return Replicated(float(np.mean([score.value for score in scores])), replicates)


def _mean_survey_kl(scores: MethodScores, shares: Floats, resampling: Resampling) -> Replicated:
    groups = []
    for place, plan in enumerate(scores.plans):
        draws = resampling.of_respondents(scores.data_set, plan)
        judged = [events[place] for events in scores.seeds.values()]
        per_seed = [survey_score(plan, one.q, draws, answers=one.answers, sampled=one.sampled) for one in judged]
        groups.append(mean_of_seeds(per_seed, shares))
    return Replicated.mean_of(groups)


def check_same_events(a: MethodScores, b: MethodScores) -> None:
    """Refuses to pair methods that were not judged on the same people.

    Raises:
        InputError: the events, or the people in their windows, differ; the message names the first one.
    """
    if a.data_set != b.data_set:
        raise InputError(
            f"`a` and `b` must be judged on one data set, got {a.data_set!r} and {b.data_set!r}; their events cannot "
            "be paired; compare within a data set, then take the mean."
        )
    _check_same(repr(a.method), a.events, repr(b.method), b.events, where=f" of {a.data_set!r}")


def _check_same(
    name_a: str, a: Sequence[JudgedEvent], name_b: str, b: Sequence[JudgedEvent], *, where: str = ""
) -> None:
    ids_a, ids_b = ({judged.plan.event.event_id for judged in events} for events in (a, b))
    if ids_a != ids_b or len(a) != len(b):
        only = sorted(ids_a - ids_b) or sorted(ids_b - ids_a) or ["an event twice"]
        raise InputError(
            f"the events{where} must be the same for {name_a} and {name_b}, got {len(a)} and {len(b)} "
            f"({only[0]!r} in one of them only); a difference would compare other people; simulate the missing events."
        )
    for one, other in zip(a, b, strict=True):
        if one.windows_key != other.windows_key:
            raise InputError(
                f"the judged windows of event {one.plan.event.event_id!r}{where} must be the same for {name_a} and "
                f"{name_b}, got {one.plan.n_windows} and {other.plan.n_windows} windows of other people; a difference "
                "would compare other people; simulate both with the same warm-up, to the end."
            )


def paired_difference(a: MethodScores, b: MethodScores, resampling: Resampling) -> Replicated:
    """``KL_a - KL_b`` on the same events of one data set, with the same draws for both; below 0 where `a` is better.

    Raises:
        InputError: `a` and `b` were not judged on the same events and windows.
    """
    check_same_events(a, b)
    return mean_kl(a, resampling) - mean_kl(b, resampling)
