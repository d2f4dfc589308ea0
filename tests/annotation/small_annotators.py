"""Annotators without a model, events with words, and tiny models, shared by the tests of annotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mf_llm import Event, Turn
from mf_llm.annotation import Annotations, Category, Dimension
from mf_llm.annotation.annotator import topics_of

CATEGORIES = ("a", "b", "c")
STANCE = Dimension(
    name="stance",
    question="Which letter is meant?",
    categories=tuple(Category(id=name, definition=f"The letter {name}.") for name in CATEGORIES),
)


@dataclass
class FunctionAnnotator:
    """Answers ``answer(text, topic)``: shares `[K]`, or the reason why there is no answer."""

    answer: Callable[[str, str], Sequence[float] | str]
    name: str = "function"
    asked: list[tuple[str, str]] = field(default_factory=list)

    def annotate(self, texts: Sequence[str], topic: str | Sequence[str], dimension: Dimension) -> Annotations:
        """One answer per text."""
        pairs = list(zip(texts, topics_of(topic, len(texts)), strict=True))
        self.asked += pairs
        answers = [self.answer(*pair) for pair in pairs]
        rows = [[np.nan] * len(dimension.ids) if isinstance(one, str) else one for one in answers]
        failures = [one if isinstance(one, str) else None for one in answers]
        return Annotations.of(dimension.ids, np.asarray(rows, dtype=float), failures)

    def fingerprint(self) -> dict[str, object]:
        """Nothing but its kind."""
        return {"kind": self.name}


def reader(text: str, topic: str) -> Sequence[float]:
    """A perfect annotator of `worded_event`: the first letter is the category."""
    return one_hot(text[0])


def one_hot(label: str) -> list[float]:
    """All probability on one category."""
    return [float(category == label) for category in CATEGORIES]


def worded_event(labels: str, event_id: str = "e", split: str | None = "test", **fields) -> Event:
    """One turn per letter, which says its letter and its number; "." is an unlabelled turn."""
    turns = tuple(
        Turn(action=f"{label} says {event_id} {n}", labels={} if label == "." else {"stance": label})
        for n, label in enumerate(labels)
    )
    dimensions = fields.pop("dimensions", {"stance": CATEGORIES})
    return Event(
        event_id=event_id, topic=f"topic {event_id}", turns=turns, dimensions=dimensions, split=split, **fields
    )
