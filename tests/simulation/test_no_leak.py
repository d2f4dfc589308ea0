"""Of a turn after the warm-up nothing but its state, weight and wave may matter (method, section 1)."""

import random
from dataclasses import replace
from itertools import product

import pytest
from small_events import (
    STANCES,
    adapted_model,
    every_input,
    model_of,
    outcome,
    processor_of,
    run,
    small_event,
    texts_read,
    with_turns,
)

from mf_llm import Event
from mf_llm.benchmark.method_entry import UNTUNED
from mf_llm.benchmark.method_list import PACKAGED, load_method_list
from mf_llm.simulation.simulation_config import READOUTS, SIGNALS

pytest.importorskip("peft")

FAMILY, WARM_UP, SLOT = "llama", 8, 160.0
CANARY = "Zq7Canary"
STEPS = {
    "count": {"warm_up": WARM_UP},
    "wave": {"warm_up": "w2"},
    "time": {"warm_up": WARM_UP, "seconds_per_step": SLOT},
}
COMBINATIONS = [
    (signal, readout, anchored, action, steps)
    for signal, readout, anchored, action, steps in product(
        SIGNALS, READOUTS, (False, True), ("choice", "label_text", "text"), STEPS
    )
    if action != "text" or not (anchored or signal in ("statistics", "both"))
]


def event_for(steps: str) -> Event:
    waves = (4, 4, 3, 3) if steps == "wave" else ()
    return small_event(waves=waves, veracity=f"{CANARY}veracity", story=f"{CANARY}story", domain=f"{CANARY}domain")


def randomised(event: Event, seed: int, *, keep_slots: bool) -> Event:
    """`event` with everything that must not matter drawn anew; times stay in order, and in their slot if asked."""
    rng = random.Random(seed)
    origin = event.turns[0].time
    turns = list(event.turns[:WARM_UP])
    later = event.turns[WARM_UP:]
    if keep_slots:
        slots = [int((turn.time - origin) // SLOT) for turn in later]
        times = sorted(origin + SLOT * (slot + rng.random() * 0.999) for slot in slots)
        # A warm-up turn may share the slot: nobody may come before it.
        times = [max(time, turns[-1].time) for time in times]
    else:
        times = sorted(turns[-1].time + rng.random() * 1e7 for _ in later)
    for i, (turn, time) in enumerate(zip(later, times, strict=True), WARM_UP):
        turns.append(
            replace(
                turn,
                action=rng.choice(["", f"{CANARY}action {rng.random()}", "I do not believe this story."]),
                labels=rng.choice([{}, {"stance": rng.choice(STANCES)}, {"stance": rng.choice(STANCES)}]),
                time=time,
                parent=rng.choice([None, rng.randrange(i)]),
                kind=f"{CANARY}kind{rng.randrange(9)}",
                person=f"{CANARY}person{rng.randrange(9)}",
                extra={"perceived_share_vaccinated": f"{CANARY}share{rng.randrange(9)}", f"{CANARY}key": rng.random()},
            )
        )
    return replace(
        event,
        turns=tuple(turns),
        veracity=f"{CANARY}veracity{rng.random()}",
        story=f"{CANARY}story{rng.random()}",
        source=f"{CANARY}source",
        group=f"{CANARY}group",
        block=rng.randrange(9),
        split=rng.choice(["train", "test"]),
        domain=f"{CANARY}other domain",
        extra={f"{CANARY}field": f"{CANARY}value"},
    )


@pytest.mark.parametrize(
    ("signal", "readout", "anchored", "action", "steps"),
    COMBINATIONS,
    ids=["-".join([s, r, "anchored" if a else "plain", k, by]) for s, r, a, k, by in COMBINATIONS],
)
def test_the_future_does_not_matter(signal, readout, anchored, action, steps):
    model, processor, event = adapted_model(FAMILY), processor_of(FAMILY), event_for(steps)
    settings = {"signal": signal, "readout": readout, "anchored": anchored, "action": action, "steps": steps}
    settings |= STEPS[steps] | {"max_new_tokens": 3, "signal_max_tokens": 5}
    expected = run(model, processor, event, **settings)
    seed = COMBINATIONS.index((signal, readout, anchored, action, steps))
    changed = randomised(event, seed, keep_slots=steps == "time")
    assert changed.content_hash() != event.content_hash()
    with every_input(model) as seen:
        found = run(model, processor, changed, **settings)
    assert sum(row.source == "real" for row in expected.actions) == WARM_UP
    assert len(expected.actions) == len(event.turns)
    assert outcome(found) == outcome(expected)
    assert CANARY not in texts_read(processor, seen)


LISTS = {name: load_method_list(name) for name in PACKAGED}
METHODS = [(name, entry.name) for name, methods in LISTS.items() for entry in methods.select(["all"])]


@pytest.mark.parametrize(
    ("listed", "method"), [(a, b) for a, b in METHODS if LISTS[a].methods[b].is_simulated], ids=lambda value: value
)
@pytest.mark.parametrize("sampled", [False, True], ids=["exact", "sampled"])
def test_the_future_does_not_matter_for_any_method_of_the_benchmark(listed, method, sampled):
    methods = LISTS[listed]
    entry = methods.methods[method]
    options = methods.options_of(entry.sampled() if sampled else entry, "covid19_rumours")
    model = model_of(FAMILY) if entry.kind == UNTUNED else adapted_model(FAMILY)
    processor, event = processor_of(FAMILY), event_for("count")
    settings = options | {"warm_up": WARM_UP, "max_new_tokens": 3, "signal_max_tokens": 5}
    if options.get("anchor", "carry") != "carry":  # as training events would give them
        read = [0.4] if options["anchor"] == "probe" else []
        settings["anchor_weights"] = {stance: [0.2 * k, -0.1, 0.3, 0.05, *read] for k, stance in enumerate(STANCES)}
        settings["anchor_features"] = {event.event_id: read}
    with every_input(model) as seen:
        found = run(model, processor, randomised(event, len(method), keep_slots=False), **settings)
    assert outcome(found) == outcome(run(model, processor, event, **settings))
    assert CANARY not in texts_read(processor, seen)


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "mistral", "gpt2"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_the_future_does_not_matter_in_other_families(family, signal):
    model, processor, event = model_of(family), processor_of(family), event_for("count")
    changed = randomised(event, 5, keep_slots=False)
    with every_input(model) as seen:
        found = run(model, processor, changed, signal=signal)
    assert outcome(found) == outcome(run(model, processor, event, signal=signal))
    assert CANARY not in texts_read(processor, seen)


@pytest.mark.parametrize("anchored", [False, True], ids=["plain", "anchored"])
def test_automatic_choices_look_at_the_warm_up_alone(anchored):
    # Nobody writes in the warm-up, everybody afterwards; wave, action kind and warm-up are left to the package.
    model, processor, event = adapted_model(FAMILY), processor_of(FAMILY), event_for("wave")
    event = with_turns(event, at={i: {"action": ""} for i in range(11)})
    loud = with_turns(event, at={i: {"action": f"{CANARY} loud", "labels": {}} for i in (11, 12, 13)})
    settings = {"warm_up": None, "anchored": anchored}
    first, second = (run(model, processor, one, **settings) for one in (event, loud))
    assert first.config["resolved"] == second.config["resolved"]
    assert first.config["resolved"]["action"] == "choice"
    assert first.config["resolved"]["warm_up_turns"] == 11
    assert outcome(first) == outcome(second)


def test_the_default_warm_up_does_not_look_at_later_labels():
    model, processor = model_of(FAMILY), processor_of(FAMILY)
    event = small_event(17)
    plain = with_turns(event, at={i: {"labels": {}} for i in range(8, 17)})
    first, second = (run(model, processor, one, warm_up=None, action="choice") for one in (event, plain))
    assert first.config["resolved"]["warm_up_turns"] == 8
    assert outcome(first) == outcome(second)


def test_the_spy_sees_what_does_reach_the_models():
    model, processor, event = model_of(FAMILY), processor_of(FAMILY), event_for("count")
    event = with_turns(event, at={4: {"action": f"{CANARY}early"}, 12: {"state": {"job": f"{CANARY}state"}}})
    with every_input(model) as seen:
        run(model, processor, event)
    text = texts_read(processor, seen)
    assert f"{CANARY}early" in text and f"{CANARY}state" in text and event.topic in text
    assert f"{CANARY}veracity" not in text


@pytest.mark.parametrize("action", ["choice", "label_text"])
@pytest.mark.parametrize(
    ("signal", "change"),
    [
        ("text", {"action": "Something else altogether."}),
        ("statistics", {"labels": {"stance": "query"}}),
        ("both", {"labels": {"stance": "query"}}),
        ("recent", {"action": "Something else altogether."}),
        ("popular", {"action": "Something else altogether."}),
    ],
)
def test_the_warm_up_does_matter(signal, change, action):
    model, processor, event = model_of(FAMILY), processor_of(FAMILY), event_for("count")
    changed = with_turns(event, at={7: change})
    settings = {"signal": signal, "action": action}
    one, other = run(model, processor, event, **settings), run(model, processor, changed, **settings)
    assert one.steps[-2].signal != other.steps[-2].signal
    assert [row.probabilities for row in one.simulated()] != [row.probabilities for row in other.simulated()]


def test_the_warm_up_does_not_matter_without_a_signal_but_moves_the_anchor():
    model, processor, event = adapted_model(FAMILY), processor_of(FAMILY), event_for("count")
    changed = with_turns(event, at={7: {"labels": {"stance": "query"}}})
    plain = [run(model, processor, one, signal="none").simulated() for one in (event, changed)]
    assert plain[0] == plain[1]
    anchored = [run(model, processor, one, signal="none", anchored=True).simulated() for one in (event, changed)]
    assert all(a.probabilities != b.probabilities for a, b in zip(*anchored, strict=True))


@pytest.mark.parametrize("anchored", [False, True], ids=["plain", "anchored"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_later_state_does_matter(signal, anchored):
    model, processor, event = adapted_model(FAMILY), processor_of(FAMILY), event_for("count")
    changed = with_turns(event, at={9: {"state": {"age": 77, "occupation": "retired teacher"}}})
    settings = {"signal": signal, "anchored": anchored, "action": "choice"}
    one, other = (run(model, processor, e, **settings).simulated() for e in (event, changed))
    assert one[0] == other[0] and one[2] == other[2]
    assert one[1].turn == 9 and one[1].probabilities != other[1].probabilities


def test_a_later_weight_reaches_the_shares_and_nothing_else():
    model, processor, event = model_of(FAMILY), processor_of(FAMILY), event_for("count")
    changed = with_turns(event, at={11: {"weight": 9.0}})
    one, other = (run(model, processor, e, signal="none") for e in (event, changed))
    assert [replace(row, weight=0.0) for row in one.actions] == [replace(row, weight=0.0) for row in other.actions]
    assert [a.shares == b.shares for a, b in zip(one.steps, other.steps, strict=True)] == [True] * 4 + [False]
