"""How much a simulation will cost: steps, tokens, time; known before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from mf_llm.atomic_files import write_json
from mf_llm.events import Event
from mf_llm.models.prompts import render_state
from mf_llm.simulation.rollout import Rollout
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan

# A generated token costs about as much as this many encoded ones (SmolLM2-135M, 16 people at a time, two cores).
DECODE_COST = 8
# Encoded tokens per second of SmolLM2-135M on two cores in bfloat16; replaced by what was measured in earlier runs.
DEFAULT_SPEED = 900.0
_INSTRUCTION_TOKENS, _SIGNAL_TOKENS, _POLICY_TOKENS, _MEAN_FIELD_TOKENS = 150, 90, 50, 96


@dataclass(frozen=True)
class Work:
    """What some simulations are made of; two of a kind add up.

    Attributes:
        events, steps, people: counts (people: those who are simulated).
        prompt_tokens: tokens to encode.
        new_tokens: tokens to generate, at most.
    """

    events: int = 0
    steps: int = 0
    people: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def counted(self, n_seeds: int) -> str:
        """Rollouts, steps and people in words."""
        seeds = f" ({n_seeds} seeds)" if n_seeds > 1 else ""
        return f"{self.events} rollouts{seeds}, {self.steps} steps, {self.people:,} people to simulate"


@dataclass(frozen=True)
class Estimate(Work):
    """Work of a model in this process: ``prompt_tokens`` counts shared prefixes once."""

    @classmethod
    def total(cls, parts: Sequence[Estimate]) -> Estimate:
        """The sum."""
        return sum(parts, cls())

    @classmethod
    def of_rollouts(cls, rollouts: Sequence[Rollout]) -> Estimate:
        """What finished rollouts really took."""
        rows = [row for rollout in rollouts for row in rollout.steps]
        return cls(
            len(rollouts),
            len(rows),
            sum(row.n_people for row in rows if not row.real),
            sum(row.prompt_tokens for row in rows),
            sum(row.new_tokens for row in rows),
        )

    @property
    def cost(self) -> int:
        """Tokens, generated ones weighted by what they cost more."""
        return self.prompt_tokens + DECODE_COST * self.new_tokens

    def describe(self, model: str, speed: float | None, *, n_seeds: int = 1) -> str:
        """One line for the terminal."""
        seconds = self.cost / (speed or DEFAULT_SPEED)
        basis = "as measured here before" if speed else "a first guess for two cores"
        return (
            f"{self.counted(n_seeds)} with {model}: about {self.prompt_tokens:,} tokens to encode and at most "
            f"{self.new_tokens:,} to generate; at most about {duration(seconds)} ({basis})."
        )


def estimate(events: Sequence[Event], plans: Sequence[Plan], config: SimulationConfig) -> Estimate:
    """Counts the steps and estimates the tokens (from characters: no tokenizer is loaded).

    Args:
        events: the events.
        plans: their plans.
        config: how they are simulated.
    """
    return Estimate.total([_one(event, plan, config) for event, plan in zip(events, plans, strict=True)])


def remembered_speed(model: str, dtype: str) -> float | None:
    """Cost per second that was measured on this machine before, or None."""
    try:
        speed = json.loads(_speed_file().read_text())[f"{model} {dtype}"]
        return speed if isinstance(speed, float) and speed > 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_speed(model: str, dtype: str, done: Estimate, seconds: float) -> None:
    """Keeps what a run measured, for later estimates. A cache that cannot be written is no reason to fail."""
    path = _speed_file()
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known | {f"{model} {dtype}": round(done.cost / max(seconds, 1e-3), 1)})
    except (OSError, ValueError):
        return


def duration(seconds: float) -> str:
    """Seconds in words, in the unit that fits."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _one(event: Event, plan: Plan, config: SimulationConfig) -> Estimate:
    rollout_steps = [step for step in plan.steps if not step.real]
    choices = 0 if plan.answer.kind == "text" else sum(_tokens(option) + 1 for option in plan.answer.options)
    shared = _INSTRUCTION_TOKENS + choices + _tokens(event.topic)
    shared += 0 if config.signal == "none" else _SIGNAL_TOKENS
    if config.signal in ("statistics", "both") and plan.answer.options:
        opening = _tokens(plan.answer.opening) + 2  # full stop and line break
        shared += config.shown_answers * (opening + choices // len(plan.answer.options))
    orders = min(config.option_orders, len(plan.answer.options)) if choices else 1
    # An anchored readout asks the policy and its base (without adapters it asks neither, which is not known here).
    passes = 2 if config.anchored else 1
    prompt = passes * orders * min(shared, config.max_prompt_tokens) * len(rollout_steps)
    new = 0
    if config.calibrated:
        prompt += orders * (_INSTRUCTION_TOKENS + 2 * choices)
    for step in rollout_steps:
        states = ["\n".join(render_state(event.turns[i].state)) for i in step.profiles]
        lengths = {state: min(_tokens(state), config.max_state_tokens) + 12 for state in states}
        # The people of a state take turns: in a population it is read in every order.
        readings = passes * orders if step.counts else passes
        if plan.answer.kind != "text":
            prompt += readings * sum(length + choices for length in lengths.values())
        if plan.answer.kind != "choice":
            everybody = config.writers is None or plan.answer.kind == "text"
            able = min(config.listed_actions, step.n_people) if step.counts else len(states)
            writers = able if everybody else min(config.writers or 0, able)
            prompt += sum(lengths[state] for state in states) * writers // len(states)
            new += writers * (config.max_new_tokens or _POLICY_TOKENS)
    if config.signal in ("text", "both"):
        signals = len(plan.steps) - 1
        listed = min(config.listed_actions, config.agents_per_step) * 30
        prompt += signals * min(_INSTRUCTION_TOKENS + _SIGNAL_TOKENS + listed, config.max_prompt_tokens)
        new += signals * (config.signal_max_tokens or _MEAN_FIELD_TOKENS)
    return Estimate(1, len(plan.steps), sum(step.n_people for step in rollout_steps), prompt, new)


def _tokens(text: str) -> int:
    """About 4 Latin characters, or two bytes of other scripts, per token."""
    size = len(text.encode("utf-8", "surrogatepass"))
    return -(-size // 4) + (size - len(text)) // 4


def _speed_file() -> Path:
    from mf_llm.models.default_backbone import cache_folder

    return cache_folder() / "speed.json"
