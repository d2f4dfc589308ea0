"""`LabelledTexts`: texts of events with the categories people gave them, to fit an annotator on or to judge it by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.errors import InputError
from mf_llm.events.event import Event
from mf_llm.simulation.keyed_draws import keyed_sample, stream_key

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """n labelled texts.

    Attributes:
        dimension: what was labelled.
        events: the events they come from.
        places: `[n]`, each text's event, as an index into `events`.
        turns: `[n]`, its turn in that event.
        truth: `[n]`, its category, as an index into the dimension's categories.
    """

    dimension: Dimension
    events: tuple[Event, ...]
    places: Indices
    turns: Indices
    truth: Indices

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def texts(self) -> list[str]:
        """What the people wrote."""
        return [self.events[e].turns[t].action for e, t in zip(self.places, self.turns, strict=True)]

    @property
    def topics(self) -> list[str]:
        """What each of them reacted to."""
        return [self.events[e].topic for e in self.places]

    @property
    def counts(self) -> dict[str, int]:
        """Category -> number of texts."""
        numbers = np.bincount(self.truth, minlength=len(self.dimension.ids)).tolist()
        return dict(zip(self.dimension.ids, numbers, strict=True))

    def rows(self, wanted: Indices | NDArray[np.bool_]) -> LabelledTexts:
        """Some of the texts: their places, or a mask."""
        return replace(self, places=self.places[wanted], turns=self.turns[wanted], truth=self.truth[wanted])

    def content_hash(self) -> str:
        """SHA-256 over topics, texts and categories, in order."""
        names = [self.dimension.ids[k] for k in self.truth]
        rows = list(zip(self.topics, self.texts, names, strict=True))
        content = json.dumps([self.dimension.name, self.dimension.ids, rows], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def labelled_texts(
    events: Sequence[Event], dimension: Dimension, *, limit: int | None = None, words: bool = True, seed: int = 0
) -> LabelledTexts:
    """The labelled texts of some events.

    Args:
        events: events; those without the dimension, and turns without a label on it, are left out.
        dimension: what was labelled; its categories must be those of the events.
        limit: a keyed sample of this many texts; all where there are no more.
        words: leave out texts without a visible character.
        seed: seed of the sample.

    Raises:
        InputError: no text is labelled, or a label is not among the dimension's categories.
    """
    index = {category: place for place, category in enumerate(dimension.ids)}
    rows = []
    for place, event in enumerate(events):
        for number, turn in enumerate(event.turns):
            label = turn.labels.get(dimension.name)
            if label is None or (words and not turn.action.strip()):
                continue
            if label not in index:
                raise InputError(
                    f"`dimension` must have the categories of event {event.event_id!r}, got {list(dimension.ids)} and "
                    f"the label {label!r}; it could not be counted; make the dimension with event_dimension(event)."
                )
            rows.append((place, number, index[label]))
    if not rows:
        raise InputError(
            f"`events` must hold texts labelled with {dimension.name!r}, got {len(events)} events without one; an "
            "annotator can be neither fitted nor judged; name another dimension or split."
        )
    if limit is not None:
        rows = [rows[i] for i in keyed_sample(len(rows), limit, stream_key(seed, dimension.name, "labelled texts"))]
    places, turns, truth = np.asarray(rows, dtype=np.int64).T
    return LabelledTexts(dimension, tuple(events), places, turns, truth)
