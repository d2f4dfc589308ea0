"""A population in the place of the people who come after an event's warm-up: who acts, step by step."""

from __future__ import annotations

from dataclasses import replace

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.events import Event, Turn
from mf_llm.simulation.population import Population
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step, plan_warm_up


def plan_population(
    event: Event, population: Population, config: SimulationConfig, n_steps: int
) -> tuple[Event, Plan]:
    """The event up to the end of its warm-up with the population behind it, and the plan of its simulation.

    After the warm-up every step is the whole population. What really came then is not in the event that is returned.

    Args:
        event: the event.
        population: who acts in each step.
        config: how to simulate. `max_actions` is not looked at: `n_steps` says how long.
        n_steps: how many steps there are after the warm-up.

    Returns:
        An event whose turns after the warm-up are the distinct states, each with its weight, and a plan whose
        simulated steps all have these turns.

    Raises:
        InputError: if the warm-up cannot be planned, there are no options to count, or `config` asks for people other
            than those of the population.
    """
    check_whole("n_steps", n_steps)
    if not isinstance(population, Population):
        raise InputError(
            f"`population` must be a Population, got {type(population).__name__}; nobody can act; make one with "
            "Population.from_table, from_records or from_event."
        )
    if population.n_people < 1:
        raise InputError(
            f"`population` must have at least one person, got weights that sum to {sum(population.weights)!r}; nobody "
            "can be counted; say how many there are with `population.scaled(n_people)`."
        )
    for name in ("people", "max_people_per_step"):
        value, default = getattr(config, name), getattr(SimulationConfig, name)
        if value != default:
            raise InputError(
                f"`{name}` must be {default!r} in a simulation of a population, got {value!r}; its people are given, "
                "and everybody acts; leave it out."
            )
    plan = plan_warm_up(event, config)
    if plan.answer.kind == "text":
        raise InputError(
            f"`action` must have options in a simulation of a population (event {event.event_id!r}), got free text "
            "without a dimension; there is nothing to count; give the event a dimension."
        )
    states = zip(population.states, population.weights, strict=True)
    # An event without anything to read is none. Nobody reads the actions of turns behind the warm-up.
    action = "" if plan.warm_up else "(a population)"
    people = tuple(Turn(state=state, weight=weight, action=action) for state, weight in states)
    turns = tuple(range(plan.warm_up, plan.warm_up + len(people)))
    first = len(plan.steps)
    steps = tuple(
        Step(index=index, turns=turns, real=False, counts=population.counts) for index in range(first, first + n_steps)
    )
    joined = replace(event, turns=event.turns[: plan.warm_up] + people)
    return joined, replace(plan, steps=plan.steps + steps)
