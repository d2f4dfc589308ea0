"""Simulated pasts: told as the rollout tells them, without anything people really did behind the warm-up."""

import json
import random
from dataclasses import replace

import pytest
from made_transitions import build, made_event, one
from small_events import STANCES, adapted_model, every_input, model_of, new_model, processor_of, run, texts_read

from mf_llm import Event, InputError, Turn
from mf_llm.simulation import runner
from mf_llm.simulation.signals import shares_in_words
from mf_llm.training.simulated_history import with_simulated_history
from mf_llm.training.transition_settings import TransitionSettings

CANARY = "Zq7Canary"
FAMILY = "llama"
QUICK = {"max_new_tokens": 4, "signal_max_tokens": 6, "max_prompt_tokens": 600}
CUTS = {
    "count": ({}, {"warm_ups": (8,), "agents_per_step": 4}),
    "wave": ({"waves": (6, 8, 7, 9)}, {"transitions_per_survey": 8}),
}
UNCHANGED = ("event_id", "data_set", "topic", "language", "dimension", "options", "kind", "silent", "draw", "carry")


def rolled_on(row, event, settings, *, model=None, steps=2, seed=5, **options):
    return with_simulated_history(
        row, event, model or model_of(FAMILY), processor_of(FAMILY), steps=steps, config_options=QUICK | options,
        seed=seed, settings=settings,
    )  # fmt: skip


def case(cut: str, n: int = 30, **more) -> tuple[dict, Event, TransitionSettings]:
    """A row that ends its past after turn 8, or after the first wave; its event; its settings."""
    fields, changes = CUTS[cut]
    event = made_event("e", n, **fields)
    changes = changes | more
    first = {"count": 8, "wave": 6}[cut]
    row = next(row for row in build(event, **changes) if row["warm_up"] == first)
    return row, event, TransitionSettings(**changes)


@pytest.mark.parametrize("signal", ["text", "statistics", "none"])
@pytest.mark.parametrize("cut", CUTS)
def test_the_past_is_that_of_the_rollout(cut, signal, monkeypatch):
    row, event, settings = case(cut)
    found = rolled_on(row, event, settings, signal=signal)
    processor, told = processor_of(FAMILY), []
    real = processor.mean_field_prompt

    def spy(topic, previous, lines, *, tally=None, limits=None):
        told.append({"lines": list(lines), "tally": tally or ""})
        return real(topic, previous, lines, tally=tally, limits=limits)

    monkeypatch.setattr(processor, "mean_field_prompt", spy)
    warm_up = "w1" if cut == "wave" else 8
    same = {"signal": signal, "warm_up": warm_up, "action": "auto", "agents_per_step": 4, "seed": 5}
    rollout = run(model_of(FAMILY), processor, event, **QUICK | same)
    last = (2 if cut == "count" else 1) + 2  # the step whose people are the targets
    if signal == "text":  # otherwise there is no mean-field model that is told anything
        assert found["history"] == told[last - 3 : last]
    elif signal == "statistics":
        assert found["statistics"] == rollout.steps[last].signal
    simulated = [a for a in rollout.actions if a.source == "simulated" and a.step < last]
    texts = [action.text for action in simulated if action.text]
    lines = "\n".join(line for step in found["history"] for line in step["lines"])
    assert all(text in lines for text in texts)
    assert bool(texts) == (cut == "count")
    assert {name: found[name] for name in UNCHANGED} == {name: row[name] for name in UNCHANGED}


@pytest.mark.parametrize("cut", CUTS)
def test_the_people_are_those_behind_the_simulated_ones(cut):
    row, event, settings = case(cut)
    found = rolled_on(row, event, settings)
    past, people = {"count": (16, range(16, 20)), "wave": (21, range(21, 30))}[cut]
    assert found["warm_up"] == past
    assert [person["weight"] for person in found["people"]] == [event.turns[i].weight for i in people]
    assert [person["label"] for person in found["people"]] == [
        STANCES.index(event.turns[i].labels["stance"]) for i in people
    ]
    assert sum(found["target_counts"]) == pytest.approx(len(people))
    assert found["history"] != row["history"] and found["statistics"] != row["statistics"]
    assert row == case(cut)[0]  # what was given is left as it was
    # A transition with a real past of this length has the same targets.
    if cut == "count":
        real = one(event, warm_ups=(16,), agents_per_step=4)
        assert all(real[name] == found[name] for name in ("warm_up", "people", "target_counts"))


def test_real_steps_before_are_told_as_far_as_the_history_reaches():
    row, event, settings = case("count")
    far, near = rolled_on(row, event, settings, steps=2), rolled_on(row, event, settings, steps=1)
    assert near["history"][:2] == row["history"]
    assert far["history"][0] == row["history"][1] and far["history"][1] == near["history"][2]


def forbidden(event: Event, start: int, end: int, seed: int) -> Event:
    """`event` with all that may not be known from `start` on drawn anew, and everybody from `end` on somebody else."""
    rng = random.Random(seed)
    turns = list(event.turns[:start])
    for i, turn in enumerate(event.turns[start:], start):
        changes = {
            "action": f"{CANARY} action {rng.random()}",
            "labels": {"stance": rng.choice(STANCES)},
            "parent": rng.randrange(i),
            "kind": f"{CANARY} kind",
            "person": f"{CANARY} person",
            "time": None,
            "extra": {"perceived_share_vaccinated": f"{CANARY} share"},
        }
        if i >= end:
            changes |= {"state": {"party": f"{CANARY} state {rng.random()}"}, "weight": 0.5 + rng.random()}
        turns.append(replace(turn, **changes))
    return replace(event, turns=turns, veracity=f"{CANARY} veracity", story=f"{CANARY} story", extra={"x": CANARY})


@pytest.mark.parametrize("anchored", [False, True], ids=["plain", "anchored"])
@pytest.mark.parametrize("signal", ["text", "both", "popular"])
@pytest.mark.parametrize("cut", CUTS)
def test_nothing_real_behind_the_warm_up_reaches_the_past(cut, signal, anchored):
    row, event, settings = case(cut)
    model, options = adapted_model(FAMILY), {"signal": signal, "anchored": anchored}
    expected = rolled_on(row, event, settings, model=model, **options)
    for seed in range(2):
        changed = forbidden(event, row["warm_up"], expected["warm_up"], seed)
        with every_input(model) as seen:
            found = rolled_on(row, changed, settings, model=model, **options)
        for name in ("history", "statistics", "carry", "warm_up"):
            assert found[name] == expected[name]
        assert CANARY not in texts_read(processor_of(FAMILY), seen)
        assert CANARY not in json.dumps({name: found[name] for name in row if name != "people"})
        # The test can fail: the people to be predicted are the changed ones.
        assert found["people"] != expected["people"] and CANARY in found["people"][0]["action"]


@pytest.mark.parametrize("cut", CUTS)
def test_the_simulated_event_does_not_even_hold_the_future(cut, monkeypatch):
    row, event, settings = case(cut)
    event = forbidden(event, row["warm_up"], len(event.turns), 0)
    given = []
    simulate = runner.simulate

    def spy(model, processor, event, *args, **kwargs):
        given.append(event)
        return simulate(model, processor, event, *args, **kwargs)

    monkeypatch.setattr(runner, "simulate", spy)
    found = rolled_on(row, event, settings)
    assert len(given) == 1 and len(given[0].turns) == found["warm_up"]
    assert CANARY not in json.dumps(given[0].to_dict())
    assert given[0].turns[: row["warm_up"]] == event.turns[: row["warm_up"]]
    for turn, real in zip(given[0].turns, event.turns, strict=False):
        assert (turn.state, turn.weight, turn.wave) == (real.state, real.weight, real.wave)


def test_the_states_of_the_simulated_people_do_matter():
    row, event, settings = case("count")
    model = adapted_model(FAMILY)
    turns = [replace(t, state={"party": "another"}) if 8 <= i < 16 else t for i, t in enumerate(event.turns)]
    one_row = rolled_on(row, event, settings, model=model)
    assert rolled_on(row, replace(event, turns=turns), settings, model=model)["history"] != one_row["history"]
    assert rolled_on(row, event, settings, model=model, seed=6)["history"] != one_row["history"]
    assert rolled_on(row, event, settings, model=model) == one_row


@pytest.mark.parametrize("cut", CUTS)
def test_an_anchored_rollout_stands_on_the_anchor_of_the_row(cut):
    row, event, settings = case(cut)
    row = row | {"carry": [0.22, 0.5, 0.28]}
    # Without adapters everybody answers with the anchor itself.
    found = rolled_on(row, event, settings, anchored=True)
    assert found["history"][-1]["tally"] == f"In total: {shares_in_words(STANCES, row['carry'])}."
    assert found["carry"] == row["carry"]


def test_a_row_with_too_few_people_behind_it_stays_as_it_is():
    row, event, settings = case("count", n=18)
    model = new_model(FAMILY)
    with every_input(model) as seen:
        assert rolled_on(row, event, settings, model=model, steps=3) == row
        assert rolled_on(row, event, settings, model=model, steps=50) == row
    assert seen == {"policy": [], "mean_field": []}
    assert rolled_on(row, event, settings, steps=2)["warm_up"] == 16
    # With the default lengths eight people must be left.
    default = one(event := made_event("e", 21), agents_per_step=4)
    eight = TransitionSettings(agents_per_step=4)
    assert rolled_on(default, event, eight, steps=2) == default
    assert rolled_on(default, event, eight, steps=1)["warm_up"] == 12
    row, event, settings = case("wave")
    assert rolled_on(row, event, settings, steps=3) == row
    assert rolled_on(row, event, settings, steps=2)["warm_up"] == 21


@pytest.mark.parametrize(("cut", "simulated"), [("count", 4), ("wave", 2)])
def test_of_a_wave_a_sample_is_simulated(cut, simulated):
    row, event, settings = case(cut, max_people=2)
    found = rolled_on(row, event, settings, steps=1)
    assert len(found["history"][-1]["lines"]) == simulated
    assert len(found["people"]) == 2 and sum(found["target_counts"]) > 3
    assert len(rolled_on(row, event, settings, steps=1, max_people_per_step=3)["history"][-1]["lines"]) == 3


def test_unlabelled_turns_count_as_people_of_a_step():
    event = made_event("e", 40)
    turns = [replace(turn, labels={}) if i in (1, 3, 9, 17, 18) else turn for i, turn in enumerate(event.turns)]
    event = replace(event, turns=turns)
    changes = {"warm_ups": (8,), "agents_per_step": 4}
    row = one(event, **changes)
    found = rolled_on(row, event, TransitionSettings(**changes), steps=2)
    assert (row["warm_up"], found["warm_up"]) == (11, 19)  # the eighth labelled turn is turn 10
    assert [person["action"].split()[-1] for person in found["people"]] == ["19", "20", "21", "22"]


def test_free_text_is_rolled_on_too():
    turns = [Turn(action=f"text {i}" if i < 8 else f"{CANARY} {i}", state={"age": 20 + i}) for i in range(24)]
    event = Event(event_id="x", topic="x", turns=turns, split="train")
    settings = TransitionSettings(warm_ups=(8,), agents_per_step=4)
    row = one(event, warm_ups=(8,), agents_per_step=4)
    found = rolled_on(row, event, settings)
    assert (found["statistics"], found["carry"], found["warm_up"]) == ("", [], 16)
    assert CANARY not in json.dumps(found["history"])
    assert [person["action"] for person in found["people"]] == [f"{CANARY} {i}" for i in range(16, 20)]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    row, event, settings = case("count")
    model = new_model(FAMILY).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rolled_on(row, event, settings, model=model)
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_mistakes_are_named():
    row, event, settings = case("count")
    with pytest.raises(InputError, match="`event` must be the event of the row"):
        rolled_on(row, made_event("other"), settings)
    for steps in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="`steps`"):
            rolled_on(row, event, settings, steps=steps)
    with pytest.raises(InputError, match="`signal`"):
        rolled_on(row, event, settings, signal="rumour")
