"""Replay: the real texts of the judged windows, read by an annotator: the KL that annotation alone costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mf_llm.annotation.annotator import Annotations, Annotator
from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import kl_divergence
from mf_llm.evaluation.intervals import generator, window_interval
from mf_llm.evaluation.judged_event import JudgedEvent
from mf_llm.evaluation.paired import MethodScores, Resampling, mean_kl
from mf_llm.evaluation.protocol import WindowPlan, Windows, choose_windows, plan_event
from mf_llm.evaluation.readouts import Answers
from mf_llm.events.event import Event


def annotate_event(event: Event, plan: WindowPlan, annotator: Annotator, dimension: Dimension) -> Annotations:
    """Reads the texts of the judged people, window after window.

    Args:
        event: the event.
        plan: its windows.
        annotator: who reads.
        dimension: what is read; its categories must be the plan's.

    Raises:
        InputError: the dimension has other categories, or the plan is another event's.
    """
    if dimension.ids != plan.categories or plan.event.event_id != event.event_id:
        raise InputError(
            f"`plan` must be of event {event.event_id!r} on {list(dimension.ids)}, got event "
            f"{plan.event.event_id!r} on {list(plan.categories)}; shares would be compared crosswise; make the "
            "dimension with event_dimension(event)."
        )
    people = judged_people(plan)
    return annotator.annotate([event.turns[turn].action for turn in people], event.topic, dimension)


def judge_annotated(plan: WindowPlan, annotations: Annotations, *, hard: bool = False) -> JudgedEvent:
    """The judged people's annotations as a row beside methods.

    Args:
        plan: the windows.
        annotations: one row for each judged person, window after window (`annotate_event`).
        hard: count the likeliest category of each text instead of summing probabilities. Shares of counts are
            smoothed by +0.5 per category, as those of any sampled readout: even people's own labels then have a KL.

    Returns:
        Judged shares. Windows in which no text has an answer are left out; failed rows are counted, and left out of
        the shares of theirs.

    Raises:
        InputError: there are more or fewer rows than judged people, or no window has an answer.
    """
    people = judged_people(plan)
    if len(annotations) != len(people) or annotations.categories != plan.categories:
        raise InputError(
            f"`annotations` must be of the {len(people)} judged people on {list(plan.categories)}, got "
            f"{len(annotations)} on {list(annotations.categories)}; they would be given to others; use annotate_event."
        )
    read = annotations.hard() if hard else annotations
    n_turns = len(plan.event.turns)
    mass, attempted = np.zeros((n_turns, len(plan.categories))), np.zeros(n_turns, dtype=bool)
    mass[people], attempted[people] = np.nan_to_num(read.probabilities), True
    answers = Answers(mass, attempted, hard, 1, annotations.n_failed)
    plan = plan.selected(answers.covered(plan))
    if not plan.n_windows:
        raise InputError(
            f"`annotations` must hold an answer in some window of event {plan.event.event_id!r}, got none "
            f"({annotations.failure_counts}); it has no KL; mend what made them fail."
        )
    per_window = tuple(mass[window] for window in plan.judged)
    return JudgedEvent(plan, answers.windows(plan), per_window, hard, annotations.n_failed)


@dataclass(frozen=True, eq=False)
class Replay:
    """What annotation alone costs on a data set.

    Attributes:
        scores: the annotator's row, to be paired with or tabled beside methods (`MethodScores`, `MethodTable`).
        floor: KL of people's own labels under the same readout: 0, or what the smoothing of counts costs.
        resampling: the bootstrap draws.
    """

    scores: MethodScores
    floor: float
    resampling: Resampling

    @property
    def events(self) -> Sequence[JudgedEvent]:
        """The judged events."""
        return self.scores.events

    def to_dict(self) -> dict[str, Any]:
        """KL of the data set with its interval over events, and of each event with its interval over windows."""
        return {
            "method": self.scores.method,
            "data_set": self.scores.data_set,
            "n_events": len(self.events),
            "n_failed": sum(judged.n_failed for judged in self.events),
            "kl": mean_kl(self.scores, self.resampling).interval().to_dict(),
            "floor": self.floor,
            "sampling_alone": float(np.mean([judged.plan.sampling_alone() for judged in self.events])),
            "events": {judged.plan.event.event_id: self._of_event(judged) for judged in self.events},
        }

    def _of_event(self, judged: JudgedEvent) -> dict[str, Any]:
        per_window = kl_divergence(judged.plan.truth, judged.q)
        rng = generator(self.resampling.seed, "replayed windows", self.scores.data_set, judged.plan.event.event_id)
        kl = window_interval(per_window, rng, self.resampling.n_bootstrap)
        return {"kl": kl.to_dict(), "n_windows": judged.plan.n_windows, "n_failed": judged.n_failed}


def replay(
    events: Sequence[Event],
    annotator: Annotator,
    dimension: Dimension,
    *,
    data_set: str = "events",
    windows: Windows | None = None,
    split: str | None = "test",
    limit: int | None = None,
    hard: bool = False,
    resampling: Resampling | None = None,
) -> Replay:
    """Replays the judged windows of a data set through an annotator.

    Args:
        events: the events of all splits, which choose the windows.
        annotator: who reads.
        dimension: what is read.
        data_set: name of the data set.
        windows: how events are cut (default: `choose_windows`).
        split: the split that is replayed; None for all events.
        limit: no more than this many events.
        hard: see `judge_annotated`.
        resampling: the bootstrap draws (default: seed 0).

    Raises:
        InputError: no event of the split is long enough.
    """
    windows = choose_windows(events, dimension.name) if windows is None else windows
    wanted = [event for event in events if dimension.name in event.dimensions and split in (None, event.split)]
    plans = [plan_event(event, windows, dimension.name) for event in wanted]
    plans = [plan for plan in plans if plan.n_windows][:limit]
    if not plans:
        raise InputError(
            f"`events` must hold an event of split {split!r} with a whole window ({windows}) of {dimension.name!r}, "
            f"got none of {len(events)}; nothing can be replayed; name another split or other windows."
        )
    readings = {plan.event.event_id: annotate_event(plan.event, plan, annotator, dimension) for plan in plans}
    return replay_of(plans, readings, name=annotator.name, data_set=data_set, hard=hard, resampling=resampling)


def replay_of(
    plans: Sequence[WindowPlan],
    readings: Mapping[str, Annotations],
    *,
    name: str,
    data_set: str = "events",
    hard: bool = False,
    resampling: Resampling | None = None,
) -> Replay:
    """As `replay`, from readings that are there already.

    Args:
        plans: the windows of each event.
        readings: event id -> the annotations of its judged people, window after window.
        name: what tables call the annotator.
        data_set, hard, resampling: as for `replay`.
    """
    judged = [judge_annotated(plan, readings[plan.event.event_id], hard=hard) for plan in plans]
    floor = np.mean([judge_annotated(plan, _people_themselves(plan), hard=hard).kl for plan in plans])
    return Replay(MethodScores(name, data_set, {0: judged}), float(floor), resampling or Resampling())


def judged_people(plan: WindowPlan) -> list[int]:
    """Turns of the judged people, window after window."""
    return [turn for window in plan.judged for turn in window.tolist()]


def _people_themselves(plan: WindowPlan) -> Annotations:
    labels = plan.labels[judged_people(plan)]
    return Annotations(plan.categories, np.eye(len(plan.categories))[labels], (None,) * len(labels))
