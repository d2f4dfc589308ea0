"""One transition as plain values: what is told of the past, and the people who act after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from mf_llm.evaluation.protocol import MAX_LABELLED, Windows, plan_event
from mf_llm.events import Event
from mf_llm.models.prompts import AnswerFormat, render_state
from mf_llm.simulation.anchor import carry_forward
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.signals import PopulationHistory
from mf_llm.simulation.steps import plan_simulation
from mf_llm.simulation.told_actions import listing_key, real_actions, told_actions
from mf_llm.training.transition_settings import DEFAULT_WARM_UPS, TransitionSettings


@dataclass(frozen=True)
class Draw:
    """One of the transitions of an event.

    Attributes:
        number: its number within the event.
        warm_up: labelled actions of the warm-up, or the name of its last wave.
        cycle: how often the event had been through all its warm-ups before this draw.
    """

    number: int
    warm_up: int | str
    cycle: int


def has_waves(event: Event) -> bool:
    """True if the event is stepped by wave (as `plan_simulation` does where every turn has one)."""
    return all(turn.wave for turn in event.turns)


def draw_warm_ups(event: Event, settings: TransitionSettings, dimension: str | None) -> list[Draw]:
    """The warm-ups of an event's transitions: keyed draws, without replacement until all were drawn, then again.

    The first draws stay the same when more are asked for.

    Args:
        event: the event. Of what comes after a warm-up, only whether anybody is left to be a target is looked at.
        settings: which transitions to make.
        dimension: the dimension whose labels count, or None.

    Returns:
        No draws for an event that is too short.
    """
    allowed = _allowed_warm_ups(event, settings, dimension)
    wanted = settings.transitions_per_survey if has_waves(event) else settings.transitions_per_event
    draws = []
    for number in range(wanted if allowed else 0):
        cycle, place = divmod(number, len(allowed))
        order = permutation(len(allowed), stream_key(settings.seed, event.event_id, cycle, "warm-ups"))
        draws.append(Draw(number, allowed[order[place]], cycle))
    return draws


def transition_row(
    event: Event,
    draw: Draw,
    settings: TransitionSettings,
    *,
    data_set: str,
    dimension: str | None,
    prior: np.ndarray | None,
    alpha: float,
) -> dict[str, Any]:
    """A transition with its real past; see `build_transitions` for the fields.

    Args:
        event: the event; no turn after the targets is looked at.
        draw: which transition.
        settings: how it is cut.
        data_set: name of the data set.
        dimension: the dimension whose labels count, or None.
        prior: ``[K]`` prior shares of the anchor (None without a dimension).
        alpha: its strength.
    """
    plan = plan_simulation(event, settings.simulation(dimension, draw.warm_up))
    answer = plan.answer
    rows = [row for step in plan.steps if step.real for row in real_actions(event, step, answer.dimension)]
    anchor = carry_forward(event, plan, prior, alpha).tolist() if answer.options and prior is not None else []
    # A simulation with the seed of the settings lists the same actions; warm-ups that are drawn again list others.
    seed = settings.seed if draw.cycle == 0 else stream_key(settings.seed, draw.cycle, "drawn again")
    return {
        "event_id": event.event_id,
        "data_set": data_set,
        "topic": event.topic,
        "language": event.language,
        "dimension": answer.dimension or "",
        "options": list(answer.options),
        "kind": answer.kind,
        "silent": sorted(plan.silent),
        "draw": draw.number,
        "warm_up": plan.warm_up,
        **told_past(event, rows, answer, settings, seed=seed),
        "carry": anchor,
        **target_people(event, plan.warm_up, answer, settings, draw=draw.number),
    }


def told_past(
    event: Event, rows: Sequence[ActionRow], answer: AnswerFormat, settings: TransitionSettings, *, seed: int
) -> dict[str, Any]:
    """The fields `history` and `statistics`.

    Args:
        event: the event.
        rows: all actions of the past, step by step.
        answer: what an action is.
        settings: how much of it is told.
        seed: of the sample that is listed of a large step.
    """
    steps = [list(members) for _, members in groupby(rows, key=lambda row: row.step)]
    history = []
    for members in steps[-settings.max_history_steps :]:
        key = listing_key(seed, event.event_id, members[0].step)
        lines, tally = told_actions(members, answer.options, key=key, listed_actions=settings.listed_actions)
        history.append({"lines": lines, "tally": tally or ""})
    if not answer.options:
        return {"history": history, "statistics": ""}
    shown = settings.shown_answers
    population = PopulationHistory(event, answer.options, answer.dimension, shown_answers=shown)
    for members in steps:
        population.observe(members)
    return {"history": history, "statistics": population.statistics()}


def target_turns(event: Event, start: int, dimension: str | None, horizon: str, size: int) -> list[int]:
    """The people whose actions are to be predicted, as indices into ``event.turns``.

    Args:
        event: the event.
        start: index of the first turn that may be a target.
        dimension: only people labelled on it are targets; without one, only people who wrote something.
        horizon: "next" or "all".
        size: people of the next step, where it is not a wave.
    """
    waves = has_waves(event)
    if dimension is None:
        spoken = [i for i, turn in enumerate(event.turns) if turn.action.strip()]
        left = [i for i in (spoken if waves else spoken[:MAX_LABELLED]) if i >= start]
        upcoming = [i for i in left if event.turns[i].wave == event.turns[left[0]].wave] if waves else left[:size]
    else:
        cut = plan_event(event, Windows(0, 0, waves=True) if waves else Windows(1, 1), dimension, start=start)
        left = cut.rest.tolist()
        upcoming = (cut.judged[0].tolist() if cut.judged else []) if waves else left[:size]
    return left if horizon == "all" else upcoming


def target_people(
    event: Event, start: int, answer: AnswerFormat, settings: TransitionSettings, *, draw: int
) -> dict[str, Any]:
    """The fields `people` (a keyed sample of the targets) and `target_counts` (all of them).

    The people are taken one by one in a keyed order, and the sample ends before the first whose state would be one too
    many. Going on with the people of the states seen so far would make common states commoner than they are.

    Args:
        event: the event.
        start: index of the first turn that may be a target.
        answer: what an action is.
        settings: who is a target, and how many are kept.
        draw: number of the transition, key of the sample.
    """
    turns = target_turns(event, start, answer.dimension, settings.horizon, settings.agents_per_step)
    order = permutation(len(turns), stream_key(settings.seed, event.event_id, draw, "target people"))
    kept: list[int] = []
    states: set[tuple[str, ...]] = set()
    for i in (turns[place] for place in order[: settings.max_people]):
        states.add(tuple(render_state(event.turns[i].state)))
        if len(states) > settings.max_states:
            break
        kept.append(i)
    people = []
    for i in sorted(kept):
        turn = event.turns[i]
        state = turn.state if isinstance(turn.state, str) else dict(turn.state)
        label = turn.labels.get(answer.dimension) if answer.dimension else None
        people.append(
            {
                "state": json.dumps(state, ensure_ascii=False),
                "action": turn.action,
                "label": answer.options.index(label) if label is not None else -1,
                "weight": turn.weight,
            }
        )
    if answer.dimension is None:
        return {"target_counts": [], "people": people}
    cut = plan_event(event, Windows(1, 1), answer.dimension)
    return {"target_counts": cut.counts(np.asarray(turns, dtype=np.int64)).tolist(), "people": people}


def _allowed_warm_ups(event: Event, settings: TransitionSettings, dimension: str | None) -> list[int | str]:
    lengths: list[int | str]
    if has_waves(event):
        waves = list(dict.fromkeys(str(turn.wave) for turn in event.turns))
        lengths, least = [*waves[:-1]], 1
    else:
        counted = sum(dimension is None or dimension in turn.labels for turn in event.turns)
        least = settings.least_targets
        # Where the warm-up would be the whole event, there is no plan to ask.
        lengths = [length for length in settings.warm_ups or DEFAULT_WARM_UPS if length + least <= counted]
    allowed = []
    for length in lengths:
        plan = plan_simulation(event, settings.simulation(dimension, length))
        if len(target_turns(event, plan.warm_up, plan.answer.dimension, "all", settings.agents_per_step)) >= least:
            allowed.append(length)
    return allowed
