"""Events for training and the transitions they give, shared by the tests of both."""

import random
from dataclasses import replace

from small_events import STANCES, small_event

from mf_llm import Event
from mf_llm.training.transitions import TransitionSettings, build_transitions

PARTIES = ("left", "right", "none")


def made_event(event_id="e", n=40, *, split="train", waves=(), **fields) -> Event:
    """`n` people of three profiles with stances drawn at random (the same for the same `event_id`).

    Each says their number; with `waves` they are respondents with weights, who say nothing.
    """
    event, rng = small_event(n, event_id=event_id, waves=waves), random.Random(event_id)
    turns = [
        replace(
            turn,
            action="" if waves else f"says {i}",
            state={"party": PARTIES[i % len(PARTIES)]},
            weight=turn.weight if waves else 1.0,
            labels={"stance": rng.choices(STANCES, (6, 3, 1))[0]},
        )
        for i, turn in enumerate(event.turns)
    ]
    return replace(event, turns=turns, split=split, **fields)


def build(*events, name="d", split="train", **settings) -> list[dict]:
    """The rows of one data set, built anew."""
    return list(build_transitions({name: list(events)}, TransitionSettings(**settings), split=split, cache=False))


def one(*events, **settings) -> dict:
    """The only row."""
    (row,) = build(*events, **settings)
    return row
