"""`Effects`: what interventions changed, step by step, as paired differences between branches and their parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.atomic_files import write_csv
from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import LEVEL, Interval
from mf_llm.interventions.plan import Target
from mf_llm.simulation.rollout import Rollout

Floats = NDArray[np.float64]

EFFECT_COLUMNS = ("candidate", "step", "category", "n_seeds", "without", "with", "effect", "low", "high")
SEED_COLUMNS = ("candidate", "seed", "step", "category", "without", "with", "effect")


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """The effect of each candidate on each category at each step, seed by seed.

    Attributes:
        event_id: the event.
        categories: K categories.
        steps: indices of the T simulated steps.
        seeds: candidate -> its S seeds.
        without: candidate -> shares of the parents `[S, T, K]`; NaN where a step has no reading.
        changed: candidate -> shares of the branches `[S, T, K]`.
    """

    event_id: str
    categories: tuple[str, ...]
    steps: tuple[int, ...]
    seeds: dict[str, tuple[int, ...]]
    without: dict[str, Floats]
    changed: dict[str, Floats]

    def differences(self, candidate: str) -> Floats:
        """Branch minus parent, `[S, T, K]`."""
        return self.changed[candidate] - self.without[candidate]

    def at(self, candidate: str, target: Target) -> Floats:
        """The effect on the share that a target names, one number per seed, `[S]`: positive where the share rises.

        Raises:
            InputError: the target names a category or a step that there is not, or one without a reading.
        """
        check_target(target, self.categories, self.steps)
        within = [place for place, step in enumerate(self.steps) if target.first <= step <= target.last]
        found = self.differences(candidate)[:, within, self.categories.index(target.category)].mean(axis=1)
        if not np.isfinite(found).all():
            seed = self.seeds[candidate][int(np.flatnonzero(~np.isfinite(found))[0])]
            raise InputError(
                f"the target must be at steps with a reading, but nobody of a step in {target.first} to {target.last} "
                f"answered with {candidate!r} and seed {seed}; no effect is known; aim at other steps."
            )
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One dict per candidate, step and category, with the keys `EFFECT_COLUMNS`."""
        found = []
        for name, seeds in self.seeds.items():
            for t, step in enumerate(self.steps):
                for k, category in enumerate(self.categories):
                    without, changed = self.without[name][:, t, k], self.changed[name][:, t, k]
                    effect = paired_interval(changed - without)
                    values = (name, step, category, len(seeds), without.mean(), changed.mean(), effect.value)
                    found.append(dict(zip(EFFECT_COLUMNS, (*values, effect.low, effect.high), strict=True)))
        return found

    def seed_rows(self) -> list[dict[str, Any]]:
        """One dict per candidate, seed, step and category, with the keys `SEED_COLUMNS`."""
        return [
            dict(zip(SEED_COLUMNS, (name, seed, step, category, a, b, b - a), strict=True))
            for name, seeds in self.seeds.items()
            for s, seed in enumerate(seeds)
            for t, step in enumerate(self.steps)
            for k, category in enumerate(self.categories)
            for a, b in [(self.without[name][s, t, k], self.changed[name][s, t, k])]
        ]

    def save(self, folder: str | Path) -> Path:
        """Writes ``effects.csv`` and ``effects_by_seed.csv``, each whole or not at all."""
        folder = Path(folder)
        write_csv(folder / "effects.csv", EFFECT_COLUMNS, self.rows())
        write_csv(folder / "effects_by_seed.csv", SEED_COLUMNS, self.seed_rows())
        return folder


def measure_effects(parents: Sequence[Rollout], branches: Mapping[str, Sequence[Rollout]]) -> Effects:
    """Holds branches against the parents they left.

    Args:
        parents: rollouts of one event without interventions, with different seeds.
        branches: candidate -> its branches, each of a parent with the same seed (not every parent needs one).

    Raises:
        InputError: a branch has no parent, or nothing is counted in this event.
    """
    own = {parent.seed: parent for parent in parents}
    if not parents or len(own) < len(parents) or len({parent.event_hash for parent in parents}) > 1:
        raise InputError(
            f"`parents` must be rollouts of one event with different seeds, got {len(parents)} with "
            f"{len(own)} different seeds; branches could not be held against them."
        )
    first = parents[0]
    if not first.categories:
        raise InputError(
            f"`parents` must have a dimension, but event {first.event_id!r} was simulated as free text; there are no "
            "shares that could change; simulate with a dimension."
        )
    steps = tuple(step.step for step in first.steps if not step.real)
    seeds, without, changed = {}, {}, {}
    for name, made in branches.items():
        for one in made:
            if one.event_hash != first.event_hash or one.seed not in own:
                raise InputError(
                    f"`branches` must have parents, got one of {name!r} of event {one.event_id!r} with seed {one.seed}"
                    ", which has none; give the rollouts it left."
                )
        if made:
            seeds[name] = tuple(one.seed for one in made)
            without[name] = np.stack([_shares(own[one.seed]) for one in made])
            changed[name] = np.stack([_shares(one) for one in made])
    return Effects(
        event_id=first.event_id,
        categories=tuple(first.categories),
        steps=steps,
        seeds=seeds,
        without=without,
        changed=changed,
    )


def check_target(target: Target, categories: Sequence[str], steps: Sequence[int]) -> None:
    """Refuses a target that an event does not have.

    Raises:
        InputError: saying which categories or steps there are.
    """
    if target.category not in categories:
        raise InputError(
            f"`category` of the target must be one of {', '.join(categories)}, got {target.category!r}; mend it."
        )
    if not steps[0] <= target.first <= target.last <= steps[-1]:
        raise InputError(
            f"the target must be at simulated steps, {steps[0]} to {steps[-1]}, got {target.first} to {target.last}; "
            "name some of these."
        )


def paired_interval(differences: Floats, level: float = LEVEL) -> Interval:
    """The mean of paired differences, one per seed, and its interval by Student's t.

    Seeds are independent, so that their differences are. Without bounds for one seed alone.

    Args:
        differences: `[S]`.
        level: of confidence; a family of intervals needs one nearer to 1 (see `mf_llm.interventions.ranking`).
    """
    from scipy.stats import t

    n = len(differences)
    mean = float(np.mean(differences))
    if n < 2:
        return Interval(mean, None, None)
    half = float(t.ppf((1 + level) / 2, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def _shares(rollout: Rollout) -> Floats:
    missing = (np.nan,) * len(rollout.categories)
    return np.array([step.shares or missing for step in rollout.steps if not step.real], dtype=np.float64)
