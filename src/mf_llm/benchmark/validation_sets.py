"""Event sets without the test events, on which settings and methods may be chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mf_llm.benchmark.benchmark import SPLIT
from mf_llm.benchmark.training_runs import finished_record
from mf_llm.errors import InputError
from mf_llm.evaluation.provenance import data_hash
from mf_llm.events import Event


def validation_set(events: Sequence[Event]) -> list[Event]:
    """The events of a data set as if the validation events were the test events.

    The test events are left out. A survey has few events and none for validation: instead all of its events end a wave
    earlier, the train events too, so that what is learned is older than what it is judged on, as it is in the test. An
    event of one wave alone is left out.

    Args:
        events: of one data set, of all splits.
    """
    if _is_survey(events):
        return [shorter for event in events if (shorter := _without_last_wave(event)) is not None]
    return [
        replace(event, split=SPLIT) if event.split == "validation" else event
        for event in events
        if event.split != SPLIT
    ]


def validation_sets(event_sets: Mapping[str, Sequence[Event]]) -> dict[str, list[Event]]:
    """`validation_set` of every data set."""
    return {name: validation_set(events) for name, events in event_sets.items()}


def check_not_seen(checkpoints: Iterable[Path], event_sets: Mapping[str, Sequence[Event]]) -> None:
    """Checks that checkpoints were not trained on the waves they are judged on, as far as they say what they learned.

    Args:
        checkpoints: folders.
        event_sets: out of `validation_sets`.

    Raises:
        InputError: one was trained on other events of a survey.
    """
    hashes = {name: data_hash(events) for name, events in event_sets.items() if _is_survey(events)}
    for folder in checkpoints:
        trained = (finished_record(folder) or {}).get("data_hash", {})
        other = [name for name, found in hashes.items() if trained.get(name, found) != found]
        if other:
            raise InputError(
                f"checkpoint {folder.name!r} must be trained on what --validation leaves of {', '.join(other)}, got "
                "one trained on other waves; it may have learned what it is judged on. Train it with "
                "scripts/train_benchmark.py --validation, into a folder of its own."
            )


def _is_survey(events: Sequence[Event]) -> bool:
    return any(turn.wave is not None for event in events for turn in event.turns)


def _without_last_wave(event: Event) -> Event | None:
    """None if it has no other."""
    turns = tuple(turn for turn in event.turns if turn.wave != event.turns[-1].wave)
    return replace(event, turns=turns) if turns else None
