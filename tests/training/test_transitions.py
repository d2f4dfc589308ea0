"""Transitions: what is told of the past is what a simulation tells, and nothing of the future reaches it."""

import json
import logging
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_transitions import build, made_event, one
from small_events import STANCES, model_of, processor_of, run, small_event, with_turns

from mf_llm import Event, InputError, Turn
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.protocol import choose_windows
from mf_llm.simulation import SimulationConfig, plan_simulation
from mf_llm.training import transitions
from mf_llm.training.transition_rows import draw_warm_ups
from mf_llm.training.transitions import TransitionSettings, answer_of, build_transitions, transition_features

FAMILY = "llama"


# -- what a row holds -------------------------------------------------------------------------------------------------


def test_a_row_word_for_word():
    turns = [
        Turn(state={"age": 30 + i}, action=f"text {i}", labels={"stance": label} if label else {}, weight=weight)
        for i, (label, weight) in enumerate(
            [("support", 1), ("deny", 1), (None, 1), ("deny", 1), ("query", 1), (None, 1), ("deny", 3), ("support", 1)]
        )
    ]
    event = Event(event_id="e", topic="T", turns=turns, dimensions={"stance": STANCES}, split="train", language="es")
    row = one(event, warm_ups=(3,), agents_per_step=3, max_history_steps=2)
    carry = row.pop("carry")
    assert row == {
        "event_id": "e",
        "data_set": "d",
        "topic": "T",
        "language": "es",
        "dimension": "stance",
        "options": list(STANCES),
        "kind": "label_text",
        "silent": [],
        "draw": 0,
        "warm_up": 4,
        "history": [
            {
                "lines": ["support: text 0", "deny: text 1", "text 2"],
                "tally": "In total: half (50 %) support, half (50 %) deny, almost none (0 %) query.",
            },
            {
                "lines": ["deny: text 3"],
                "tally": "In total: all (100 %) deny, almost none (0 %) support, almost none (0 %) query.",
            },
        ],
        "statistics": "Of 3 people so far: most (67 %) deny, a third (33 %) support, almost none (0 %) query. Of the "
        "latest 1: all (100 %) deny, almost none (0 %) support, almost none (0 %) query. Rising: deny (+50 points); "
        "falling: support (-50 points).",
        # Three labelled people, weights 1, 3 and 1: their mean is 5/3.
        "target_counts": pytest.approx([0.6, 1.8, 0.6]),
        "people": [
            {"state": '{"age": 34}', "action": "text 4", "label": 2, "weight": 1.0},
            {"state": '{"age": 36}', "action": "text 6", "label": 1, "weight": 3.0},
            {"state": '{"age": 37}', "action": "text 7", "label": 0, "weight": 1.0},
        ],
    }
    # No other train event: the prior is uniform, and alpha is 10.
    np.testing.assert_allclose(carry, (np.array([1, 2, 0]) + 10 / 3) / 13)


def told_by_simulation(event: Event, monkeypatch, **settings) -> tuple[list[dict], str]:
    """What the mean-field model is told of each warm-up step, and the statistics the first simulated people see."""
    processor, told = processor_of(FAMILY), []
    real = processor.mean_field_prompt

    def spy(topic, previous, lines, *, tally=None, limits=None):
        told.append({"lines": list(lines), "tally": tally or ""})
        return real(topic, previous, lines, tally=tally, limits=limits)

    monkeypatch.setattr(processor, "mean_field_prompt", spy)
    rollout = run(model_of(FAMILY), processor, event, signal="both", action="auto", **settings)
    first = next(step for step in rollout.steps if not step.real)
    monkeypatch.undo()
    return told[: first.step], first.signal


@pytest.mark.parametrize("waves", [(), (9, 6, 7, 5)], ids=["count", "wave"])
@pytest.mark.parametrize("listed", [2, 16])
def test_the_past_is_told_as_in_a_simulation(waves, listed, monkeypatch):
    event = replace(small_event(30, waves=waves), split="test")
    for row in build(
        event, split="test", agents_per_step=5, listed_actions=listed, max_history_steps=2, seed=4, warm_ups=(8, 17),
        transitions_per_event=2, transitions_per_survey=3, shown_answers=listed,
    ):  # fmt: skip
        past = row["warm_up"]
        warm_up = event.turns[past - 1].wave if waves else past
        told, signal = told_by_simulation(
            event, monkeypatch, warm_up=warm_up, seed=4, agents_per_step=5, listed_actions=listed, shown_answers=listed
        )
        assert row["statistics"].count("\nMy stance is ") == listed
        assert row["history"] == told[-2:]
        assert signal.startswith(row["statistics"])
        assert max(len(step["lines"]) for step in told) == min(listed, max(waves or (5,)))


@pytest.mark.parametrize("waves", [(), (30, 25, 20)], ids=["count", "wave"])
def test_the_anchor_is_that_of_a_simulation(waves):
    learned = [made_event(f"{split}{i}", 60, split=split) for split in ("train", "validation") for i in range(4)]
    event = made_event("judged", 60, split="test", waves=waves)
    sets = [*learned, event]
    training = Training(sets, choose_windows(sets, "stance"), "stance", STANCES)
    row = one(*sets, split="test", warm_ups=(24,), transitions_per_survey=1)
    rollout = run(
        model_of(FAMILY), processor_of(FAMILY), event, anchored=True, signal="none", action="choice",
        anchor_prior=dict(zip(STANCES, training.prior.tolist(), strict=True)), anchor_strength=training.alpha,
        warm_up=event.turns[row["warm_up"] - 1].wave or 24,
    )  # fmt: skip
    np.testing.assert_allclose(row["carry"], rollout.simulated()[0].probabilities, rtol=1e-12)
    assert not np.allclose(row["carry"], 1 / 3, atol=0.05)


def test_the_form_of_the_answer_is_that_of_a_simulation():
    # Those who support say nothing in the warm-up: their label is all they do.
    turns = [
        replace(turn, action="" if turn.labels["stance"] == "support" else "words") for turn in small_event(20).turns
    ]
    event = replace(small_event(20), split="train", turns=turns)
    plan = plan_simulation(event, SimulationConfig(warm_up=8))
    row = one(event, warm_ups=(8,))
    assert answer_of(row) == plan.answer
    assert row["silent"] == sorted(plan.silent) == ["support"]
    assert one(event, warm_ups=(8,), action="choice")["kind"] == "choice"


def test_free_text_has_no_shares():
    turns = [Turn(action="" if i % 5 == 4 else f"text {i}", state=f"person {i}") for i in range(20)]
    event = Event(event_id="x", topic="x", turns=turns, split="train")
    row = one(event, agents_per_step=4, warm_ups=(8,))
    assert (row["kind"], row["dimension"], row["options"], row["statistics"]) == ("text", "", [], "")
    assert (row["carry"], row["target_counts"]) == ([], [])
    assert row["history"][-1] == {"lines": ["text 5", "text 6", "text 7"], "tally": ""}
    # Turn 9 wrote nothing: there is nothing to predict.
    assert [person["action"] for person in row["people"]] == ["text 8", "text 10", "text 11", "text 12"]
    assert [json.loads(person["state"]) for person in row["people"]] == [f"person {i}" for i in (8, 10, 11, 12)]
    assert {person["label"] for person in row["people"]} == {-1}
    assert answer_of(row).dimension is None
    assert one(small := made_event("y"), action="text", warm_ups=(8,))["kind"] == "text" and small.dimensions


# -- who the target is ------------------------------------------------------------------------------------------------


def test_the_target_is_the_next_labelled_people_or_all():
    event = with_turns(made_event("e", 400), at={i: {"labels": {}} for i in range(60, 65)})
    row = one(event, warm_ups=(56,), max_states=3)
    assert [person["action"].split()[-1] for person in row["people"]] == [
        str(i) for i in [56, 57, 58, 59, *range(65, 77)]
    ]
    assert sum(row["target_counts"]) == 16
    row = one(event, warm_ups=(56,), horizon="all", max_states=3, max_people=1000)
    assert len(row["people"]) == sum(row["target_counts"]) == 304 - 56
    assert row["people"][-1]["action"].split()[-1] == str(304 + 5 - 1)


def test_the_target_of_free_text_ends_where_the_protocol_ends():
    turns = [Turn(action="" if i < 5 else f"{i}") for i in range(400)]
    event = Event(event_id="e", topic="x", turns=turns, split="train")
    row = one(event, warm_ups=(300,), horizon="all")
    assert [person["action"] for person in row["people"]] == [str(i) for i in range(300, 309)]


def test_the_target_of_a_survey_is_the_next_wave():
    event = made_event("e", waves=(30, 40, 50, 60))
    rows = build(event, max_people=12)
    assert len(rows) == 16
    drawn = Counter(row["warm_up"] for row in rows)
    assert set(drawn) == {30, 70, 120} and sorted(drawn.values()) == [5, 5, 6]
    for row in rows:
        size = {30: 40, 70: 50, 120: 60}[row["warm_up"]]
        wave = event.turns[row["warm_up"] : row["warm_up"] + size]
        weights = np.array([turn.weight for turn in wave])
        expected = [sum(w for w, t in zip(weights, wave, strict=True) if t.labels["stance"] == s) for s in STANCES]
        np.testing.assert_allclose(row["target_counts"], np.array(expected) / weights.mean())
        assert len(row["people"]) == 12
        assert {person["weight"] for person in row["people"]} <= set(weights)
        assert len(row["history"]) == min(3, {30: 1, 70: 2, 120: 3}[row["warm_up"]])
    same = [[p["weight"] for p in row["people"]] for row in rows if row["warm_up"] == 30]
    assert len({tuple(weights) for weights in same}) == len(same) > 1
    # The first time round the listed actions are those of a simulation; later others are listed.
    assert len({json.dumps(row["history"]) for row in rows if row["warm_up"] == 30}) > 1
    everybody = build(event, horizon="all", max_people=1000, transitions_per_survey=3)
    assert {row["warm_up"]: len(row["people"]) for row in everybody} == {30: 150, 70: 110, 120: 60}


def test_the_sample_of_people_is_bounded_and_fair():
    states = ["common"] * 6 + ["rare a", "rare b", "rare c", "rare d"]
    rng = random.Random(0)
    turns = [
        Turn(state=rng.choice(states) if i >= 8 else "", action=f"{i}", labels={"stance": "deny"}) for i in range(300)
    ]
    event = Event(event_id="e", topic="x", turns=turns, dimensions={"stance": STANCES}, split="train")
    settings = {"warm_ups": (8,), "horizon": "all", "transitions_per_event": 200, "max_people": 20}
    rows = build(event, **settings, max_states=3)
    assert all(len({person["state"] for person in row["people"]}) <= 3 for row in rows)
    assert max(len(row["people"]) for row in rows) <= 20
    for row in rows:
        order = [int(person["action"]) for person in row["people"]]
        assert order == sorted(set(order)) and order[0] >= 8
    people = [json.loads(person["state"]) for row in rows for person in row["people"]]
    real = sum(turn.state == "common" for turn in turns[8:]) / 292
    assert people.count("common") / len(people) == pytest.approx(real, abs=0.06)
    assert all(len(row["people"]) == 20 for row in build(event, **settings, max_states=5))
    assert all(len({p["state"] for p in row["people"]}) == 1 for row in build(event, **settings, max_states=1))


# -- which warm-ups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "allowed"),
    [(15, []), (16, [8]), (23, [8]), (24, [8, 16]), (55, [8, 16, 24, 32]), (56, [8, 16, 24, 32, 48])],
)
def test_warm_ups_leave_eight_labelled_people(n, allowed):
    draws = draw_warm_ups(made_event("e", n), TransitionSettings(transitions_per_event=5), "stance")
    assert sorted({draw.warm_up for draw in draws}) == allowed
    unlabelled = with_turns(made_event("e", n + 9), at={i: {"labels": {}} for i in range(2, 11)})
    draws = draw_warm_ups(unlabelled, TransitionSettings(transitions_per_event=5), "stance")
    assert sorted({draw.warm_up for draw in draws}) == allowed


def test_given_warm_ups_need_one_person():
    event = made_event("e", 10)
    settings = TransitionSettings(warm_ups=[12, 9, 4, 9, 10], transitions_per_event=5)
    assert settings.warm_ups == (4, 9, 10, 12)
    assert {draw.warm_up for draw in draw_warm_ups(event, settings, "stance")} == {4, 9}


def test_warm_ups_are_drawn_without_replacement_and_by_key():
    def drawn(event_id="e", **settings):
        event = made_event(event_id, 60)
        return [d.warm_up for d in draw_warm_ups(event, TransitionSettings(**settings), "stance")]

    ten = drawn(transitions_per_event=10)
    assert sorted(ten[:5]) == sorted(ten[5:]) == [8, 16, 24, 32, 48]
    assert all(drawn(transitions_per_event=n) == ten[:n] for n in (1, 3, 7))
    firsts = Counter(drawn(f"e{i}")[0] for i in range(300))
    assert set(firsts) == {8, 16, 24, 32, 48} and min(firsts.values()) > 30
    assert len({tuple(drawn(transitions_per_event=5, seed=seed)) for seed in range(20)}) > 10


def test_the_order_of_events_changes_no_row():
    events = [made_event(f"e{i}", 40 + i) for i in range(4)]
    forwards = {row["event_id"]: row for row in build(*events)}
    assert {row["event_id"]: row for row in build(*events[::-1])} == forwards


# -- several data sets, cache, errors ---------------------------------------------------------------------------------


def test_each_data_set_has_its_own_dimension_and_prior():
    moods = ("bad", "good")
    turns = [Turn(action=f"m {i}", labels={"mood": moods[i % 4 == 0]}) for i in range(40)]
    mood = Event(event_id="m", topic="x", turns=turns, dimensions={"mood": moods}, split="train")
    plain = Event(event_id="p", topic="x", turns=[Turn(action=f"p {i}") for i in range(40)], split="train")
    stance = [made_event("e0"), made_event("e1")]
    sets = {"moods": [mood], "stances": stance, "plain": [plain]}
    rows = list(build_transitions(sets, TransitionSettings(warm_ups=(8,)), cache=False))
    assert [(row["data_set"], row["dimension"], len(row["carry"])) for row in rows] == [
        ("moods", "mood", 2), ("stances", "stance", 3), ("stances", "stance", 3), ("plain", "", 0),
    ]  # fmt: skip
    assert rows[1:3] == build(*stance, name="stances", warm_ups=(8,))
    only = build_transitions(sets, TransitionSettings(warm_ups=(8,), dimension="mood"), cache=False)
    assert only["event_id"] == ["m"]


def test_short_events_are_left_out_and_counted(caplog):
    events = [made_event("long", 40), made_event("short", 12), made_event("empty", 30)]
    events[2] = replace(events[2], turns=[replace(turn, labels={}) for turn in events[2].turns])
    events.append(made_event("test", 12, split="test"))
    with caplog.at_level(logging.WARNING, logger="mf_llm"):
        assert [row["event_id"] for row in build(*events)] == ["long"]
    assert [record.getMessage() for record in caplog.records if "transition" in record.getMessage()] == [
        "d: 2 of 3 events have no transition (too few labelled people, or not labelled on 'stance')."
    ]


@pytest.fixture
def made_rows(tmp_path, monkeypatch):
    """The events whose rows were really made; the cache is empty and this test's own."""
    import datasets

    made = []
    real = transitions.transition_row

    def counted(event, *args, **kwargs):
        made.append(event.event_id)
        return real(event, *args, **kwargs)

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(transitions, "transition_row", counted)
    return made


def test_the_same_transitions_are_built_once(made_rows):
    def cached(events=("a", "b"), split="train", extra=(), **settings):
        made_rows.clear()
        sets = {"d": [*(made_event(name) for name in events), *extra]}
        return build_transitions(sets, TransitionSettings(**settings), split=split)

    first = cached()
    assert made_rows == ["a", "b"]
    again = cached()
    assert made_rows == []
    assert list(again) == list(first) == build(made_event("a"), made_event("b"))
    assert again._fingerprint == first._fingerprint  # what is mapped from it is found again, too
    assert again.features == transition_features()
    cached(extra=[made_event("t", split="test")])
    assert made_rows == []
    for changes in (
        {"seed": 1}, {"horizon": "all"}, {"events": ("a", "c")}, {"split": None}, {"warm_ups": (8,)},
        {"extra": [made_event("v", split="validation")]}, {"events": ("b", "a")},
    ):  # fmt: skip
        cached(**changes)
        assert made_rows, changes
    cached()
    assert made_rows == []


def test_a_changed_word_is_another_data_set(made_rows):
    event = made_event("a")
    build_transitions({"d": [event]})
    build_transitions({"d": [with_turns(event, at={39: {"action": "changed"}})]})
    build_transitions({"other": [event]})
    assert made_rows == ["a", "a", "a"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"agents_per_step": 0}, "agents_per_step"), ({"listed_actions": 0}, "listed_actions"),
        ({"shown_answers": -1}, "shown_answers"), ({"shown_answers": 201}, "shown_answers"),
        ({"max_history_steps": 0}, "max_history_steps"), ({"horizon": "far"}, "horizon"),
        ({"action": "shout"}, "action"), ({"transitions_per_event": 0}, "transitions_per_event"),
        ({"transitions_per_survey": True}, "transitions_per_survey"), ({"max_states": 1.5}, "max_states"),
        ({"max_people": 0}, "max_people"), ({"seed": -1}, "seed"), ({"warm_ups": ()}, "warm_ups"),
        ({"warm_ups": 8}, "warm_ups"), ({"warm_ups": (0,)}, "warm_ups"), ({"warm_ups": ("w1",)}, "warm_ups"),
        ({"dimension": 3}, "dimension"),
    ],
)  # fmt: skip
def test_settings_are_checked(settings, named):
    with pytest.raises(InputError, match=f"`{named}`"):
        TransitionSettings(**settings)


def test_what_cannot_be_built_says_so():
    event = made_event("e")
    with pytest.raises(InputError, match="`split` must be"):
        build(event, split="dev")
    with pytest.raises(InputError, match="`dimension` must be one that the events have \\(stance\\), got 'mood'"):
        build(event, dimension="mood")
    with pytest.raises(InputError, match="too short"):
        build(made_event("e", 10))
    with pytest.raises(InputError, match="too short"):
        build(event, split="validation")
    with pytest.raises(InputError, match="`action`"):
        build(Event(event_id="x", topic="x", turns=event.turns[:0] + (Turn(action="a"),) * 30, split="train"),
              action="choice")  # fmt: skip
