"""The people of an event's steps: whose randomness is whose, who writes, and the rows of what they did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mf_llm.events import Event
from mf_llm.models.prompts import render_state
from mf_llm.simulation.keyed_draws import permutation, stream_key, uniform_number
from mf_llm.simulation.readout import option_orders
from mf_llm.simulation.rollout import FAILED, SIMULATED, ActionRow
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step


class PeopleStep:
    """What a step of people is, whoever answers for them.

    Args:
        event: topic, states, weights and waves are read from it, nothing else.
        config, plan: how to simulate.
    """

    def __init__(self, event: Event, config: SimulationConfig, plan: Plan) -> None:
        self.event, self.config, self.plan = event, config, plan
        options = plan.answer.options
        first = permutation(len(options), stream_key(config.seed, event.event_id, "option order"))
        self.orders: list[list[int] | None] = [*option_orders(first, config.option_orders)] if options else [None]
        self.prompt_tokens = self.new_tokens = 0

    def _order_of(self, turn: int) -> int:
        return turn % len(self.orders)

    def _key(self, step: Step, turn: int, purpose: str) -> int:
        return stream_key(self.config.seed, self.event.event_id, step.index, turn, purpose)

    def _writers(self, step: Step, labels: Sequence[int | None], failures: Sequence[str | None]) -> tuple[int, ...]:
        if self.plan.answer.kind == "choice":
            return ()
        silent = {k for k, option in enumerate(self.plan.answer.options) if option in self.plan.silent}
        able = [n for n in range(len(labels)) if failures[n] is None and labels[n] not in silent]
        if self.config.writers is None or self.plan.answer.kind == "text":
            return tuple(able)
        # Everybody has a number of their own, so that the sample depends on nobody's place.
        by_number = sorted(able, key=lambda n: uniform_number(self._key(step, step.turns[n], "writer")))
        return tuple(sorted(by_number[: self.config.writers]))

    def _row(
        self,
        step: Step,
        n: int,
        label: int | None,
        probabilities: np.ndarray | None,
        text: str,
        failure: str | None,
    ) -> ActionRow:
        turn = self.event.turns[step.turns[n]]
        exact = probabilities is not None and self.config.readout == "exact" and failure is None
        return ActionRow(
            step=step.index,
            turn=step.turns[n],
            weight=turn.weight,
            wave=turn.wave,
            state="; ".join(render_state(self.event.turns[step.profiles[n]].state)),
            text=text if failure is None else "",
            label=self.plan.answer.options[label] if label is not None and failure is None else None,
            probabilities=tuple(float(p) for p in probabilities) if exact and probabilities is not None else None,
            source=SIMULATED if failure is None else FAILED,
            failure=failure,
        )
