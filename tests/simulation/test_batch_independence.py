"""A rollout is a function of its settings and its seed: not of batches, of neighbours, or of other events."""

from dataclasses import replace

import numpy as np
import pytest
from small_events import FAMILIES, adapted_model, model_of, outcome, processor_of, run, small_event, with_turns

from mf_llm.simulation import SimulationConfig, plan_simulation
from mf_llm.simulation.policy_step import PolicyStep


def assert_same(one, other):
    """Texts, labels and signals exactly; probabilities to 1e-5."""
    for a, b in zip(one.actions, other.actions, strict=True):
        assert replace(a, probabilities=None) == replace(b, probabilities=None)
        if a.probabilities is not None or b.probabilities is not None:
            np.testing.assert_allclose(a.probabilities, b.probabilities, rtol=0, atol=1e-5)
    for a, b in zip(one.steps, other.steps, strict=True):
        assert replace(a, shares=None) == replace(b, shares=None)
        np.testing.assert_allclose(a.shares, b.shares, rtol=0, atol=1e-5)


PAIRS = [(family, None, True) for family in FAMILIES]
PAIRS += [("llama", None, False), ("qwen3", "gemma3", False), ("gpt2", "mistral", False), ("mistral", "qwen2", False)]


@pytest.mark.parametrize(("policy", "mean_field", "tied"), PAIRS)
@pytest.mark.parametrize("readout", ["exact", "sampled"])
def test_batch_size_does_not_matter(policy, mean_field, tied, readout):
    model, processor = model_of(policy, mean_field, tied=tied), processor_of(policy, mean_field)
    event, settings = small_event(16), {"readout": readout, "signal": "both", "agents_per_step": 8}
    whole = run(model, processor, event, **settings)
    assert model.config.tie_backbones == tied
    assert any(row.text for row in whole.simulated())
    assert whole.config["readout"] == readout
    assert all((row.probabilities is not None) == (readout == "exact") for row in whole.simulated() if not row.failure)
    for batch_tokens in (1, 700):
        parts = run(model, processor, event, batch_tokens=batch_tokens, **settings)
        assert parts.config["batch_tokens"] == batch_tokens
        assert_same(whole, parts)
    assert outcome(run(model, processor, event, **settings)) == outcome(whole)


@pytest.mark.parametrize("anchored", [False, True])
def test_anchored_readouts_do_not_depend_on_batches(anchored):
    pytest.importorskip("peft")
    model, processor, event = adapted_model("gemma3"), processor_of("gemma3"), small_event(14)
    settings = {"anchored": anchored, "agents_per_step": 6, "action": "choice"}
    assert_same(run(model, processor, event, **settings), run(model, processor, event, batch_tokens=1, **settings))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("action", ["label_text", "text"])
def test_the_order_of_people_in_a_step_does_not_matter(family, action):
    model, processor, event = model_of(family), processor_of(family), small_event(16)
    config = SimulationConfig(warm_up=8, agents_per_step=8, max_new_tokens=5, max_prompt_tokens=600, action=action)
    plan = plan_simulation(event, config)
    step = plan.steps[1]
    rows = {}
    for turns in (step.turns, step.turns[::-1], step.turns[3:] + step.turns[:3]):
        policy = PolicyStep(model, processor, event, config, plan, None)
        for row in policy.act(replace(step, turns=turns), "Most deny it."):
            found = replace(row, probabilities=None)
            assert rows.setdefault(row.turn, (found, row.probabilities))[0] == found
            if row.probabilities is not None:
                np.testing.assert_allclose(row.probabilities, rows[row.turn][1], rtol=0, atol=1e-5)
    assert sorted(rows) == list(range(8, 16))
    alone = PolicyStep(model, processor, event, config, plan, None).act(replace(step, turns=(11,)), "Most deny it.")
    assert replace(alone[0], probabilities=None) == rows[11][0]


def test_several_events_at_once_are_the_same_as_one_by_one(tmp_path):
    model, processor = model_of("qwen3"), processor_of("qwen3")
    events = [small_event(12), small_event(13, event_id="Gerücht: 2/3"), small_event(waves=(8, 3), event_id="survey")]
    settings = {"signal": "both", "warm_up": None}
    together = run(model, processor, events, output=tmp_path, **settings)
    apart = [run(model, processor, event, **settings) for event in events]
    assert [outcome(a) for a in together] == [outcome(b) for b in apart]
    assert [a.metadata() for a in together] == [b.metadata() for b in apart]
    names = sorted(path.name for path in (tmp_path / "rollouts").iterdir())
    assert len(names) == 3 and names[1:] == ["rumour-1-seed0", "survey-seed0"] and names[0].startswith("Ger-cht-2-3-")


def test_a_new_step_draws_anew_and_a_new_seed_too():
    model, processor = model_of("llama"), processor_of("llama")
    # Eight people who are all alike: only their keys differ.
    event = with_turns(small_event(24), at={i: {"state": {"age": 30}, "weight": 1.0} for i in range(24)})
    settings = {"signal": "none", "agents_per_step": 8, "option_orders": 1}
    first = run(model, processor, event, **settings)
    rows = first.simulated()
    assert len({row.probabilities for row in rows}) == 1
    assert len({(row.label, row.text) for row in rows[:8]}) > 2
    assert [(r.label, r.text) for r in rows[:8]] != [(r.label, r.text) for r in rows[8:]]
    other = run(model, processor, event, seed=1, **settings)
    assert {row.probabilities for row in other.simulated()} != set() and other.seed == 1
    assert [(r.label, r.text) for r in other.simulated()] != [(r.label, r.text) for r in rows]
    assert outcome(run(model, processor, event, seed=1, **settings)) == outcome(other)
    renamed = run(model, processor, replace(event, event_id="rumour-2"), **settings)
    assert [(r.label, r.text) for r in renamed.simulated()] != [(r.label, r.text) for r in rows]


@pytest.mark.parametrize("orders", [1, 2, 3, 9])
def test_people_take_turns_at_the_option_orders(orders):
    model, processor = model_of("qwen2"), processor_of("qwen2")
    event = with_turns(small_event(20), at={i: {"state": {"age": 30}, "weight": 1.0} for i in range(20)})
    rows = run(
        model, processor, event, signal="none", agents_per_step=12, option_orders=orders, action="choice"
    ).simulated()
    distinct = min(orders, 3)
    by_order = [{row.probabilities for row in rows if row.turn % distinct == o} for o in range(distinct)]
    assert [len(one) for one in by_order] == [1] * distinct
    assert len(set.union(*by_order)) == distinct


def test_sampled_and_exact_share_their_draws():
    # Without a text signal of their own the two differ in what is counted, not in who does what.
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(14)
    exact, sampled = (run(model, processor, event, signal="recent", readout=r) for r in ("exact", "sampled"))
    assert [(r.label, r.text) for r in exact.actions] == [(r.label, r.text) for r in sampled.actions]
    assert all(row.probabilities is None for row in sampled.actions)
    for step, rows in ((s, [r for r in sampled.simulated() if r.step == s.step]) for s in sampled.steps if not s.real):
        total = sum(row.weight for row in rows)
        shares = tuple(sum(r.weight for r in rows if r.label == one) / total for one in sampled.categories)
        assert step.shares == pytest.approx(shares, abs=1e-12)
