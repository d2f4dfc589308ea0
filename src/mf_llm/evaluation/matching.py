"""Which rollouts belong to which event: matched by id and content hash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mf_llm.errors import InputError
from mf_llm.evaluation.readouts import end_of_warm_up, readout_name
from mf_llm.events.event import Event

if TYPE_CHECKING:
    from mf_llm.simulation import Rollout


def event_sets(
    events: Mapping[str, Sequence[Event]] | Sequence[Event], rollouts: Sequence[Rollout]
) -> dict[str, list[Event]]:
    """Data set name -> events; a plain list gets the name that all rollouts carry."""
    if isinstance(events, Mapping):
        return {name: list(members) for name, members in events.items()}
    names = {rollout.data_set for rollout in rollouts}
    return {(next(iter(names)) if len(names) == 1 else None) or "events": list(events)}


Groups = dict[tuple[str, str | None], list[tuple[Event, list["Rollout"]]]]


def match(rollouts: Sequence[Rollout], sets: Mapping[str, Sequence[Event]]) -> Groups:
    """Rollouts by data set and dimension, then by event.

    Raises:
        InputError: an event is missing or has another content, or the rollouts of an event cannot be pooled.
    """
    places: dict[str, list[tuple[str, Event]]] = {}
    for name, events in sets.items():
        for event in events:
            places.setdefault(event.event_id, []).append((name, event))
    found: dict[tuple[str, str], tuple[Event, list[Rollout]]] = {}
    hashes: dict[int, str] = {}
    for rollout in rollouts:
        if rollout.config.get("resolved", {}).get("population"):
            raise InputError(
                f"`rollouts` must be of an event's own people, got a population for event {rollout.event_id!r}; "
                "nobody knows what it really did; read its shares from steps.parquet."
            )
        candidates = places.get(rollout.event_id, [])
        candidates = [place for place in candidates if place[0] == rollout.data_set] or candidates
        if not candidates:
            raise InputError(
                f"`events` must hold the event of each rollout, got none with the id {rollout.event_id!r}; it cannot "
                "be judged; load the events that were simulated."
            )
        for _, event in candidates:
            hashes.setdefault(id(event), event.content_hash())
        same = [place for place in candidates if hashes[id(place[1])] == rollout.event_hash]
        if not same:
            raise InputError(
                f"`events` must be the ones that were simulated, got another content for event {rollout.event_id!r} "
                f"(SHA-256 {hashes[id(candidates[0][1])][:12]}, the rollout has {str(rollout.event_hash)[:12]}); "
                "people and answers would not belong together; load the same file, or simulate again."
            )
        name, event = same[0]
        found.setdefault((name, event.event_id), (event, []))[1].append(rollout)
    groups: Groups = {}
    for (name, _), (event, members) in found.items():
        _check_alike(event, members)
        groups.setdefault((name, members[0].dimension), []).append((event, members))
    return groups


def _check_alike(event: Event, rollouts: Sequence[Rollout]) -> None:
    seeds = Counter(rollout.seed for rollout in rollouts)
    twice = [seed for seed, count in seeds.items() if count > 1]
    if twice:
        raise InputError(
            f"`rollouts` must hold one rollout per event and seed, got several of event {event.event_id!r} with seed "
            f"{twice[0]}; methods would be mixed up; evaluate each method by itself."
        )
    for what, read in (
        ("dimension", lambda rollout: rollout.dimension),
        ("categories", lambda rollout: tuple(rollout.categories)),
        ("readout", readout_name),
        ("end of the warm-up", end_of_warm_up),
    ):
        values = list(dict.fromkeys(read(rollout) for rollout in rollouts))
        if len(values) > 1:
            raise InputError(
                f"`rollouts` of one event must have the same {what}, got {values} for event {event.event_id!r}; they "
                "cannot be pooled; evaluate them separately."
            )
