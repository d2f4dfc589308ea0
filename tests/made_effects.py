"""Made rollouts of an event with and without interventions, whose effects are chosen; no model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mf_llm.interventions import Candidate, Effects, InterventionPlan, Target, measure_effects
from mf_llm.simulation import SimulationConfig
from mf_llm.simulation.rollout import ActionRow, Rollout, StepRow

CATEGORIES = ("support", "oppose", "question", "neutral")
N_WARM_UP, N_STEPS, N_PEOPLE = 3, 11, 4
TEXTS = (
    "Half my jobs are across the river.",
    "Better eighteen months now than a bridge that falls down.",
    "What happens with the ambulances?",
    "I walk anyway, so it is the same to me.",
)


def make_parent(
    seed: int, *, event_id: str = "bridge", data_set: str | None = "forum", weights: str = "1234abcd", **config
) -> Rollout:
    """A rollout of 11 steps of 4 people, 3 of them warm-up; a third of the people oppose, more or less."""
    rng = np.random.default_rng(seed)
    known = SimulationConfig(**({"signal": "both", "readout": "exact", "seed": seed} | config)).to_dict()
    rollout = Rollout(
        event_id=event_id,
        event_hash="ab" * 32,
        data_set=data_set,
        topic="The council wants to close the Mill Bridge for eighteen months.",
        dimension="stance",
        categories=CATEGORIES,
        seed=seed,
        config=known | {"resolved": {"action": config.get("action", "label_text"), "dimension": "stance"}},
        versions={"mf_llm": "0.1.0", "policy_base": "tiny/backbone", "weights": weights, "dtype": "float32"},
    )
    level = np.array([0.25, 0.4, 0.15, 0.2]) + 0.03 * rng.standard_normal(4)
    for step in range(N_STEPS):
        shares = np.clip(level + 0.02 * rng.standard_normal(4) + [0, 0.01 * step, 0, 0], 0.02, None)
        _add_step(rollout, step, shares / shares.sum(), "wrote")
    return rollout


def make_branch(parent: Rollout, candidate: Candidate, shift: Sequence[float], said: str = "wrote") -> Rollout:
    """A branch whose shares from the first intervened step on are those of its parent and `shift` (sums to zero)."""
    first = min(one.step for one in candidate.interventions)
    found = replace(parent, actions=[row for row in parent.actions if row.step < first], steps=parent.steps[:first])
    resolved = parent.config["resolved"] | {"interventions": [one.to_dict() for one in candidate.interventions]}
    found.config = parent.config | {"resolved": resolved}
    for step in range(first, N_STEPS):
        _add_step(found, step, np.asarray(parent.steps[step].shares) + np.asarray(shift), said)
    return found


def made_effects(
    plan: InterventionPlan,
    changes: Mapping[str, Sequence[float]],
    *,
    seeds: Mapping[str, int] | None = None,
    n_seeds: int = 8,
    noise: float = 0.01,
    **parent,
) -> tuple[list[Rollout], dict[str, list[Rollout]], Effects]:
    """Parents, branches and their effects.

    Args:
        plan: the candidates.
        changes: candidate -> by how much each category changes.
        seeds: candidate -> how many seeds it was given, where fewer than `n_seeds`.
        noise: how much effects differ between seeds.
    """
    parents = [make_parent(seed, **parent) for seed in range(n_seeds)]
    branches: dict[str, list[Rollout]] = {}
    for number, one in enumerate(plan.candidates):
        rng = np.random.default_rng(100 + number)
        wobble = noise * rng.standard_normal(n_seeds)
        wobble -= wobble.mean()
        given = (seeds or {}).get(one.name, n_seeds)
        branches[one.name] = [
            make_branch(parent, one, np.add(changes[one.name], (extra, -extra, 0, 0)), f"with {one.name} wrote")
            for parent, extra in zip(parents[:given], wobble, strict=False)
        ]
    return parents, branches, measure_effects(parents, branches)


def make_plan(*candidates: Candidate, **target) -> InterventionPlan:
    """A plan to lower the share of `oppose` in steps 6 to 10."""
    known = {"category": "oppose", "steps": (6, 10), "goal": "lower"} | target
    return InterventionPlan(candidates=candidates, target=Target(**known), event="bridge")


def _add_step(rollout: Rollout, step: int, shares: np.ndarray, said: str) -> None:
    real = step < N_WARM_UP
    probabilities = tuple(float(share) for share in shares)
    for place in range(N_PEOPLE):
        label = CATEGORIES[place]
        rollout.actions.append(
            ActionRow(
                step=step,
                turn=N_PEOPLE * step + place,
                weight=1.0,
                wave=None,
                state=f"age: {30 + place}; occupation: {('plumber', 'nurse', 'teacher', 'retired')[place]}",
                text=f"Person {N_PEOPLE * step + place} {said}: {TEXTS[place]}",
                label=label,
                probabilities=None if real else probabilities,
                source="real" if real else "simulated",
            )
        )
    rollout.steps.append(
        StepRow(
            step=step,
            real=real,
            wave=None,
            n_people=N_PEOPLE,
            n_failed=0,
            signal=f"Before step {step} people {said} that they need the bridge. 40% oppose.",
            signal_failure=None,
            shares=probabilities,
        )
    )
