"""What is told of a step, the parts of a signal, and the anchor: shared by simulation and training."""

import numpy as np
import pytest
from small_events import STANCES, model_of, processor_of, run, small_event, with_turns

from mf_llm import InputError, SimulationConfig
from mf_llm.models.prompts import NO_SIGNAL_YET
from mf_llm.simulation import ActionRow, plan_simulation
from mf_llm.simulation.anchor import carry_forward
from mf_llm.simulation.mean_field_step import MeanFieldStep
from mf_llm.simulation.signals import shown_signal
from mf_llm.simulation.told_actions import listing_key, real_actions, told_actions


def row(turn=0, text="", label=None, *, weight=1.0, source="simulated", state=""):
    return ActionRow(
        step=0, turn=turn, weight=weight, wave=None, state=state, text=text, label=label, probabilities=None,
        source=source,
    )  # fmt: skip


def test_lines_and_tally():
    rows = [row(0, "a\nb", "deny", weight=3.0), row(1, "", "query"), row(2, "c", source="failed"), row(3), row(4, "d")]
    lines, tally = told_actions(rows, STANCES, key=1, listed_actions=9)
    assert lines == ["deny: a b", "query", "d"]
    assert tally == "In total: most (75 %) deny, a quarter (25 %) query, almost none (0 %) support."
    assert told_actions(rows[4:], (), key=1, listed_actions=9) == (["d"], None)
    assert told_actions([], STANCES, key=1, listed_actions=9) == ([], None)
    assert told_actions([row(0, "", "deny", state="age: 3")], STANCES, key=1, listed_actions=9)[0] == ["deny (age: 3)"]


def test_the_listed_sample_is_keyed_and_the_tally_counts_all():
    rows = [row(i, f"text {i}", STANCES[i % 2]) for i in range(10)]
    samples = [tuple(told_actions(rows, STANCES, key=key, listed_actions=3)[0]) for key in range(30)]
    assert all(len(sample) == 3 for sample in samples) and len(set(samples)) > 10
    assert samples[7] == tuple(told_actions(rows, STANCES, key=7, listed_actions=3)[0])
    assert "half (50 %) support, half (50 %) deny" in told_actions(rows, STANCES, key=7, listed_actions=3)[1]
    assert len({listing_key(*parts) for parts in ((0, "e", 1), (1, "e", 1), (0, "f", 1), (0, "e", 2))}) == 4


def test_the_mean_field_prompt_is_made_of_what_is_told():
    event, processor = small_event(40), processor_of("llama")
    config = SimulationConfig(warm_up=20, agents_per_step=20, listed_actions=4, seed=3)
    plan = plan_simulation(event, config)
    rows = real_actions(event, plan.steps[0], "stance")
    lines, tally = told_actions(rows, STANCES, key=listing_key(3, event.event_id, 0), listed_actions=4)
    step = MeanFieldStep(model_of("llama"), processor, event, config, plan)
    expected = processor.mean_field_prompt(event.topic, "Before.", lines, tally=tally)
    assert step.prompt(plan.steps[0], rows, "Before.") == expected
    assert len(lines) == 4


def test_real_actions_are_those_of_a_rollout():
    event = with_turns(small_event(14), at={3: {"labels": {}}})
    for settings in ({"action": "choice"}, {"action": "text"}):
        rollout = run(model_of("llama"), processor_of("llama"), event, **settings)
        plan = plan_simulation(event, SimulationConfig(warm_up=8, agents_per_step=3, **settings))
        rows = [one for step in plan.steps if step.real for one in real_actions(event, step, plan.answer.dimension)]
        assert rows == [one for one in rollout.actions if one.source == "real"]


@pytest.mark.parametrize(
    ("kind", "statistics", "text", "shown"),
    [
        ("none", "S", "T", None),
        ("text", "S", "T", "T"),
        ("text", "S", None, NO_SIGNAL_YET),
        ("statistics", "S", "T", "S"),
        ("statistics", "", "T", NO_SIGNAL_YET),
        ("both", "S", "T", "S\nT"),
        ("both", "S", None, "S"),
        ("both", "", "T", "T"),
        ("both", "", None, NO_SIGNAL_YET),
    ],
)
def test_shown_signal(kind, statistics, text, shown):
    assert shown_signal(kind, statistics, text) == shown


@pytest.mark.parametrize("kind", ["recent", "popular", "loud"])
def test_lists_of_actions_are_not_made_of_parts(kind):
    with pytest.raises(InputError, match=f"got '{kind}'"):
        shown_signal(kind, "S", "T")


@pytest.mark.parametrize("waves", [(), (4, 4, 6)], ids=["count", "wave"])
def test_the_anchor_is_that_of_an_anchored_rollout(waves):
    event = small_event(14, waves=waves)
    prior, warm_up = np.array([0.5, 0.3, 0.2]), "w2" if waves else 8
    rollout = run(
        model_of("llama"), processor_of("llama"), event, signal="none", anchored=True, action="choice",
        anchor_prior=dict(zip(STANCES, prior.tolist(), strict=True)), anchor_strength=7.0, warm_up=warm_up,
    )  # fmt: skip
    anchor = carry_forward(event, plan_simulation(event, SimulationConfig(warm_up=warm_up)), prior, 7.0)
    np.testing.assert_allclose(anchor, rollout.simulated()[0].probabilities, rtol=1e-12)
    counted = event.turns[4:8] if waves else event.turns[:8]
    weights = np.array([turn.weight for turn in counted])
    counts = [sum(w for w, t in zip(weights, counted, strict=True) if t.labels["stance"] == s) for s in STANCES]
    expected = np.array(counts) / weights.mean() + 7 * prior
    np.testing.assert_allclose(anchor, expected / expected.sum())
