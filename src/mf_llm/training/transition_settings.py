"""`TransitionSettings`: which transitions are made of an event."""

from __future__ import annotations

from dataclasses import dataclass

from mf_llm.argument_checks import check_types, check_whole
from mf_llm.errors import InputError
from mf_llm.events.validation import show
from mf_llm.simulation.simulation_config import ACTIONS, SimulationConfig, check_shown_answers

HORIZONS = ("next", "all")
DEFAULT_WARM_UPS = (8, 16, 24, 32, 48)
MIN_TARGETS = 8


@dataclass(frozen=True, kw_only=True)
class TransitionSettings:
    """Which transitions are made of an event; a transition is a past, and the people who act after it.

    Attributes:
        agents_per_step: people in a step, of the history and (horizon "next") of the target.
        dimension: the dimension whose labels count; the first of each data set by default.
        action: what an action is; see `SimulationConfig.action`.
        listed_actions: how many actions of a history step are told (a keyed weighted sample if there are more).
        shown_answers: how many answers stand below the shares of the statistics; see `SimulationConfig.shown_answers`.
        max_history_steps: how many of the last steps before the target are told.
        horizon: who the target is: "next" (the next `agents_per_step` labelled people, or the next wave), or "all"
            (everybody after the warm-up, up to the protocol's 304th labelled person).
        transitions_per_event: transitions of an event, each with a warm-up of its own as long as there are enough.
        transitions_per_survey: the same for an event with waves, of which there are few, with many people each.
        warm_ups: lengths of the warm-up, in labelled actions (all actions where nobody is labelled). By default 8, 16,
            24, 32 and 48, as far as 8 labelled people are left after them; lengths given here need leave only one.
            In an event with waves every wave but the last can end the warm-up, whatever stands here.
        max_states: distinct states among the target people that are kept. A training step costs as much as there are
            distinct states.
        max_people: target people that are kept.
        seed: of the keyed draws (warm-ups, people, listed actions).
    """

    agents_per_step: int = 16
    dimension: str | None = None
    action: str = "auto"
    listed_actions: int = 16
    shown_answers: int = 0
    max_history_steps: int = 3
    horizon: str = "next"
    transitions_per_event: int = 1
    transitions_per_survey: int = 16
    warm_ups: tuple[int, ...] | None = None
    max_states: int = 16
    max_people: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("horizon", HORIZONS), ("action", ACTIONS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"`{name}` must be one of {', '.join(allowed)}, got {show(getattr(self, name))}.")
        whole = ("agents_per_step", "listed_actions", "max_history_steps", "transitions_per_event")
        for name in (*whole, "transitions_per_survey", "max_states", "max_people"):
            check_whole(name, getattr(self, name), minimum=1)
        check_whole("seed", self.seed, minimum=0)
        check_shown_answers(self.shown_answers)
        check_types(self, ("dimension",))
        if self.warm_ups is None:
            return
        if not isinstance(self.warm_ups, list | tuple) or not self.warm_ups:
            raise InputError(
                f"`warm_ups` must be a tuple of lengths such as (8, 16), got {show(self.warm_ups)}; no warm-up could "
                "end anywhere; leave it out for the default lengths."
            )
        for length in self.warm_ups:
            check_whole("warm_ups", length, minimum=1)
        # Order and repetition of the lengths must not change what is drawn, or the cache would hold it twice.
        object.__setattr__(self, "warm_ups", tuple(sorted(set(self.warm_ups))))

    @property
    def least_targets(self) -> int:
        """Labelled people who must be left after a warm-up."""
        return MIN_TARGETS if self.warm_ups is None else 1

    def simulation(self, dimension: str | None, warm_up: int | str) -> SimulationConfig:
        """The simulation whose warm-up is told: its steps and its form of answers are those of the transition.

        Args:
            dimension: the dimension whose labels count, or None for free text.
            warm_up: labelled actions, or the name of the last wave.
        """
        return SimulationConfig(
            action=self.action,
            dimension=dimension,
            agents_per_step=self.agents_per_step,
            listed_actions=self.listed_actions,
            shown_answers=self.shown_answers,
            warm_up=warm_up,
            seed=self.seed,
        )
