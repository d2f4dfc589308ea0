"""Of a transition's future nothing but the target people themselves reaches its row."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from made_transitions import build, made_event
from small_events import STANCES, with_turns

from mf_llm import Turn
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.protocol import choose_windows

CANARY = "Zq7Canary"
PAST = ("history", "statistics", "carry", "warm_up", "kind", "silent")


def randomised(turn: Turn, rng: random.Random) -> Turn:
    return replace(
        turn,
        action=rng.choice(["", f"{CANARY} action {rng.random()}"]),
        labels={"stance": rng.choice(STANCES)},
        kind=f"{CANARY} kind",
        person=f"{CANARY} person {rng.random()}",
        extra={"perceived_share_vaccinated": f"{CANARY} share"},
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("horizon", ["next", "all"])
@pytest.mark.parametrize("waves", [(), (24, 20, 30)], ids=["count", "wave"])
def test_what_the_targets_do_does_not_reach_the_past(waves, horizon, split):
    learned = [made_event(f"learned{i}", 60, split="train" if i % 3 else "validation") for i in range(12)]
    event = made_event("judged", 60, split=split, waves=waves)
    settings = {"warm_ups": (24,), "horizon": horizon, "transitions_per_survey": 1, "agents_per_step": 10}
    row = next(r for r in build(*learned, event, split=None, **settings) if r["event_id"] == "judged")
    changed_targets = 0
    for seed in range(5):
        rng = random.Random(seed)
        turns = [t if i < row["warm_up"] else randomised(t, rng) for i, t in enumerate(event.turns)]
        changed = replace(event, turns=turns, veracity=f"{CANARY} veracity", story=f"{CANARY} story")
        found = next(r for r in build(*learned, changed, split=None, **settings) if r["event_id"] == "judged")
        assert {name: found[name] for name in PAST} == {name: row[name] for name in PAST}
        assert CANARY not in json.dumps({name: found[name] for name in row if name != "people"})
        changed_targets += found["target_counts"] != row["target_counts"]
    assert changed_targets


def test_nothing_behind_the_targets_reaches_a_row():
    # Another train event is there for the prior.
    other, event = made_event("other", 60), made_event("judged", 60)
    settings = {"warm_ups": (16,), "agents_per_step": 10}
    rows = build(other, event, **settings)
    for seed in range(5):
        rng = random.Random(seed)
        turns = list(event.turns[:26])
        for turn in event.turns[26 : rng.choice([26, 30, 60])]:
            labels = rng.choice([{}, {"stance": rng.choice(STANCES)}])
            turns.append(replace(randomised(turn, rng), labels=labels, state={"party": CANARY}, weight=rng.random()))
        found = build(other, replace(event, turns=turns), **settings)
        assert found[1] == rows[1]


def test_the_past_does_matter():
    other, event = made_event("other", 60), made_event("judged", 60)
    settings = {"warm_ups": (16,), "agents_per_step": 8, "max_history_steps": 1}
    row = build(other, event, **settings)[1]
    turn = event.turns[12]
    label = next(stance for stance in STANCES if stance != turn.labels["stance"])
    said = build(other, with_turns(event, at={12: {"action": "said otherwise"}}), **settings)[1]
    assert said["history"] != row["history"] and said["carry"] == row["carry"]
    labelled = build(other, with_turns(event, at={12: {"labels": {"stance": label}}}), **settings)[1]
    assert all(labelled[name] != row[name] for name in ("history", "statistics", "carry"))
    # Too long ago to be told, not too long ago to be counted.
    early = build(other, with_turns(event, at={3: {"action": "said otherwise"}}), **settings)[1]
    assert early["history"] == row["history"]
    counted = build(other, with_turns(event, at={0: {"labels": {}}}), **settings)[1]
    assert counted["statistics"] != row["statistics"]
    prior = build(with_turns(other, at={50: {"labels": {}}, 51: {"labels": {}}}), event, **settings)[1]
    assert prior["carry"] != row["carry"] and prior["history"] == row["history"]


def test_the_anchor_of_an_event_is_learned_from_the_others():
    events = [made_event(f"e{i}", 60) for i in range(3)]
    rows = build(*events, warm_ups=(16,))
    for row, event in zip(rows, events, strict=True):
        rest = [other for other in events if other is not event]
        alpha = Training(rest, choose_windows(events, "stance"), "stance", STANCES).alpha
        others = [turn for other in rest for turn in other.turns]
        prior = np.array([sum(turn.labels["stance"] == stance for turn in others) for stance in STANCES]) + 0.5
        past = [sum(turn.labels["stance"] == stance for turn in event.turns[:16]) for stance in STANCES]
        np.testing.assert_allclose(row["carry"], (past + alpha * prior / prior.sum()) / (16 + alpha))


def test_other_splits_give_no_row_and_test_events_are_not_looked_at():
    train, validation, test = (made_event(split, 60, split=split) for split in ("train", "validation", "test"))
    rng = random.Random(0)
    scrambled = replace(test, turns=[randomised(turn, rng) for turn in test.turns])
    rows = build(train, validation, test)
    assert [row["event_id"] for row in rows] == ["train"]
    assert build(train, validation, scrambled) == rows
    assert [row["event_id"] for row in build(train, validation, test, split="validation")] == ["validation"]
    assert [row["event_id"] for row in build(train, validation, test, split=None)] == ["train", "validation", "test"]
