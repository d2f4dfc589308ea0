"""Who acts together, where the warm-up ends and what an action is."""

import re
from itertools import pairwise

import pytest
from small_events import STANCES, model_of, outcome, processor_of, run, small_event, with_turns

from mf_llm import Event, InputError, SimulationConfig, Turn
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation import plan_simulation
from mf_llm.simulation.steps import Step


def plan(event, **settings):
    return plan_simulation(event, SimulationConfig(**settings))


def turns_of(made):
    return [(step.real, step.turns) for step in made.steps]


def test_by_count_the_warm_up_ends_a_step():
    made = plan(small_event(12), warm_up=5, agents_per_step=3)
    assert made.steps == (
        Step(index=0, turns=(0, 1, 2), real=True),
        Step(index=1, turns=(3, 4), real=True),
        Step(index=2, turns=(5, 6, 7), real=False),
        Step(index=3, turns=(8, 9, 10), real=False),
        Step(index=4, turns=(11,), real=False),
    )
    assert (made.warm_up, made.n_simulated) == (5, 7)


def test_by_time_people_of_a_slot_act_together_and_the_warm_up_ends_a_step():
    event = small_event(10)  # every 40 seconds
    made = plan(event, steps="time", seconds_per_step=100, warm_up=4)
    assert turns_of(made) == [(True, (0, 1, 2)), (True, (3,)), (False, (4,)), (False, (5, 6, 7)), (False, (8, 9))]
    late = with_turns(event, at={9: {"time": 9e9}})  # empty slots make no steps
    made = plan(late, steps="time", seconds_per_step=100, warm_up=4)
    assert turns_of(made)[-3:] == [(False, (5, 6, 7)), (False, (8,)), (False, (9,))]


@pytest.mark.parametrize("steps", ["wave", "auto"])
def test_by_wave_each_wave_is_a_step(steps):
    made = plan(small_event(waves=(4, 3, 5)), steps=steps)
    assert [(step.wave, step.real, step.turns) for step in made.steps] == [
        ("w1", True, (0, 1, 2, 3)),
        ("w2", True, (4, 5, 6)),
        ("w3", False, (7, 8, 9, 10, 11)),
    ]
    assert [step.real for step in plan(small_event(waves=(4, 3, 5)), steps=steps, warm_up="w1").steps] == [
        True,
        False,
        False,
    ]
    assert [step.real for step in plan(small_event(waves=(4, 3)), steps=steps, warm_up=0).steps] == [False, False]
    assert [step.real for step in plan(small_event(waves=(4,)), steps=steps).steps] == [False]


def test_a_turn_without_a_wave_makes_auto_count():
    event = with_turns(small_event(waves=(4, 8)), at={i: {"wave": None} for i in range(4, 12)})
    made = plan(event, warm_up=4, agents_per_step=4)
    assert [step.wave for step in made.steps] == [None, None, None]


@pytest.mark.parametrize(("n", "expected"), [(64, 48), (63, 16), (32, 16), (31, 8), (16, 8), (15, 7), (2, 1)])
def test_the_default_warm_up_is_the_protocols(n, expected):
    assert plan(small_event(n)).warm_up == expected


def test_the_warm_up_counts_labelled_turns_where_there_are_labels():
    event = with_turns(small_event(14), at={i: {"labels": {}} for i in (1, 2, 5, 9)})
    # labelled: 0 3 4 6 7 8 10 ...: the simulation starts right behind the fourth of them
    assert plan(event, warm_up=4).warm_up == 7
    assert plan(event, warm_up=1).warm_up == 1
    assert plan(event, warm_up=0).warm_up == 0
    # Where nobody was labelled, everybody counts.
    assert plan(with_turns(event, at={i: {"labels": {}} for i in range(14)}), warm_up=4).warm_up == 4
    assert plan(event, warm_up=4, action="text").warm_up == 4


def test_at_most_max_actions():
    made = plan(small_event(14), warm_up=5, agents_per_step=4, max_actions=11)
    assert turns_of(made) == [(True, (0, 1, 2, 3)), (True, (4,)), (False, (5, 6, 7, 8)), (False, (9, 10))]
    assert turns_of(plan(small_event(14), warm_up=5, max_actions=99)) == turns_of(plan(small_event(14), warm_up=5))


def test_people_of_a_step_by_count_are_sampled_at_equal_distances():
    event = small_event(74)
    made = [plan(event, warm_up=10, agents_per_step=32, max_people_per_step=8, seed=seed).steps for seed in range(9)]
    for steps in made:
        assert [step.turns for step in steps if step.real] == [tuple(range(10))]
        for start, step in zip((10, 42), [step for step in steps if not step.real], strict=True):
            assert {j - i for i, j in pairwise(step.turns)} == {4} and start <= step.turns[0] < start + 4
    assert len({steps[1].turns for steps in made}) > 1
    uneven = plan(event, warm_up=10, agents_per_step=32, max_people_per_step=7).steps[1].turns
    assert len(set(uneven)) == 7 and {j - i for i, j in pairwise(uneven)} == {4, 5} and uneven[-1] < 42
    everybody = plan(event, warm_up=10, agents_per_step=32)
    assert turns_of(plan(event, warm_up=10, agents_per_step=32, max_people_per_step=32)) == turns_of(everybody)


def test_at_most_max_people_per_step_by_a_keyed_sample():
    event = small_event(waves=(20, 30))
    made = plan(event, max_people_per_step=8)
    assert made.steps[0].turns == tuple(range(20))
    sampled = made.steps[1].turns
    assert len(sampled) == 8 and list(sampled) == sorted(set(sampled)) and set(sampled) <= set(range(20, 50))
    assert plan(event, max_people_per_step=8) == made
    assert plan(event, max_people_per_step=8, seed=1).steps[1].turns != sampled
    assert plan(event, max_people_per_step=30).steps[1].turns == tuple(range(20, 50))
    rollout = run(
        model_of("qwen2"), processor_of("qwen2"), event, warm_up="w1", max_people_per_step=8, action="choice"
    )
    assert [row.turn for row in rollout.simulated()] == list(sampled)
    assert [row.weight for row in rollout.simulated()] == [event.turns[i].weight for i in sampled]


def test_what_an_action_is_follows_from_the_warm_up():
    event = small_event(14)
    assert plan(event, warm_up=8).answer == AnswerFormat(kind="label_text", dimension="stance", options=STANCES)
    silent = with_turns(event, at={i: {"action": " \n"} for i in range(8)})
    assert plan(silent, warm_up=8).answer.kind == "choice"
    assert plan(silent, warm_up=0).answer.kind == "label_text"
    assert plan(small_event(14, dimensions={"stance": STANCES}), warm_up=8, action="text").answer == AnswerFormat(
        kind="text"
    )
    assert plan(small_event(9, language="zh"), warm_up=4, action="choice").answer.language == "zh"


def test_labels_whose_people_wrote_nothing_are_silent():
    event = small_event(14)
    quiet = with_turns(
        event, at={i: {"action": ""} for i in range(14) if event.turns[i].labels["stance"] == "support"}
    )
    assert plan(quiet, warm_up=8).silent == frozenset({"support"})
    assert plan(quiet, warm_up=8, action="choice").silent == frozenset()
    assert plan(event, warm_up=8).silent == frozenset()  # "query" was not heard of at all
    rollout = run(model_of("qwen2"), processor_of("qwen2"), quiet, max_new_tokens=6)
    assert rollout.config["resolved"]["silent_labels"] == ["support"]
    assert all(row.text == "" for row in rollout.simulated() if row.label == "support")
    assert any(row.text for row in rollout.simulated() if row.label != "support")


def test_a_dimension_may_be_chosen():
    event = with_turns(
        small_event(10, dimensions={"stance": STANCES, "mood": ("calm", "angry")}),
        at={i: {"labels": {"mood": "angry"}} for i in range(10)},
    )
    assert plan(event, warm_up=4).answer.dimension == "stance"
    assert plan(event, warm_up=4, dimension="mood").answer.options == ("calm", "angry")
    rollout = run(model_of("qwen2"), processor_of("qwen2"), event, warm_up=4, dimension="mood")
    assert rollout.categories == ("calm", "angry") and {row.label for row in rollout.actions[:4]} == {"angry"}


def test_an_event_without_dimensions_times_and_states_is_free_text():
    turns = tuple(Turn(action=f"I think {i}.") for i in range(8))
    event = Event(event_id="bare", topic="A rumour.", turns=turns)
    rollout = run(model_of("qwen2"), processor_of("qwen2"), event, warm_up=4)
    assert (rollout.dimension, rollout.categories) == (None, ())
    assert [row.shares for row in rollout.steps] == [None] * 4
    assert [row.source for row in rollout.actions[:4]] == ["real"] * 4
    assert all(row.label is None and row.probabilities is None and row.state == "" for row in rollout.actions)
    assert any(row.text for row in rollout.simulated())


BARE = Event(event_id="bare", topic="A rumour.", turns=(Turn(action="x"),) * 6)


@pytest.mark.parametrize(
    ("event", "settings", "message"),
    [
        (small_event(9), {"dimension": "mood"}, "`dimension` must be one of ['stance'] of event 'rumour-1', got"),
        (small_event(9), {"warm_up": 9}, "`warm_up` must leave somebody to simulate, got 9 warm-up turns of 9"),
        (small_event(9), {"warm_up": 40}, "`warm_up` must leave somebody to simulate, got 9 warm-up turns of 9"),
        (
            small_event(9),
            {"warm_up": 4, "max_actions": 4},
            "got 4 warm-up turns of 4 in event 'rumour-1'; lower `warm_up`",
        ),
        (small_event(1), {"warm_up": 1}, "`warm_up` must leave somebody to simulate"),
        (small_event(9), {"warm_up": "w1"}, "`warm_up` must be a number of actions for event 'rumour-1'"),
        (
            small_event(9),
            {"steps": "wave"},
            "`steps` must not be \"wave\" for event 'rumour-1': its turn 0 has no wave",
        ),
        (
            small_event(waves=(3, 3)),
            {"warm_up": 2},
            "`warm_up` must be the name of a wave (w1, w2) for event 'rumour-1'",
        ),
        (
            small_event(waves=(3, 3)),
            {"warm_up": "w9"},
            "`warm_up` must be one of the waves w1, w2 of event 'rumour-1', got 'w9'",
        ),
        (
            small_event(waves=(3, 3)),
            {"warm_up": "w2"},
            "`warm_up` must leave somebody to simulate, got 6 warm-up turns of 6",
        ),
        (BARE, {"steps": "time", "seconds_per_step": 9, "warm_up": 2}, 'its turn 0 has no time; use "count"'),
        (
            BARE,
            {"action": "choice"},
            "`action` must be \"text\" for event 'bare', which has no dimensions, got 'choice'",
        ),
        (BARE, {"signal": "statistics"}, "`signal` must not be 'statistics' for free text without a dimension"),
        (BARE, {"signal": "both"}, "`signal` must not be 'both' for free text without a dimension"),
        (BARE, {"anchored": True}, "`anchored` must be False for free text without a dimension (event 'bare')"),
        (BARE, {"dimension": "stance"}, "`dimension` must be one of [] of event 'bare', got 'stance'"),
    ],
)
def test_what_cannot_be_simulated_is_refused(event, settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        plan(event, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signal": "vibes"}, "`signal` must be one of text, statistics, both, none, recent, popular, got 'vibes'"),
        ({"readout": "x"}, "`readout` must be one of sampled, exact"),
        ({"action": "x"}, "`action` must be one of auto, text, choice, label_text"),
        ({"steps": "x"}, "`steps` must be one of auto, count, time, wave"),
        (
            {"steps": "time"},
            '`seconds_per_step` must be a positive number with steps="time" (a thousandth or more), got None',
        ),
        ({"steps": "time", "seconds_per_step": -1.0}, "`seconds_per_step` must be a positive number"),
        ({"warm_up": -1}, "`warm_up` must not be negative, got -1"),
        ({"warm_up": 2.5}, "`warm_up` must be a number of actions or the name of a wave, got 2.5"),
        ({"warm_up": True}, "`warm_up` must be a number of actions or the name of a wave, got True"),
        ({"anchor_strength": 0}, "`anchor_strength` must be a positive number, got 0"),
        ({"anchor_strength": float("nan")}, "`anchor_strength` must be a finite number, got nan"),
        ({"anchor_strength": "10"}, "`anchor_strength` must be a finite number, got '10'"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0, got -1"),
        ({"seed": 1.0}, "`seed` must be a whole number"),
        *[
            ({name: 0}, f"`{name}` must be a whole number of at least 1, got 0")
            for name in ("agents_per_step", "option_orders", "listed_actions", "max_prompt_tokens", "max_state_tokens")
        ],
        *[
            ({name: value}, f"`{name}` must be a whole number of at least 1, got {value!r}")
            for name in ("max_actions", "max_people_per_step", "max_new_tokens", "signal_max_tokens", "batch_tokens")
            for value in (0, 1.5, True, "9")
        ],
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        SimulationConfig(**settings)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"support": 1.0}, "must give a positive share to each of"),
        ({"support": 1, "deny": 1, "query": 0}, "must give a positive share to each category"),
        ({"support": 1, "deny": 1, "query": float("nan")}, "must be a mapping of names to finite numbers"),
        ({"support": 1, "deny": 1, "query": 1, "other": 1}, "must give a positive share to each of"),
        ({"support": "1", "deny": 1, "query": 1}, "must be a mapping of names to finite numbers"),
    ],
)
def test_an_anchor_prior_gives_a_positive_share_to_each_category(prior, message):
    with pytest.raises(InputError, match=f"`anchor_prior` {message}"):
        run(model_of("qwen2"), processor_of("qwen2"), small_event(9), anchored=True, warm_up=4, anchor_prior=prior)


def test_a_processor_of_another_model_and_prompts_of_another_version_are_refused():
    event = small_event(10)
    model = model_of("gpt2")
    size = model.backbone("policy").get_input_embeddings().weight.shape[0]
    other = next(p for p in map(processor_of, ("qwen3", "gemma3", "mistral")) if len(p.policy_tokenizer) > size)
    with pytest.raises(InputError, match="`processor` must belong to `model`: its policy tokenizer has"):
        run(model, other, event)
    model.config.prompt_version += 1
    try:
        with pytest.raises(InputError, match="`model` must have prompt_version 1, got 2"):
            run(model, processor_of("gpt2"), event)
    finally:
        model.config.prompt_version -= 1


def test_a_context_too_short_for_prompt_and_answer_is_refused_and_a_long_one_bounds_the_prompt():
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(10)
    rollout = run(model, processor, event, max_prompt_tokens=100_000)
    assert rollout.config["resolved"]["max_prompt_tokens"] == 4096 - 64 - 8
    with pytest.raises(InputError, match="`model` must have room for a prompt, but its positions leave"):
        run(model, processor, event, max_new_tokens=4090)


def test_one_event_or_a_list_and_training_mode_is_left_as_it_was():
    model, processor = model_of("llama"), processor_of("llama")
    events = [small_event(10), small_event(11, event_id="rumour-2")]
    model.train()
    try:
        together = run(model, processor, events)
        assert model.training
    finally:
        model.eval()
    assert [outcome(rollout) for rollout in together] == [outcome(run(model, processor, one)) for one in events]
    assert outcome(together[0]) != outcome(together[1])
