"""Data sets made ready to be judged: windows chosen, events planned, what is too short counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Training, full_name
from mf_llm.evaluation.protocol import WindowPlan, Windows, choose_windows, plan_event
from mf_llm.events.event import Event


@dataclass(frozen=True, eq=False)
class JudgingTask:
    """One data set on one dimension, ready to be judged.

    Attributes:
        data_set: its name.
        plans: the events that are long enough, by their ids.
        training: its train and validation events.
        windows: how the events are cut.
        n_too_short: events of the judged splits that were left out.
    """

    data_set: str
    plans: list[WindowPlan]
    training: Training
    windows: Windows
    n_too_short: int

    @property
    def label(self) -> str:
        """What tables and draws call it."""
        return f"{self.data_set}/{self.training.dimension}"

    def describe(self) -> dict[str, Any]:
        """As a JSON object, without scores."""
        training, notes = self.training, []
        if not training.train:
            notes.append("no train events: the prior is uniform (0.5 counts per category)")
        if not training.plans and not self.windows.waves:
            notes.append(f"no train or validation events to choose by: reference carry, alpha = {training.alpha:g}")
        if self.n_too_short:
            notes.append(f"{self.n_too_short} events are too short for windows {self.windows} and left out")
        return {
            "data_set": self.data_set,
            "dimension": training.dimension,
            "categories": list(training.categories),
            "windows": str(self.windows),
            "warm_up": None if self.windows.waves else self.windows.warm_up,
            "window": None if self.windows.waves else self.windows.window,
            "n_events": len(self.plans),
            "n_too_short": self.n_too_short,
            "n_train": len(training.train),
            "n_validation": len(training.validation),
            "prior": training.prior.tolist(),
            "alpha": training.alpha,
            "reference": full_name(training.reference, training),
            "train_and_validation_kl": training.scores,
            "notes": notes,
        }


def judging_tasks(
    name: str,
    events: list[Event],
    splits: Sequence[str | None],
    windows: Windows | None = None,
    *,
    limit: int | None = None,
) -> list[tuple[str | None, JudgingTask | str]]:
    """The tasks of a data set, by dimension; a text where there is none, saying why.

    Args:
        name: of the data set.
        events: of all splits.
        splits: those that are judged.
        windows: how events are cut; chosen by `choose_windows` by default.
        limit: at most so many events, the first by their ids.

    Raises:
        InputError: a dimension has other categories in some event.
    """
    dimensions = list(dict.fromkeys(dimension for event in events for dimension in event.dimensions))
    if not dimensions:
        return [(None, "no event has a dimension: nothing is labelled")]
    return [(dimension, _task(name, events, dimension, splits, windows, limit)) for dimension in dimensions]


def _task(
    name: str,
    events: list[Event],
    dimension: str,
    splits: Sequence[str | None],
    windows: Windows | None,
    limit: int | None,
) -> JudgingTask | str:
    events = [event for event in events if dimension in event.dimensions]
    categories = tuple(events[0].dimensions[dimension])
    for event in events:
        if tuple(event.dimensions[dimension]) != categories:
            raise InputError(
                f"`dimensions.{dimension}` must be the same in all events of {name!r}, got {list(categories)} in "
                f"event {events[0].event_id!r} and {list(event.dimensions[dimension])} in event {event.event_id!r}; "
                "their shares cannot be averaged; give the events one list of categories, or split the data set."
            )
    judged = [event for event in events if event.split in splits]
    if not judged:
        found = sorted({str(event.split) for event in events})
        return f"no event of split {', '.join(map(str, splits))} (splits found: {', '.join(found)})"
    if not any(dimension in turn.labels for event in judged for turn in event.turns):
        return f"no turn of the {len(judged)} judged events has a label on {dimension!r}"
    windows = choose_windows(events, dimension) if windows is None else windows
    plans = [plan_event(event, windows, dimension) for event in judged]
    long_enough = sorted((plan for plan in plans if plan.n_windows), key=lambda plan: plan.event.event_id)
    if not long_enough:
        return f"all {len(plans)} judged events are too short for windows {windows}"
    training = Training(events, windows, dimension, categories)
    return JudgingTask(name, long_enough[:limit], training, windows, len(plans) - len(long_enough))
