"""What people see of the population: statistics in words, the last actions, the most echoed ones."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from small_events import STANCES, model_of, new_model, processor_of, run, small_event, with_turns

from mf_llm import Event, Turn
from mf_llm.models.prompts import NO_SIGNAL_YET
from mf_llm.simulation import ActionRow, SimulationConfig, plan_simulation
from mf_llm.simulation.mean_field_step import MeanFieldStep
from mf_llm.simulation.signals import PopulationHistory, action_line, count_shares, proportioned, shares_in_words


def row(turn=0, text="", label=None, *, p=None, weight=1.0, source="simulated", state="", step=0):
    return ActionRow(
        step=step, turn=turn, weight=weight, wave=None, state=state, text=text, label=label, probabilities=p,
        source=source, failure="non_finite_logits" if source == "failed" else None,
    )  # fmt: skip


def history_of(*steps, event=None, categories=STANCES):
    history = PopulationHistory(event or small_event(14), categories, "stance" if categories else None)
    for rows in steps:
        history.observe(rows)
    return history


def labels(*names):
    return [row(label=name) for name in names]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.25, 0.75], "most (75 %) deny, a quarter (25 %) support"),
        ([1.0, 0.0], "all (100 %) support, almost none (0 %) deny"),
        ([0.5, 0.5], "half (50 %) support, half (50 %) deny"),
        ([0.42, 0.58], "most (58 %) deny, less than half (42 %) support"),
        ([0.95, 0.05], "nearly all (95 %) support, a few (5 %) deny"),
        ([0.65, 0.35], "most (65 %) support, a third (35 %) deny"),
        ([0.15, 0.85], "nearly all (85 %) deny, some (15 %) support"),
    ],
)
def test_shares_in_words(shares, expected):
    assert shares_in_words(["support", "deny"], shares) == expected


def test_statistics_word_for_word():
    history = history_of()
    assert history.statistics() == NO_SIGNAL_YET
    history.observe(labels("support", "deny", "deny", "deny"))
    first = "most (75 %) deny, a quarter (25 %) support, almost none (0 %) query"
    assert history.statistics() == f"Of 4 people so far: {first}."
    history.observe(labels("support", "support", "deny", "query"))
    assert history.statistics() == (
        "Of 8 people so far: half (50 %) deny, a third (38 %) support, some (12 %) query. "
        "Of the latest 4: half (50 %) support, a quarter (25 %) deny, a quarter (25 %) query. "
        "Rising: support (+25 points); falling: deny (-50 points)."
    )
    history.observe(labels("support", "support", "deny", "query"))
    assert history.statistics().endswith("Little has changed since the step before.")


@pytest.mark.parametrize(
    ("shares", "count", "expected"),
    [
        ([1.0, 0.0, 0.0], 3, [0, 0, 0]),
        ([0.25, 0.75, 0.0], 4, [1, 0, 1, 1]),
        ([1 / 3, 1 / 3, 1 / 3], 4, [0, 1, 2, 0]),  # what is left over goes to the first
        ([0.5, 0.49, 0.01], 2, [0, 1]),
        ([0.2, 0.3, 0.5], 0, []),
    ],
)
def test_proportioned(shares, count, expected):
    found = proportioned(shares, count)
    assert sorted(found) == sorted(expected)
    for noise in (1e-9, -1e-9):
        assert proportioned([share + noise * (k - 1) for k, share in enumerate(shares)], count) == found


@pytest.mark.parametrize("count", [1, 7, 16, 200])
def test_proportioned_answers_have_the_shares(count):
    shares = np.random.default_rng(count).dirichlet(np.ones(5))
    numbers = np.bincount(proportioned(shares, count), minlength=5)
    assert numbers.sum() == count and (np.abs(numbers - shares * count) < 1).all()


def history_with_answers(count):
    return PopulationHistory(small_event(14), STANCES, "stance", shown_answers=count)


def test_answers_stand_below_the_shares_in_the_words_of_an_answer():
    history = history_with_answers(4)
    assert history.statistics() == NO_SIGNAL_YET
    history.observe(labels("support", "deny", "deny", "deny"))
    shares, *answers = history.statistics().splitlines()
    assert shares == history_of(labels("support", "deny", "deny", "deny")).statistics()
    assert answers == ["My stance is deny.", "My stance is support.", "My stance is deny.", "My stance is deny."]
    history.observe(labels("support", "support", "support", "support"))
    answers = history.statistics().splitlines()[1:]
    assert answers.count("My stance is support.") == 3 and answers.count("My stance is deny.") == 1  # 5 of 8 so far


def test_of_waves_and_populations_the_latest_answers_are_shown():
    by_wave, population = history_with_answers(2), history_with_answers(2)
    for step, label in enumerate(("deny", "support")):
        by_wave.observe([replace(row(label=label), wave=f"w{step}")])
        counts = tuple(10 * (name == label) for name in STANCES)
        population.observe([replace(row(), counts=counts)])
    for history in (by_wave, population):
        assert history.statistics().splitlines()[1:] == ["My stance is support."] * 2


def test_what_people_see_has_the_answers_of_those_before_them():
    rollout = run(model_of("llama"), processor_of("llama"), small_event(14), signal="statistics", shown_answers=5)
    for step in rollout.steps[1:]:
        assert [line.split(" is ")[0] for line in step.signal.splitlines()[1:]] == ["My stance"] * 5


def test_shares_weigh_people_and_take_probabilities_before_labels():
    rows = [
        row(label="deny", p=(0.5, 0.25, 0.25), weight=2.0),
        row(label="query", weight=1.0),
        row(label=None, weight=100.0),
        row(label=None, source="failed", weight=100.0),
        row(label="support", weight=0.0),
    ]
    shares = count_shares(rows, STANCES)
    assert shares.n_people == 3
    assert shares.total == (1.0, 0.5, 1.5)
    assert shares.normalised == (1 / 3, 1 / 6, 1 / 2)
    assert count_shares([], STANCES).normalised is None
    assert count_shares([row(label="deny", weight=0.0)], STANCES).normalised is None


def test_failed_and_weightless_actions_change_no_statistics():
    history = history_of(labels("support", "deny"))
    before = history.statistics()
    history.observe([row(source="failed", label=None)])
    history.observe([row(label="deny", weight=0.0)])
    history.observe([row(label=None, text="unlabelled")])
    assert history.statistics() == before


def test_recent_is_the_last_five_oldest_first():
    history = history_of()
    assert history.recent() == NO_SIGNAL_YET
    history.observe([row(text=f"text\n{i}", label="deny") for i in range(3)])
    history.observe([row(label="query"), row(text="free"), row(source="failed"), row(text=" \n"), row(text="last")])
    assert history.recent() == "- deny: text 1\n- deny: text 2\n- query\n- free\n- last"


def popular_of(*rows, event=None):
    return history_of(rows, event=event).popular().splitlines()


def test_popular_counts_answers_of_the_warm_up_only():
    turns = [Turn(action=f"text {i}", parent={6: 1, 7: 1, 8: 2, 9: 5, 10: 5, 11: 5}.get(i)) for i in range(12)]
    event = Event(event_id="x", topic="x", turns=tuple(turns))
    real = [row(i, f"text {i}", source="real") for i in range(9)]
    simulated = [row(i, f"other {i}") for i in range(9, 12)]
    history = history_of(real, simulated, event=event, categories=())
    # Turn 1 has two answers, turn 2 one; turn 5's three answers come after the warm-up. The rest are the newest.
    assert history.popular().splitlines() == ["- text 1", "- text 2", "- other 9", "- other 10", "- other 11"]


def test_popular_counts_equal_texts_once_each():
    rows = [row(0, "same"), *[row(1, f"text {i}") for i in range(6)], row(2, "  SAME ")]
    assert popular_of(*rows)[-1] == "- SAME"
    lines = popular_of(row(0, "same"), row(0, "same"), *[row(1, f"text {i}") for i in range(6)])
    assert lines[0] == "- same" and len(lines) == 5 and lines.count("- same") == 1


def test_popular_breaks_ties_by_followers_then_by_age():
    turns = [Turn(action=f"text {i}", state={"followers_count": [90, 0, 5, 0, 7, 0, 0, 0][i]}) for i in range(8)]
    event = Event(event_id="x", topic="x", turns=tuple(turns))
    lines = popular_of(*[row(i, f"text {i}", source="real") for i in range(8)], event=event)
    assert lines == ["- text 0", "- text 2", "- text 4", "- text 6", "- text 7"]


def test_popular_looks_at_the_last_thirty():
    event = with_turns(small_event(40), at={i: {"state": {"followers": 10**6 if i == 3 else 1}} for i in range(40)})
    rows = [row(i, f"text {i}", source="real") for i in range(34)]
    assert "- text 3" not in popular_of(*rows, event=event)
    assert "- text 3" in popular_of(*rows[:33], event=event)


def test_a_state_in_words_or_followers_in_words_are_no_followers():
    turns = [Turn(action="a", state="many followers"), Turn(action="b", state={"followers": "many"}), Turn(action="c")]
    event = Event(event_id="x", topic="x", turns=tuple(turns))
    assert popular_of(*[row(i, t.action) for i, t in enumerate(turns)], event=event) == ["- a", "- b", "- c"]


def test_the_history_does_not_grow():
    history = history_of()

    def size():
        return (
            sum(sys.getsizeof(value) for value in vars(history).values()) + len(history._last) + len(history._echoes)
        )

    for step in range(60):
        history.observe([row(i % 14, f"text {step} {i}", "deny") for i in range(20)])
    after = size()
    for step in range(400):
        history.observe([row(i % 14, f"text {step} {i}", "deny") for i in range(20)])
    assert size() == after
    assert len(history._last) == 30
    assert history.statistics().startswith("Of 9200 people so far: all (100 %) deny")


def test_action_lines():
    assert action_line(row(text="no\nway", label="deny")) == "deny: no way"
    assert action_line(row(label="deny")) == "deny"
    assert action_line(row(text="hm")) == "hm"
    assert action_line(row(label="deny", state="age: 3")) == "deny"
    shown = action_line(row(label="deny", state="age: 3"), with_state=True)
    assert "deny" in shown and "age: 3" in shown and "\n" not in shown


# -- the mean-field model's prompt ------------------------------------------------------------------------------------


def mean_field(event=None, **settings):
    config = SimulationConfig(warm_up=4, **settings)
    event = event or small_event(14)
    made = plan_simulation(event, config)
    return MeanFieldStep(model_of("llama"), processor_of("llama"), event, config, made), made.steps[0]


def prompt_text(step_model, step, rows, previous="Before."):
    return processor_of("llama").mean_field_tokenizer.decode(step_model.prompt(step, rows, previous))


def test_the_prompt_lists_actions_and_the_tally_of_all():
    step_model, step = mean_field(listed_actions=4)
    rows = [row(i, f"text {i}", STANCES[i % 2]) for i in range(10)] + [row(11, source="failed")]
    text = prompt_text(step_model, step, rows)
    listed = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(listed) == 4
    assert listed == sorted(listed, key=lambda line: int(line.split()[-1]))
    assert "In total: half (50 %) support, half (50 %) deny, almost none (0 %) query." in text
    assert "Summary so far:\nBefore.\n" in text
    assert prompt_text(step_model, step, rows) == text
    assert len([x for x in prompt_text(step_model, step, rows[:3]).splitlines() if x.startswith("- ")]) == 3


def test_listed_actions_are_drawn_by_weight():
    step_model, step = mean_field(listed_actions=2)
    rows = [row(i, f"text {i}", "deny", weight=1e9 if i in (3, 7) else 1e-9) for i in range(10)]
    listed = [x for x in prompt_text(step_model, step, rows).splitlines() if x.startswith("- ")]
    assert listed == ["- deny: text 3", "- deny: text 7"]


def test_failed_and_empty_actions_are_not_listed():
    step_model, step = mean_field()
    text = prompt_text(step_model, step, [row(0, source="failed"), row(1), row(2, "hm", None)])
    assert [x for x in text.splitlines() if x.startswith("-")] == ["- hm"]
    assert "In total" not in text
    assert "(nothing)" in prompt_text(step_model, step, [row(0, source="failed")])


def test_choices_without_words_are_listed_with_their_people():
    step_model, step = mean_field()
    text = prompt_text(step_model, step, [row(0, "", "deny", state="age: 34")])
    assert "age: 34" in text
    assert "age: 34" not in prompt_text(step_model, step, [row(0, "no", "deny", state="age: 34")])


@pytest.mark.parametrize("signal", ["text", "recent", "popular"])
def test_five_hundred_steps_keep_prompts_bounded(signal):
    turns = [
        Turn(
            state={"biography": f"{i} " + "long " * 60},
            action=f"{i} " + "a very long comment " * (200 if i % 50 == 0 else 8),
            labels={"stance": STANCES[i % 3]},
        )
        for i in range(504)
    ]
    event = Event(event_id="long", topic="A rumour. " * 200, turns=tuple(turns), dimensions={"stance": STANCES})
    lengths: list[int] = []
    model, processor = new_model("qwen2"), processor_of("qwen2")
    for role in ("policy", "mean_field"):
        model.backbone(role).register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
    settings = {"warm_up": 500, "agents_per_step": 1, "max_prompt_tokens": 420, "max_state_tokens": 30}
    settings |= {"max_action_tokens": 12, "signal_max_tokens": 2, "max_new_tokens": 2, "signal": signal}
    rollout = run(model, processor, event, action="choice", **settings)
    assert len(rollout.steps) == 504
    options = sum(len(ids) for ids in processor.option_ids(plan_simulation(event, SimulationConfig()).answer))
    assert max(lengths) <= 420 + options
    if signal == "text":
        per_step = [step.prompt_tokens for step in rollout.steps]
        assert max(per_step[50:500]) - min(per_step[50:500]) <= 60
        assert len(lengths) > 500
