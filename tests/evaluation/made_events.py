"""Events and rollouts made by hand for the evaluation tests: letters instead of people."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.events.event import Event, Turn
from mf_llm.simulation.rollout import ActionRow, Rollout

CATEGORIES = ("a", "b", "c")


def make_event(labels: str, event_id: str = "e", split: str | None = "test", **fields) -> Event:
    """An event with one turn per letter; "." is an unlabelled turn."""
    states = fields.pop("states", None) or [{}] * len(labels)
    turns = tuple(
        Turn(state=state, labels={} if label == "." else {"stance": label})
        for label, state in zip(labels, states, strict=True)
    )
    return Event(event_id=event_id, topic="t", turns=turns, dimensions={"stance": CATEGORIES}, split=split, **fields)


TOLD = {"b": "This is false, do not share it!", "c": "Great show tonight, the audience loved it."}


def told_event(label: str, number: int, split: str | None = "train", texts: bool = True) -> Event:
    """A crowd of which the warm-up's labels do not tell where it goes, and its texts do."""
    rng = random.Random(f"{split} {number}")
    labels = "".join(rng.sample("aabbccab", 8))
    event = make_event(labels + label * 16, f"{split}{number}", split)
    noise = [f"{TOLD[label] if texts else 'Well.'} {rng.randrange(100)}" for _ in event.turns]
    return replace(event, turns=tuple(replace(t, action=text) for t, text in zip(event.turns, noise, strict=True)))


def make_survey(
    waves: dict[str, Sequence[tuple[str, float, dict]]], event_id: str = "s", split: str | None = "test"
) -> Event:
    """A survey: wave -> (answer, weight, state) of each respondent."""
    turns = tuple(
        Turn(state=state, labels={"intention": answer}, wave=wave, weight=weight)
        for wave, people in waves.items()
        for answer, weight, state in people
    )
    return Event(event_id=event_id, topic="t", turns=turns, dimensions={"intention": CATEGORIES}, split=split)


Policy = Callable[[int, str | None], Sequence[float] | str | None]


def make_rollout(
    event: Event,
    policy: Policy,
    windows: Windows,
    *,
    seed: int = 0,
    data_set: str | None = "d",
    readout: str = "exact",
) -> Rollout:
    """A rollout whose simulated people answer ``policy(turn, true label)``; None is a failed generation."""
    dimension = next(iter(event.dimensions))
    first = int(plan_event(event, windows, dimension).judged[0][0])
    rows = []
    for number, turn in enumerate(event.turns):
        real = number < first
        answer = turn.labels.get(dimension) if real else policy(number, turn.labels.get(dimension))
        exact = readout == "exact" and not real and answer is not None
        rows.append(
            ActionRow(
                step=number // 4,
                turn=number,
                weight=turn.weight,
                wave=turn.wave,
                state="",
                text="",
                label=None if exact else answer,
                probabilities=tuple(answer) if exact else None,
                source="real" if real else ("failed" if answer is None else "simulated"),
                failure="empty_text" if answer is None and not real else None,
            )
        )
    return Rollout(
        event_id=event.event_id,
        event_hash=event.content_hash(),
        data_set=data_set,
        topic=event.topic,
        dimension=dimension,
        categories=event.dimensions[dimension],
        seed=seed,
        config={"readout": readout},
        versions={},
        actions=rows,
        steps=[],
    )


def one_hot(label: str | None) -> tuple[float, ...]:
    """All probability on one category of `CATEGORIES` (uniform for an unlabelled turn)."""
    if label is None:
        return (1 / 3,) * 3
    return tuple(float(category == label) for category in CATEGORIES)
