"""`Ranking`: candidates by their effect on a target, and successive halving: bad ones stop early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import LEVEL, Interval
from mf_llm.interventions.effects import Effects, paired_interval
from mf_llm.interventions.plan import Candidate, InterventionPlan, Target

# Fewer seeds than this say too little to give a candidate up.
MIN_SEEDS = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One candidate.

    Attributes:
        name, cost, placebo: as in the plan.
        n_seeds: how many branches it was given.
        effect: on the share of the target (positive: it rises), with a simultaneous interval.
        net: what it is ranked by: the effect towards the goal, less the cost's weight.
        behind: the best candidate minus this one, in `net`, with a simultaneous interval; None for the best itself.
        dominated_by: a candidate that costs no more and does no worse, and one of the two better.
    """

    name: str
    cost: float
    placebo: bool
    n_seeds: int
    effect: Interval
    net: float
    behind: Interval | None
    dominated_by: str | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates, best first, placebos last.

    Attributes:
        target: what they are for.
        ranked: the candidates.
        level: confidence of all intervals together.
        n_intervals: how many intervals that is, candidates times rounds (Bonferroni).
    """

    target: Target
    ranked: tuple[Ranked, ...]
    level: float
    n_intervals: int

    @property
    def best(self) -> Ranked | None:
        """The candidate with the highest `net` that is no placebo."""
        return next((one for one in self.ranked if not one.placebo), None)

    @property
    def recommended(self) -> Ranked | None:
        """The best candidate, if its interval lies on the goal's side of zero; else None."""
        best = self.best
        if best is None or not _helps(best.effect, self.target) or best.net <= 0:
            return None
        return best

    @property
    def equals(self) -> tuple[str, ...]:
        """Candidates that cannot be told from the best one."""
        return tuple(
            one.name
            for one in self.ranked
            if one.behind is not None and not one.placebo and (one.behind.low is None or one.behind.low <= 0)
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dict per candidate, best first."""
        found = []
        for place, one in enumerate(self.ranked, 1):
            behind = one.behind or Interval(0.0, None, None)
            record = asdict(one) | {"place": place}
            record |= {"effect": one.effect.value, "low": one.effect.low, "high": one.effect.high}
            record |= {"behind": behind.value, "behind_low": behind.low, "behind_high": behind.high}
            found.append(record)
        return found


RANKING_COLUMNS = (
    "place",
    "name",
    "cost",
    "placebo",
    "n_seeds",
    "effect",
    "low",
    "high",
    "net",
    "behind",
    "behind_low",
    "behind_high",
    "dominated_by",
)


def rounds_of(n_candidates: int, n_seeds: int) -> list[int]:
    """How many seeds candidates have been given by the end of each round of successive halving.

    The better half goes on, with twice as many seeds, until two are left, which get all of them (Karnin, Koren and
    Somekh 2013). Nobody is given up on fewer than 4 seeds.

    Args:
        n_candidates: how many begin.
        n_seeds: how many there are.
    """
    halvings = max(0, math.ceil(math.log2(max(n_candidates, 2))) - 1)
    rounds = [n_seeds]
    while halvings and rounds[0] // 2 >= MIN_SEEDS:
        rounds.insert(0, rounds[0] // 2)
        halvings -= 1
    return rounds


def rank_candidates(
    plan: InterventionPlan,
    seeds: Sequence[int],
    measure: Callable[[Mapping[str, Sequence[int]]], Effects],
    *,
    halving: bool = True,
) -> tuple[Ranking, Effects]:
    """Measures candidates, gives up bad ones early, and ranks them.

    Args:
        plan: candidates and target.
        seeds: the seeds that there are parents of.
        measure: makes the branches of candidate -> seeds and measures all of them; asked again with more seeds for
            those that go on.
        halving: False gives every candidate all seeds.

    Returns:
        The ranking, and the effects of all branches that were made.

    Raises:
        InputError: there is no target, or it does not fit the event.
    """
    if plan.target is None:
        raise InputError("`target` must be in a plan whose candidates are ranked, got none; say what they are for.")
    target, seeds = plan.target, list(seeds)
    rivals = [one for one in plan.candidates if not one.placebo]
    rounds = rounds_of(len(rivals), len(seeds)) if halving else [len(seeds)]
    going = list(rivals)
    wanted: dict[str, list[int]] = {}
    effects: Effects | None = None
    for number, n in enumerate(rounds):
        last = number == len(rounds) - 1
        wanted |= {one.name: seeds[:n] for one in going}
        if last:
            wanted |= {one.name: seeds for one in plan.candidates if one.placebo}
        effects = measure(wanted)
        if not last:
            keep = max(2, math.ceil(len(going) / 2))
            order = np.argsort([-_net(effects, one, target).mean() for one in going], kind="stable")
            going = [going[place] for place in order[:keep]]
    assert effects is not None
    return rank(plan, effects, n_rounds=len(rounds)), effects


def rank(plan: InterventionPlan, effects: Effects, *, n_rounds: int = 1, level: float = LEVEL) -> Ranking:
    """Ranks candidates by effects that were measured.

    All intervals hold together with probability `level`, whichever candidates the rounds kept and whichever is the
    best: each is at least as wide as if every candidate had been measured in every round (Bonferroni).

    Args:
        plan: candidates and target.
        effects: of them.
        n_rounds: rounds of successive halving.
        level: confidence of all intervals together.

    Raises:
        InputError: as `rank_candidates`.
    """
    if plan.target is None:
        raise InputError("`target` must be in a plan whose candidates are ranked, got none; say what they are for.")
    target = plan.target
    candidates = [one for one in plan.candidates if one.name in effects.seeds]
    nets = {one.name: _net(effects, one, target) for one in candidates}
    order = sorted(candidates, key=lambda one: (one.placebo, -float(nets[one.name].mean())))
    rivals = [one for one in order if not one.placebo]
    best = rivals[0] if rivals else None
    n_intervals = len(candidates) * n_rounds
    each = 1 - (1 - level) / n_intervals
    # Any of the pairs could have turned out to be that of the best and another one.
    pairs = max(1, len(candidates) * (len(candidates) - 1) // 2) * n_rounds
    ranked = []
    for one in order:
        behind = None
        if best is not None and one is not best:
            behind = paired_interval(_paired(effects, best.name, one.name, nets), level=1 - (1 - level) / pairs)
        ranked.append(
            Ranked(
                name=one.name,
                cost=float(one.cost),
                placebo=one.placebo,
                n_seeds=len(effects.seeds[one.name]),
                effect=paired_interval(effects.at(one.name, target), level=each),
                net=float(nets[one.name].mean()),
                behind=behind,
                dominated_by=_dominating(one, rivals, nets, target),
            )
        )
    return Ranking(target=target, ranked=tuple(ranked), level=level, n_intervals=n_intervals)


def _net(effects: Effects, one: Candidate, target: Target) -> Floats:
    """What a candidate is ranked by, seed by seed, `[S]`."""
    return target.sign * effects.at(one.name, target) - target.cost_weight * one.cost


def _paired(effects: Effects, best: str, other: str, nets: Mapping[str, Floats]) -> Floats:
    """Best minus other over the seeds that both have."""
    first = dict(zip(effects.seeds[best], nets[best], strict=True))
    second = dict(zip(effects.seeds[other], nets[other], strict=True))
    return np.array([first[seed] - second[seed] for seed in first if seed in second])


def _dominating(one: Candidate, rivals: Sequence[Candidate], nets: Mapping[str, Floats], target: Target) -> str | None:
    def gain(each: Candidate) -> float:
        return float(nets[each.name].mean()) + target.cost_weight * each.cost

    for other in rivals:
        better = gain(other) > gain(one) or other.cost < one.cost
        if other is not one and gain(other) >= gain(one) and other.cost <= one.cost and better:
            return other.name
    return None


def _helps(effect: Interval, target: Target) -> bool:
    bound = effect.low if target.sign > 0 else effect.high
    return bound is not None and target.sign * bound > 0
