"""`SimulationConfig.writers`: a few people of a step write, the others answer with their label alone."""

from dataclasses import replace

import pytest
from small_events import FAMILIES, model_of, new_model, outcome, processor_of, run, small_event, with_turns

from mf_llm import InputError, SimulationConfig
from mf_llm.simulation import plan_simulation
from mf_llm.simulation.estimate import Estimate, estimate
from mf_llm.simulation.policy_step import PolicyStep


def steps_of(rollout):
    """Simulated rows by step."""
    return {
        step.step: [r for r in rollout.simulated() if r.step == step.step] for step in rollout.steps if not step.real
    }


def asked_to_write(monkeypatch):
    """The turns that are asked for a text, filled in while a rollout is made."""
    prompts, turns = PolicyStep.text_prompts, []

    def asking(self, decisions):
        turns.extend(decisions.step.turns[n] for n in decisions.writers)
        return prompts(self, decisions)

    monkeypatch.setattr(PolicyStep, "text_prompts", asking)
    return turns


@pytest.mark.parametrize("family", FAMILIES)
def test_writers_write_what_they_would_and_the_others_their_label(family):
    model, processor, event = model_of(family), processor_of(family), small_event(20)
    # Nobody sees what others wrote here, so that labels and texts can be compared person by person.
    settings = {"action": "label_text", "signal": "statistics", "agents_per_step": 6}
    everybody = run(model, processor, event, **settings)
    for writers in (0, 2, 6, 100):
        found = run(model, processor, event, writers=writers, **settings)
        for rows, whole in zip(steps_of(found).values(), steps_of(everybody).values(), strict=True):
            assert [replace(row, text="") for row in rows] == [replace(row, text="") for row in whole]
            wrote = [n for n, row in enumerate(rows) if row.text]
            assert len(wrote) <= writers and all(rows[n].text == whole[n].text for n in wrote)
        if writers > 5:
            assert found.actions == everybody.actions
    assert sum(bool(row.text) for row in everybody.simulated()) > 6


def test_exactly_so_many_are_asked_and_a_smaller_sample_is_part_of_a_larger_one(monkeypatch):
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(38)
    settings = {"action": "label_text", "signal": "none", "agents_per_step": 15}
    asked = {}
    for writers in (0, 1, 4, 9, 15, None):
        with monkeypatch.context() as patch:
            asked[writers] = turns = asked_to_write(patch)
            run(model, processor, event, writers=writers, **settings)
        assert len(turns) == len(set(turns)) == 2 * (15 if writers is None else writers)
    for few, more in ((0, 1), (1, 4), (4, 9), (9, 15)):
        assert set(asked[few]) < set(asked[more])
    assert asked[15] == asked[None] == list(range(8, 38))
    # Steps draw anew, and so do seeds.
    assert {i - 8 for i in asked[9] if i < 23} != {i - 23 for i in asked[9] if i >= 23}
    with monkeypatch.context() as patch:
        other = asked_to_write(patch)
        run(model, processor, event, writers=9, seed=1, **settings)
    assert set(other) != set(asked[9])


def test_who_writes_depends_on_no_place_in_the_step():
    model, processor, event = model_of("llama"), processor_of("llama"), small_event(20)
    config = SimulationConfig(
        warm_up=8, agents_per_step=12, writers=4, action="label_text", max_new_tokens=5, max_prompt_tokens=600
    )
    plan = plan_simulation(event, config)
    step = plan.steps[1]
    found = []
    for turns in (step.turns, step.turns[::-1], step.turns[5:] + step.turns[:5]):
        decided = PolicyStep(model, processor, event, config, plan, None).decide(replace(step, turns=turns), "Yes.")
        found.append({turns[n] for n in decided.writers})
    assert len(found[0]) == 4 and found[0] == found[1] == found[2]


def test_every_person_writes_about_as_often(monkeypatch):
    event = small_event(18)
    model, processor = model_of("qwen2"), processor_of("qwen2")
    turns = asked_to_write(monkeypatch)
    settings = {
        "action": "label_text",
        "signal": "none",
        "agents_per_step": 10,
        "max_new_tokens": 1,
        "option_orders": 1,
    }
    for seed in range(100):
        run(model, processor, event, writers=3, seed=seed, **settings)
    counts = [turns.count(i) for i in range(8, 18)]
    # Binomial with n = 100, p = 0.3: standard deviation 4.6.
    assert sum(counts) == 300 and min(counts) > 12 and max(counts) < 48


def test_places_go_to_people_who_have_something_to_write(monkeypatch):
    # Who supports writes nothing in the warm-up.
    silent = {i: {"action": ""} for i in range(8) if (i * i) % 3 == 0}
    event = with_turns(small_event(24), at=silent)
    turns = asked_to_write(monkeypatch)
    model, processor = model_of("qwen2"), processor_of("qwen2")
    settings = {"action": "label_text", "signal": "none", "agents_per_step": 16}
    found = run(model, processor, event, **settings)
    assert found.config["resolved"]["silent_labels"] == ["support"]
    speaking = [row.turn for row in found.simulated() if row.label != "support"]
    assert 2 < len(speaking) < 16 and turns == speaking
    for writers in (len(speaking) - 2, len(speaking), 16):
        turns.clear()
        assert run(model, processor, event, writers=writers, **settings).simulated()
        assert len(turns) == min(writers, len(speaking)) and set(turns) <= set(speaking)


def test_the_mean_field_model_reads_labels_of_all_and_texts_of_some():
    model, processor, event = new_model("llama"), processor_of("llama"), small_event(24)
    model.generation_config_of("policy").temperature = 1.0
    seen = []

    def record(module, args, kwargs):
        if kwargs["input_ids"].shape[1] > 1:
            seen.append(processor.mean_field_tokenizer.decode(kwargs["input_ids"][0].tolist()))

    model.backbone("mean_field").register_forward_pre_hook(record, with_kwargs=True)
    for writers in (3, 0):
        seen.clear()
        settings = {"action": "label_text", "signal": "text", "agents_per_step": 8, "writers": writers}
        found = run(model, processor, event, **settings)
        rows = steps_of(found)[1]
        told = seen[1].split("What people say now:\n")[1].split("Summarise")[0].splitlines()
        lines = [line for line in told if line.startswith("- ")]
        assert len(lines) == 8
        with_words = [row for row in rows if row.text]
        assert len(with_words) == writers or (writers == 3 and 0 < len(with_words) < 3)
        for row, line in zip(rows, lines, strict=True):
            if row.text:
                assert line.startswith(f"- {row.label}: ")
            else:
                # Without words of their own, who chose what is all there is to tell.
                assert line.startswith(f"- {row.label}" + (" (age" if writers == 0 else ""))


@pytest.mark.parametrize("action", ["choice", "text"])
def test_other_actions_do_not_change(action):
    model, processor, event = model_of("qwen3"), processor_of("qwen3"), small_event(14)
    assert outcome(run(model, processor, event, action=action, writers=1)) == outcome(
        run(model, processor, event, action=action)
    )


@pytest.mark.parametrize("writers", [-1, True, 1.5, "3"])
def test_writers_is_a_whole_number(writers):
    with pytest.raises(InputError, match="`writers` must be a whole number of at least 0"):
        SimulationConfig(writers=writers)


def test_tokens_shrink_with_the_writers_and_so_does_the_estimate():
    event = small_event(40)
    settings = {"warm_up": 8, "agents_per_step": 16, "action": "label_text", "signal": "none", "max_new_tokens": 5}
    new, prompt = {}, {}
    for writers in (0, 4, 16, None):
        config = SimulationConfig(writers=writers, **settings)
        guess = estimate([event], [plan_simulation(event, config)], config)
        took = Estimate.of_rollouts(
            [run(model_of("qwen2"), processor_of("qwen2"), event, writers=writers, **settings)]
        )
        new[writers], prompt[writers] = guess.new_tokens, guess.prompt_tokens
        assert took.new_tokens <= guess.new_tokens
    assert new == {0: 0, 4: 2 * 4 * 5, 16: 32 * 5, None: 32 * 5}
    assert prompt[0] < prompt[4] < prompt[16] == prompt[None]
