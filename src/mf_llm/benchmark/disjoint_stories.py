"""Test events whose news story no training event tells."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from mf_llm.benchmark.benchmark import SPLIT
from mf_llm.errors import InputError
from mf_llm.events import Event

logger = logging.getLogger(__name__)


def story_disjoint(events: Sequence[Event]) -> list[Event]:
    """The events of a data set without the test events whose story is that of a train or validation event.

    A test event without a story is dropped too: nobody knows whether its story was seen. The train and validation
    events stay, so that whatever is learned from them stays the same.

    Args:
        events: of one data set, of all splits.
    """
    seen = {event.story for event in events if event.split in ("train", "validation")}
    return [event for event in events if event.split != SPLIT or (event.story is not None and event.story not in seen)]


def story_disjoint_sets(event_sets: Mapping[str, Sequence[Event]]) -> dict[str, list[Event]]:
    """`story_disjoint` of every data set; one that keeps no test event is left out, and a warning says why.

    Raises:
        InputError: none is left.
    """
    found = {}
    for name, events in event_sets.items():
        disjoint = story_disjoint(events)
        before, left = ([event for event in part if event.split == SPLIT] for part in (events, disjoint))
        if not left:
            told = any(event.story is not None for event in before)
            why = "every story of its test events is told in training" if told else "its test events have no stories"
            logger.warning("%s is left out: %s", name, why)
            continue
        found[name] = disjoint
        logger.info("%s: %d of %d test events have a story of their own", name, len(left), len(before))
        if len({event.story for event in left}) == 1:
            logger.warning("%s: the %d test events left tell one story; no interval covers others", name, len(left))
    if not found:
        raise InputError(
            f"`events` must have test events with a `story` that no train or validation event has, got none in "
            f"{', '.join(event_sets)}; nothing can be judged on other stories; leave --disjoint-stories out."
        )
    return found
