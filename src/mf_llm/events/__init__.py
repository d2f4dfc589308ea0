"""Events: what happened, to whom, in which order; reading and checking them."""

from mf_llm.errors import EventError
from mf_llm.events.event import Event, State, Turn
from mf_llm.events.loading import iter_events, load_event_sets, load_events
from mf_llm.events.packaged import packaged_events
from mf_llm.events.record import event_from_record
from mf_llm.events.validation import MAX_NAME_CHARACTERS, MAX_TEXT_CHARACTERS, SPLITS, validate_event

__all__ = [
    "MAX_NAME_CHARACTERS",
    "MAX_TEXT_CHARACTERS",
    "SPLITS",
    "Event",
    "EventError",
    "State",
    "Turn",
    "event_from_record",
    "iter_events",
    "load_event_sets",
    "load_events",
    "packaged_events",
    "validate_event",
]
