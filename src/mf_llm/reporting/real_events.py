"""`RealEvents`: what people really did, for the parts of a report that show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from mf_llm.benchmark.benchmark import SPLIT
from mf_llm.benchmark.validation_sets import validation_sets
from mf_llm.errors import InputError
from mf_llm.evaluation.judging_task import JudgingTask, judging_tasks
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.evaluation.provenance import data_hash
from mf_llm.events import Event
from mf_llm.reporting.comparison_files import ComparisonFiles


class RealEvents:
    """The events that were compared.

    Args:
        event_sets: data set -> its events, of all splits; further data sets are not looked at.
        files: the comparison.

    Raises:
        InputError: they are not the events that were compared.
    """

    def __init__(self, event_sets: Mapping[str, Sequence[Event]], files: ComparisonFiles) -> None:
        self._summary = files.summary
        known = [*files.records.values(), *files.summary.get("skipped", [])]
        names = list(dict.fromkeys(record["data_set"] for record in known))
        missing = [name for name in names if name not in event_sets]
        if missing:
            raise InputError(
                f"`--events` must hold the data sets that were compared, got none named {missing[0]!r}; real and "
                "simulated people cannot be put side by side; name the events that were compared, or none."
            )
        self._sets = {name: list(event_sets[name]) for name in names}
        self._splits = tuple(files.summary["splits"])
        if files.on_validation:
            self._sets, self._splits = validation_sets(self._sets), (SPLIT,)
        found = data_hash(event for events in self._sets.values() for event in events)
        wanted = files.summary["data_hash"]
        if found != wanted:
            raise InputError(
                f"`--events` must be the events that were compared (data hash {wanted[:12]}), got others "
                f"({found[:12]}); the report would show other people; name the events of the comparison."
            )

    @cached_property
    def tasks(self) -> dict[str, JudgingTask]:
        """Label -> its judged events."""
        limit = self._summary.get("limit")
        found = [
            task
            for name, events in self._sets.items()
            for _, task in judging_tasks(name, events, self._splits, limit=limit)
            if isinstance(task, JudgingTask)
        ]
        return {task.label: task for task in found}

    def plan(self, label: str, event_id: str) -> WindowPlan | None:
        """The judged windows of an event; None where it was not judged."""
        task = self.tasks.get(label)
        return next((plan for plan in task.plans if plan.event.event_id == event_id), None) if task else None
