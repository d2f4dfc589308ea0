"""Windows, waves and yardsticks of protocol version 1."""

import numpy as np
import pytest
from made_events import make_event, make_survey

from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import Windows, choose_windows, plan_event
from mf_llm.events.event import Event, Turn


@pytest.mark.parametrize(
    ("length", "expected"), [(304, (48, 16)), (64, (48, 16)), (63, (16, 16)), (31, (8, 8)), (3, (8, 8))]
)
def test_windows_fit_the_typical_event(length, expected):
    events = [make_event("a" * length, f"e{n}", split) for n, split in enumerate(("train", "train", "validation"))]
    # Test events are not looked at.
    events.append(make_event("a" * 400, "t", "test"))
    windows = choose_windows(events)
    assert (windows.warm_up, windows.window, windows.waves) == (*expected, False)


def test_without_training_events_all_events_choose():
    windows = choose_windows([make_event("a" * 32, "x", None)])
    assert (windows.warm_up, windows.window) == (16, 16)


def test_events_without_a_dimension_are_refused():
    with pytest.raises(InputError, match="`events` must have a dimension"):
        choose_windows([Event(event_id="e", topic="t", turns=(Turn(action="x"),))])


def test_incomplete_last_window_and_unlabelled_turns_are_dropped():
    plan = plan_event(make_event("a.bab..cca" + "b"), Windows(2, 3))
    assert plan.warm_up.tolist() == [0, 2]
    assert [window.tolist() for window in plan.judged] == [[3, 4, 7], [8, 9, 10]]
    plan = plan_event(make_event("aabcabc"), Windows(2, 3))
    assert (plan.n_windows, plan.rest.tolist(), plan.latest.tolist()) == (1, [2, 3, 4, 5, 6], [0, 1])
    assert plan.truth == pytest.approx(np.array([[1, 1, 1]]) / 3)


def test_at_most_304_labelled_turns():
    plan = plan_event(make_event("a" * 400), Windows(48, 16))
    assert (plan.n_windows, plan.rest[-1]) == (16, 303)


def test_short_events_have_no_windows():
    assert plan_event(make_event("a" * 15), Windows(8, 8)).n_windows == 0


def test_a_rollout_decides_where_the_windows_start():
    plan = plan_event(make_event("ab.cabcab"), Windows(4, 2), start=3)
    assert plan.warm_up.tolist() == [0, 1]
    assert [window.tolist() for window in plan.judged] == [[3, 4], [5, 6], [7, 8]]


def test_surveys_are_judged_on_their_last_wave_with_weights():
    event = make_survey(
        {"w1": [("a", 1, {})], "w2": [("b", 1, {}), ("a", 3, {})], "w3": [("a", 3, {}), ("b", 1, {}), ("a", 4, {})]}
    )
    windows = choose_windows([event])
    assert windows.waves
    plan = plan_event(event, windows)
    assert (plan.names, plan.latest.tolist(), plan.warm_up.tolist()) == (("w3",), [1, 2], [0, 1, 2])
    assert plan.truth == pytest.approx(np.array([[7 / 8, 1 / 8, 0]]))
    assert plan.counts(plan.latest) == pytest.approx([1.5, 0.5, 0])
    assert plan.best_constant() is None
    assert plan_event(event, windows, start=1).names == ("w2", "w3")


def test_one_wave_cannot_be_judged():
    event = make_survey({"w1": [("a", 1, {})]})
    assert plan_event(event, Windows(0, 0, waves=True)).n_windows == 0


def test_best_constant_looks_at_the_incomplete_window_too():
    plan = plan_event(make_event("ab" + "aabb" + "cc"), Windows(2, 4))
    assert plan.best_constant() == pytest.approx(np.log(2) - np.log(4 / 3))


def test_unknown_dimensions_and_windows_are_refused():
    with pytest.raises(InputError, match="`dimension` must be one of"):
        plan_event(make_event("aaa"), Windows(1, 1), "mood")
    with pytest.raises(InputError, match="must be at least 1"):
        Windows(0, 8)
