"""`Event` and `Turn` made in Python: conversion, checks, and the record and hash they give back."""

from __future__ import annotations

import copy
import datetime
import json
import pickle
import random
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from mf_llm import Event, Turn
from mf_llm.errors import EventError, InputError
from mf_llm.events import MAX_TEXT_CHARACTERS, event_from_record, validate_event


def make_event(**changes) -> Event:
    fields = {
        "event_id": "bridge",
        "topic": "The bridge is to be closed.",
        "dimensions": {"stance": ["for", "against"]},
        "turns": [
            Turn(state={"age": 40}, action="No.", labels={"stance": "against"}, time=10, weight=2),
            Turn(state="a nurse", action="Yes!\nYes!", labels={"stance": "for"}, time=20.5, parent=0, kind="reply"),
            Turn(),
        ],
    }
    return Event(**(fields | changes))


def test_lists_become_tuples_and_numbers_floats():
    event = make_event()
    assert isinstance(event.turns, tuple)
    assert event.dimensions == {"stance": ("for", "against")}
    assert (event.turns[0].time, event.turns[0].weight) == (10.0, 2.0)
    assert type(event.turns[0].time) is float
    assert type(event.turns[0].weight) is float


def test_numpy_and_other_number_types_become_plain():
    turn = Turn(
        state={"age": np.int64(40), "income": np.float32(0.5), "member": np.bool_(True), "missing": None},
        action="x",
        time=np.int32(7),
        weight=np.float64(1.5),
        extra={"price": Decimal("2.5"), "day": datetime.date(2024, 1, 2), "list": (1, np.int8(2))},
    )
    assert turn.state == {"age": 40, "income": 0.5, "member": True}
    assert [type(value) for value in turn.state.values()] == [int, float, bool]
    assert turn.extra == {"price": 2.5, "day": "2024-01-02", "list": [1, 2]}
    plain = Turn(state={"age": 40, "income": 0.5, "member": True}, action="x", time=7, weight=1.5, extra=turn.extra)
    assert turn == plain
    assert make_event(turns=[turn]).content_hash() == make_event(turns=[plain]).content_hash()


@pytest.mark.parametrize(
    "time",
    [
        1726556760,
        "2024-09-17T07:06:00",
        "2024-09-17 07:06:00Z",
        "2024-09-17T09:06:00+02:00",
        datetime.datetime(2024, 9, 17, 7, 6),
        datetime.datetime(2024, 9, 17, 7, 6, tzinfo=datetime.UTC),
    ],
)
def test_dates_become_seconds_in_utc(time):
    assert Turn(time=time).time == 1726556760.0


def test_a_day_without_time_begins_at_midnight():
    assert Turn(time=datetime.date(1970, 1, 2)).time == Turn(time="1970-01-02").time == 86400.0


def test_to_dict_gives_the_record_back():
    event = make_event(extra={"likes": 3}, split="test", block=0, group="g")
    record = event.to_dict()
    assert record["turns"][0] == {
        "time": 10,
        "state": {"age": 40},
        "action": "No.",
        "labels": {"stance": "against"},
        "weight": 2.0,
    }
    assert record["turns"][2] == {"state": {}, "action": "", "labels": {}}
    assert record["likes"] == 3
    assert "veracity" not in record
    assert event_from_record(record) == event
    assert event_from_record(record).content_hash() == event.content_hash()


def test_content_hash_is_a_fixed_number():
    # A change here means that results can no longer be matched with their events: raise the protocol version.
    assert make_event().content_hash() == "1449d8e0cb32395b48976c11f1fec52d09c0895efd62dc0feda330fceda3cd04"


def test_content_hash_sees_every_field_but_not_the_order_of_keys():
    event = make_event()
    assert replace(event, veracity="false").content_hash() != event.content_hash()
    first, *rest = event.turns
    assert replace(event, turns=(replace(first, action="no."), *rest)).content_hash() != event.content_hash()
    one = make_event(turns=[Turn(action="x", state={"a": 1, "b": 2})])
    other = make_event(turns=[Turn(action="x", state={"b": 2, "a": 1})])
    assert one.content_hash() == other.content_hash()


def test_absent_and_none_are_the_same():
    record = make_event().to_dict()
    record |= {"domain": None, "more": {"a": None, "b": 1}}
    record["turns"][0] |= {"wave": None, "state": {"age": 40, "job": None}}
    event = event_from_record(record)
    assert event.extra == {"more": {"b": 1}}
    assert event.turns[0].state == {"age": 40}


def test_an_event_survives_pickling():
    event = make_event()
    assert pickle.loads(pickle.dumps(event)) == event


@pytest.mark.parametrize(
    "turns",
    [
        [Turn(action="Only a text.")],
        [Turn(labels={"stance": "for"})],
        [Turn(labels={"stance": "for"}, wave="w1"), Turn(labels={"stance": "for"}, wave="w2")],
        [Turn(), Turn(action="A text at last")],
        [Turn(action="x", time=5), Turn(action="y"), Turn(action="z", time=5)],
        [Turn(action="x", weight=0), Turn(action="y", weight=3)],
        [Turn(action="a \b backspace, a tab \t, \u200b, 你好, 🎉, \x85")],
        [Turn(action="x" * MAX_TEXT_CHARACTERS)],
    ],
)
def test_what_is_optional_may_be_left_out(turns):
    validate_event(make_event(turns=turns))


def test_an_event_needs_no_dimensions_when_nothing_is_labelled():
    assert Event(event_id="a", topic="b", turns=[Turn(action="c")]).dimensions == {}


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"event_id": 5}, "event_id", "must be a text"),
        ({"topic": " "}, "topic", "must not be empty"),
        ({"turns": [{"action": "x"}]}, "turns[0]", "must be a turn, got a mapping"),
        ({"turns": ()}, "turns", "at least one"),
        ({"turns": "abc"}, "turns", "must be a list of turns"),
        ({"dimensions": {"stance": "for"}}, "dimensions.stance", "must be a list of category names"),
        ({"dimensions": None}, "dimensions", "got None"),
        ({"language": None}, "language", "must be a text"),
        ({"split": "dev"}, "split", "got 'dev'"),
        ({"extra": {"topic": "x"}}, "extra", "must not repeat a field"),
        ({"extra": {"x": object}}, "x", "JSON can hold"),
        ({"extra": {3: "x"}}, "3", "must be a text"),
        ({"extra": []}, "extra", "must be a mapping"),
        ({"turns": [Turn(action="x", extra={"labels": {}})]}, "turns[0].extra", "must not repeat"),
        ({"turns": [Turn(action=None)]}, "turns[0].action", "got None"),
        ({"turns": [Turn(action="x", state=None)]}, "turns[0].state", "got None"),
        ({"turns": [Turn(action="x", state={5: "x"})]}, "turns[0].state.5", "must be a text, got 5"),
        ({"turns": [Turn(action="x", time=10**5000)]}, "turns[0].time", "an integer of thousands of digits"),
        ({"turns": [Turn(action="x", labels={"a\nb": "x"})]}, "turns[0].labels.'a\\nb'", "must be a dimension"),
    ],
)
def test_events_made_in_python_are_checked(changes, field, says):
    with pytest.raises(EventError) as caught:
        make_event(**changes)
    assert caught.value.field == field
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_messages_never_quote_a_whole_text():
    with pytest.raises(EventError) as caught:
        make_event(split="x" * 100_000)
    assert len(str(caught.value)) < 200


def test_a_record_with_any_value_in_any_field_is_read_or_explained():
    """Random values in random places: an `EventError` of one line, or an event that can be written and hashed."""
    values = [None, True, 0, -1, 2**70, 10**400, 1.5, float("nan"), "", " a", "\0", "\ud800", "x\ny", "2024-13-01"]
    values += [[], [1], [None], {}, {"a": {"b": [None]}}, {"": 1}, {"\ud800": 1}, {1: 2}, [("a", 1)], b"x", object()]

    def paths(value, path=()):
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            yield from paths(item, (*path, key))

    record = make_event(extra={"likes": [1, {"a": "b"}]}, split="test").to_dict()
    places = [path for path in paths(record) if path]
    draw = random.Random(0)
    read = 0
    for _ in range(2000):
        changed = copy.deepcopy(record)
        *parents, last = draw.choice(places)
        target = changed
        for key in parents:
            target = target[key]
        target[last] = draw.choice(values)
        try:
            event = event_from_record(changed)
        except EventError as error:
            assert str(error).isprintable() and len(str(error)) < 500
            continue
        again = event_from_record(json.loads(json.dumps(event.to_dict())))
        assert again.content_hash() == event.content_hash()
        read += 1
    assert 100 < read < 1900
