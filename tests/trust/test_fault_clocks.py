"""Neither the clock nor the time zone of a machine changes who acts when."""

import itertools
import json
import os
import time

import pytest
from small_events import STANCES, model_of, outcome, processor_of, run, small_event

from mf_llm import InputError, load_events

pytestmark = pytest.mark.trust("faults", "time zones, summer time and clocks that jump")

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati", "Australia/Lord_Howe")
# In order; the hour before and behind both changes of summer time, offsets mixed, times without a zone (UTC), equals.
TIMES = (
    "2024-03-31T01:59:59+01:00",
    "2024-03-31T03:00:00+02:00",
    "2024-03-31T01:00:00",
    "2024-03-30T21:00:00-04:00",
    "2024-03-31T06:30:01+05:30",
    "2024-10-27T02:30:00+02:00",
    "2024-10-27T02:15:00+01:00",
    "2024-10-27T01:15:00Z",
    "2024-10-27T01:15:00",
    "2024-10-26T20:15:00-05:00",
    "2024-11-03T01:30:00-04:00",
    "2024-11-03T01:30:00-05:00",
    "2024-11-03 06:30:00",
    "2024-11-03",
)


@pytest.fixture
def zone():
    """Sets the time zone of this process."""
    before = os.environ.get("TZ")

    def set_zone(name: str | None) -> None:
        os.environ.pop("TZ", None)
        if name is not None:
            os.environ["TZ"] = name
        time.tzset()

    if not hasattr(time, "tzset"):
        pytest.skip("no time.tzset on this system")
    yield set_zone
    set_zone(before)


def write(path, times):
    turns = [
        {"action": f"word {i}", "labels": {"d": STANCES[i % 3]}, "time": when, "state": {"n": i}}
        for i, when in enumerate(times)
    ]
    event = {"event_id": "clock", "topic": "A bridge.", "turns": turns, "dimensions": {"d": list(STANCES)}}
    path.write_text(json.dumps(event) + "\n")
    return path


def test_a_time_zone_changes_nothing(tmp_path, zone, tries):
    path = write(tmp_path / "events.jsonl", TIMES[:13])
    made = []
    for name in ZONES:
        tries.add()
        zone(name)
        (event,) = load_events(path)
        settings = {"steps": "time", "seconds_per_step": 3600.0, "warm_up": 5, "action": "choice", "signal": "recent"}
        found = run(model_of("qwen2"), processor_of("qwen2"), event, **settings)
        made.append((event, event.content_hash(), outcome(found)))
    assert all(one == made[0] for one in made)
    event = made[0][0]
    assert [turn.state["n"] for turn in event.turns] == list(range(13))  # equal times stay in their order
    assert event.turns[0].time + 1 == event.turns[1].time == event.turns[2].time == event.turns[3].time
    assert event.turns[6].time == event.turns[7].time == event.turns[8].time == event.turns[9].time
    assert event.turns[11].time - event.turns[10].time == 3600.0  # the same hour of the wall clock, twice


def test_only_what_is_really_earlier_is_refused(tmp_path, zone, tries):
    """Any two of the times, in either order, in every zone."""
    seconds = [load_events(write(tmp_path / "one.jsonl", [when]))[0].turns[0].time for when in TIMES]
    pairs = list(itertools.permutations(range(len(TIMES)), 2))
    for i, j in pairs[:: tries.of(9, 1)]:
        tries.add()
        zone(ZONES[(i + j) % len(ZONES)])
        path = write(tmp_path / "two.jsonl", [TIMES[i], TIMES[j]])
        if seconds[j] < seconds[i]:
            with pytest.raises(InputError, match=r"turns\[1\]\.time.* must not be earlier than turns\[0\]"):
                load_events(path)
        else:
            (event,) = load_events(path)
            assert [turn.time for turn in event.turns] == [seconds[i], seconds[j]]


def test_clocks_that_jump_change_nothing_but_seconds(tmp_path, monkeypatch, tries):
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(14)
    expected = run(model, processor, event, action="label_text", signal="both")
    for step in (-3600.0, 0.0, 86400.0):
        tries.add()
        with monkeypatch.context() as patch:
            ticks = itertools.count(10**9, step) if step else itertools.repeat(10.0**9)
            for name in ("time", "perf_counter", "monotonic"):
                patch.setattr(time, name, lambda ticks=ticks: next(ticks))
            folder = tmp_path / f"run{step}"
            found = run(model, processor, event, folder, action="label_text", signal="both")
        assert outcome(found) == outcome(expected)
