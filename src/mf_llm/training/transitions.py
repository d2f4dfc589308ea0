"""Transitions: from events to rows that a model can be trained on, built once and cached by `datasets`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import mf_llm
from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import DEFAULT_ALPHA, Training
from mf_llm.evaluation.protocol import WindowPlan, Windows, choose_windows
from mf_llm.events import SPLITS, Event
from mf_llm.models.prompts import AnswerFormat
from mf_llm.training.transition_rows import Draw, draw_warm_ups, transition_row
from mf_llm.training.transition_settings import TransitionSettings

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["TransitionSettings", "answer_of", "build_transitions", "transition_features"]

# To be raised with every change of what a row holds: a cache of before is then not read.
TRANSITIONS_VERSION = 1

logger = logging.getLogger(__name__)


def build_transitions(
    event_sets: Mapping[str, Sequence[Event]],
    settings: TransitionSettings | None = None,
    *,
    split: str | None = "train",
    cache: bool = True,
) -> Dataset:
    """The transitions of some data sets: pasts that end at drawn places, and the people who acted next.

    The past is told as a simulation tells it to the mean-field model, and no turn after the target people is looked
    at. The anchor `carry` is that of a simulation of the event, with the prior and the alpha of its data set (train
    and validation events of `event_sets`). The event itself is left out of them: its labels are what is to be learned.
    Events that are too short are left out, and counted in the log.

    Args:
        event_sets: data set name -> its events, of all splits (see `load_event_sets`).
        settings: which transitions to make.
        split: only transitions of this split's events; None for all.
        cache: keep the rows in the cache of `datasets` and find them there next time (the same events, settings, split
            and version of this package). False builds them in memory.

    Returns:
        One row per transition:

        - ``event_id``, ``data_set``, ``topic``, ``language``: texts.
        - ``dimension``: what people are counted on, "" for none. ``options``: its K categories.
        - ``kind``: "text", "choice" or "label_text". ``silent``: options whose people write nothing.
        - ``draw``: number of the transition within its event. ``warm_up``: number of turns that are the past.
        - ``history``: ``{"lines", "tally"}`` of each of the last steps of the past, oldest first.
        - ``statistics``: the whole past in words and numbers, "" without a dimension.
        - ``carry``: ``[K]`` shares, the anchor frozen at the end of the past.
        - ``target_counts``: ``[K]`` counts of all target people, their weights scaled to a mean of 1.
        - ``people``: ``{"state" (JSON), "action", "label" (index or -1), "weight"}`` of a sample of the target people.

        `carry` and `target_counts` are empty without a dimension.

    Raises:
        InputError: no event is long enough, `split` is unknown, or no event has the dimension.

    Examples:
        >>> from mf_llm import TransitionSettings, load_event_sets
        >>> settings = TransitionSettings(transitions_per_survey=2, max_states=2)
        >>> transitions = build_transitions(load_event_sets("vaccine-intention"), settings, cache=False)
        >>> transitions.num_rows, len(transitions[0]["people"])
        (2, 2)
    """
    from datasets import Dataset

    settings = settings or TransitionSettings()
    if split is not None and split not in SPLITS:
        raise InputError(f'`split` must be "train", "validation", "test" or None (all events), got {split!r}.')
    _check_dimension(event_sets, settings)
    sets = [_DataSet(name, tuple(events), settings, split) for name, events in event_sets.items()]
    for one in sets:
        if one.n_left_out:
            logger.warning(
                "%s: %d of %d events have no transition (too few labelled people, or not labelled on %r).",
                one.name, one.n_left_out, len(one.chosen), one.dimension,
            )  # fmt: skip
    if not any(draws for one in sets for draws in one.draws):
        raise InputError(
            f"`event_sets` must hold an event with a transition, got {sum(len(one.chosen) for one in sets)} events of "
            f"split {split!r} in {list(event_sets)}, all too short; there is nothing to learn from; choose another "
            "`split`, or shorter `warm_ups`."
        )

    def rows() -> Iterator[dict[str, Any]]:
        for one in sets:
            yield from one.rows()

    if not cache:
        return Dataset.from_list(list(rows()), features=transition_features())
    # `datasets` would hash the pickled events; their own hashes are the same on every machine.
    return Dataset.from_generator(rows, features=transition_features(), fingerprint=_fingerprint(sets, settings))


def answer_of(row: Mapping[str, Any]) -> AnswerFormat:
    """What an action of a transition is."""
    return AnswerFormat(
        kind=row["kind"],
        dimension=row["dimension"] or None,
        options=tuple(row["options"]),
        language=row["language"],
    )


def transition_features() -> Features:
    """The columns of the transitions."""
    from datasets import Features, List, Value

    text, whole, real = Value("string"), Value("int64"), Value("float64")
    return Features(
        {
            **dict.fromkeys(("event_id", "data_set", "topic", "language", "dimension"), text),
            "options": List(text),
            "kind": text,
            "silent": List(text),
            "draw": whole,
            "warm_up": whole,
            "history": List({"lines": List(text), "tally": text}),
            "statistics": text,
            "carry": List(real),
            "target_counts": List(real),
            "people": List({"state": text, "action": text, "label": whole, "weight": real}),
        }
    )


@dataclass(frozen=True)
class _DataSet:
    """The events of one data set, those whose transitions are made and those the anchor is learned from."""

    name: str
    events: tuple[Event, ...]
    settings: TransitionSettings
    split: str | None
    _trainings: dict[tuple[str, ...], Training] = field(default_factory=dict, repr=False)

    @cached_property
    def dimension(self) -> str | None:
        """What is counted, or None for free text."""
        if self.settings.action == "text":
            return None
        first = next((dimension for event in self.events for dimension in event.dimensions), None)
        return self.settings.dimension or first

    @cached_property
    def chosen(self) -> list[Event]:
        """The events of the split."""
        return [event for event in self.events if self.split is None or event.split == self.split]

    @cached_property
    def draws(self) -> list[list[Draw]]:
        """The draws of each chosen event; none for an event that is left out."""
        usable = [self.dimension is None or self.dimension in event.dimensions for event in self.chosen]
        return [
            draw_warm_ups(event, self.settings, self.dimension) if ok else []
            for event, ok in zip(self.chosen, usable, strict=True)
        ]

    @property
    def n_left_out(self) -> int:
        """Chosen events without a transition."""
        return sum(not draws for draws in self.draws)

    @cached_property
    def windows(self) -> Windows:
        """How the protocol cuts the events, for alpha and the prior."""
        return choose_windows(self.events, self.dimension)

    @cached_property
    def learned_from(self) -> list[Event]:
        """The events that the prior and alpha are counted on."""
        return [event for event in self.events if event.split in ("train", "validation")]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, event by event."""
        for event, draws in zip(self.chosen, self.draws, strict=True):
            training = self._training(event) if draws and self.dimension is not None else None
            for draw in draws:
                yield transition_row(
                    event,
                    draw,
                    self.settings,
                    data_set=self.name,
                    dimension=self.dimension,
                    prior=training.prior if training is not None else None,
                    alpha=training.alpha if training is not None else DEFAULT_ALPHA,
                )

    def _training(self, event: Event) -> Training:
        """What the anchor of an event is learned from: the other events.

        With the event's own labels in it, the prior would tell the anchor a part of what is to be predicted; the
        prior of an unseen event tells nothing of it.
        """
        categories = event.dimensions[str(self.dimension)]
        if categories not in self._trainings:
            whole = Training(self.learned_from, self.windows, str(self.dimension), categories)
            self._trainings[categories] = whole
        whole = self._trainings[categories]
        return _Without(whole, event.event_id) if event.split in ("train", "validation") else whole


class _Without(Training):
    """What may be learned from all train and validation events but one.

    Args:
        whole: all of them.
        event_id: the one that is held out.
    """

    def __init__(self, whole: Training, event_id: str) -> None:
        events = [event for event in whole.train + whole.validation if event.event_id != event_id]
        super().__init__(events, whole.windows, whole.dimension, whole.categories)
        self._whole, self._event_id = whole, event_id

    @cached_property
    def plans(self) -> list[WindowPlan]:
        """The plans of the other events, which are cut once for all that are held out in turn."""
        return [plan for plan in self._whole.plans if plan.event.event_id != self._event_id]


def _check_dimension(event_sets: Mapping[str, Sequence[Event]], settings: TransitionSettings) -> None:
    known = {dimension for events in event_sets.values() for event in events for dimension in event.dimensions}
    if settings.dimension is not None and settings.dimension not in known:
        raise InputError(
            f"`dimension` must be one that the events have ({', '.join(sorted(known)) or 'none'}), got "
            f"{settings.dimension!r}; nobody could be counted on it; leave it out for the first of each data set."
        )


def _fingerprint(sets: Sequence[_DataSet], settings: TransitionSettings) -> str:
    """SHA-256 over all that the rows are made from, as 32 hexadecimal digits."""
    record = {
        "transitions": TRANSITIONS_VERSION,
        "mf_llm": mf_llm.__version__,
        "settings": asdict(settings),
        "split": sets[0].split,
        "sets": {
            one.name: {
                # Both are chosen with a look at how the events of other splits are made.
                "dimension": one.dimension,
                "windows": str(one.windows) if one.dimension is not None else None,
                "learned_from": [event.content_hash() for event in one.learned_from],
                "chosen": [event.content_hash() for event in one.chosen],
            }
            for one in sets
        },
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]
