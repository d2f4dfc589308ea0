"""The research data, where it is at hand: every file loads, with the numbers of its description."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mf_llm import load_events
from mf_llm.events import load_event_sets

# events in train, validation and test; turns
COUNTS = {
    "airline": (12, 0, 20, 9589),
    "apple": (4, 0, 4, 2432),
    "coachella": (4, 0, 4, 2432),
    "covid19_rumours": (198, 30, 54, 21158),
    "deflategate": (15, 2, 12, 8816),
    "gop_debate": (13, 1, 11, 7600),
    "rumoureval2019": (192, 27, 36, 5845),
    "vaccine_survey": (1, 0, 2, 6809),
    "weibo_ced": (206, 18, 64, 83881),
}
FOLDER = Path(os.environ.get("MF_LLM_DATA") or Path(__file__).parents[3] / "shared/data")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no research data: set MF_LLM_DATA to its folder"),
]


@pytest.fixture(scope="module")
def event_sets():
    return load_event_sets(FOLDER)


def test_all_files_load_with_the_right_counts(event_sets):
    found = {
        name: (
            *(sum(event.split == split for event in events) for split in ("train", "validation", "test")),
            sum(len(event.turns) for event in events),
        )
        for name, events in event_sets.items()
    }
    assert found == COUNTS


def test_known_fields_are_known_and_unknown_ones_kept(event_sets):
    assert all(not event.extra for events in event_sets.values() for event in events)
    extra = {name: {k for e in events for t in e.turns for k in t.extra} for name, events in event_sets.items()}
    assert extra.pop("vaccine_survey") == {"perceived_share_vaccinated"}
    assert not any(extra.values())
    assert all(event.story for event in event_sets["rumoureval2019"])
    assert all(event.veracity for event in event_sets["covid19_rumours"])


def test_the_packaged_survey_is_the_source_without_the_guesses(event_sets):
    source = event_sets["vaccine_survey"]
    kept = [replace(event, turns=tuple(replace(turn, extra={}) for turn in event.turns)) for event in source]
    # As texts, so that the order in which a prompt lists the fields of a profile is compared, too.
    assert repr(load_events("vaccine-intention")) == repr(kept)
