"""`Course`: an event and its plan as interventions make them, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mf_llm.errors import InputError
from mf_llm.events import Event, Turn
from mf_llm.events.event import State
from mf_llm.interventions.intervention import (
    AddedAction,
    AddedActions,
    AmendedSignal,
    ChangedPeople,
    Intervention,
    ReplacedSignal,
    TopicLine,
)
from mf_llm.models.prompts import NO_SIGNAL_YET, render_state
from mf_llm.simulation.keyed_draws import stream_key, uniform_number
from mf_llm.simulation.rollout import INTERVENTION, ActionRow
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step


class Course:
    """What the people of an event come upon at each step.

    Args:
        event: the event as it is.
        config, plan: how it is simulated.
        interventions: what is done to it, in this order where several act on one step.

    Attributes:
        event: the event, with those who come in addition behind its turns.
        plan: the plan, with them in its steps.
        interventions: as given.

    Raises:
        InputError: an intervention does not fit the event: it names a step that is not simulated or a category that
            does not exist, or changes a signal that nobody sees.
    """

    def __init__(
        self, event: Event, config: SimulationConfig, plan: Plan, interventions: Sequence[Intervention] = ()
    ) -> None:
        self.interventions, self._config = tuple(interventions), config
        self._with_text = config.signal in ("text", "both")
        for number, one in enumerate(self.interventions, 1):
            _check(one, f"intervention {number} of event {event.event_id!r}", config, plan)
        self._topics: dict[str, Event] = {}
        self._actors: dict[int, list[tuple[int, AddedAction]]] = {}
        self._added: list[Turn] = []
        self.event, self.plan = event, plan
        if any(isinstance(one, ChangedPeople | AddedActions) for one in self.interventions):
            self.plan = replace(plan, steps=tuple(self._populated(step) for step in plan.steps))
            self.event = replace(event, turns=event.turns + tuple(self._added))

    def event_at(self, step: Step) -> Event:
        """The event as it is known at a step: its topic, with what was added to it by then."""
        lines = [one.topic for one in self._on(step) if isinstance(one, TopicLine)]
        if not lines:
            return self.event
        topic = " ".join([self.event.topic, *lines])
        if topic not in self._topics:
            self._topics[topic] = replace(self.event, topic=topic)
        return self._topics[topic]

    def text_at(self, step: Step, text: str | None) -> str | None:
        """The text that the mean-field model goes on from.

        Args:
            step: the step that begins.
            text: what it wrote last, or None.
        """
        return self._changed(step, text) if self._with_text else text

    def shown_at(self, step: Step, signal: str | None) -> str | None:
        """The signal that people see.

        Args:
            step: the step that begins.
            signal: what they would see; where a text is part of it, `text_at` is in it already.
        """
        if self._with_text and not any(isinstance(one, ReplacedSignal) for one in self._on(step)):
            return signal
        return self._changed(step, signal)

    def rows_at(self, step: Step) -> list[ActionRow]:
        """What is done at a step by people who were added."""
        return [
            ActionRow(
                step=step.index,
                turn=turn,
                weight=1.0,
                wave=step.wave,
                state="; ".join(render_state(action.who)),
                text=action.text,
                label=action.label,
                probabilities=None,
                source=INTERVENTION,
            )
            for turn, action in self._actors.get(step.index, ())
        ]

    def to_list(self) -> list[dict[str, Any]]:
        """The interventions as plain values."""
        return [one.to_dict() for one in self.interventions]

    def _on(self, step: Step) -> list[Intervention]:
        return [one for one in self.interventions if one.acts_on(step.index)]

    def _changed(self, step: Step, signal: str | None) -> str | None:
        for one in self._on(step):
            if isinstance(one, ReplacedSignal):
                signal = one.signal
            elif isinstance(one, AmendedSignal):
                # "Nothing yet" would contradict the line below it.
                before = [signal] if signal and signal != NO_SIGNAL_YET else []
                signal = "\n".join([*before, one.amend_signal])
        return signal

    def _populated(self, step: Step) -> Step:
        """The step with the people who take places or come in addition; gives a turn to everybody who was added."""
        for one in self._on(step):
            if isinstance(one, ChangedPeople):
                step = self._replaced(step, one) if one.share is not None else self._joined(step, one)
            elif isinstance(one, AddedActions):
                people = [action for action in one.actions for _ in range(action.times)]
                places = [(self._turn(action.who), action) for action in people]
                self._actors.setdefault(step.index, []).extend(places)
        return step

    def _replaced(self, step: Step, change: ChangedPeople) -> Step:
        places = [self._turn(profile) for profile in change.profiles]
        profiles = []
        for turn, profile in zip(step.turns, step.profiles, strict=True):
            key = stream_key(self._config.seed, self.event.event_id, turn, "changed people")
            if uniform_number(key) < float(change.share or 0):
                profile = places[int(uniform_number(key, 1) * len(places))]
            profiles.append(profile)
        return replace(step, resampled=tuple(profiles))

    def _joined(self, step: Step, change: ChangedPeople) -> Step:
        turns = []
        for n in range(change.add or 0):
            key = stream_key(self._config.seed, self.event.event_id, step.index, n, "added people")
            turns.append(self._turn(change.profiles[int(uniform_number(key) * len(change.profiles))]))
        resampled = (*step.resampled, *turns) if step.resampled else ()
        return replace(step, turns=(*step.turns, *turns), resampled=resampled)

    def _turn(self, state: State) -> int:
        """A turn behind those of the event, for somebody who was added."""
        self._added.append(Turn(state=state))
        return len(self.event.turns) + len(self._added) - 1


def _check(one: Intervention, where: str, config: SimulationConfig, plan: Plan) -> None:
    if not isinstance(one, Intervention):
        raise InputError(f"`interventions` must hold interventions, got {one!r} as {where}; make one of its classes.")
    simulated = [step.index for step in plan.steps if not step.real]
    for name in ("step", "until"):
        value = getattr(one, name)
        if value is not None and not simulated[0] <= value <= simulated[-1]:
            before = "; what really happened in the warm-up cannot be changed" if value < simulated[0] else ""
            raise InputError(
                f"`{name}` must be a simulated step, {simulated[0]} to {simulated[-1]}, got {value} in {where}{before}"
                "; name one of these steps."
            )
    if isinstance(one, ReplacedSignal | AmendedSignal) and config.signal == "none":
        raise InputError(
            f'{where} must not change the signal with signal="none": nobody sees it, and nothing would happen; '
            "simulate with a signal."
        )
    if isinstance(one, ChangedPeople) and plan.is_population:
        raise InputError(
            f"{where} must not change the people of a population, who are given; simulate another population instead."
        )
    if isinstance(one, AddedActions):
        for action in one.actions:
            _check_action(action, where, plan)


def _check_action(action: AddedAction, where: str, plan: Plan) -> None:
    options = plan.answer.options
    if action.label is not None and action.label not in options:
        known = f"one of {', '.join(options)}" if options else "left out: nothing is counted here"
        raise InputError(
            f"`label` of an added action must be {known}, got {action.label!r} in {where}; mend it or leave it out."
        )
    if action.label is None and not action.text.strip():
        raise InputError(f"`text` of an added action must be given where there is no label, got none in {where}.")
