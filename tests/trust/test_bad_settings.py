"""Settings of every kind with a value that is certainly wrong: refused, and by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import strategies as st
from wrong_values import LISTS, NUMBERS, TEXTS, below, check_refusal, try_many, words_but, wrong_for

from mf_llm.endpoints import Endpoint
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import Windows
from mf_llm.forecasting.shifts import Shift
from mf_llm.interventions.intervention import AddedAction, AmendedSignal, ChangedPeople, ReplacedSignal, TopicLine
from mf_llm.interventions.plan import Candidate, Target
from mf_llm.models.prompt_building import PromptLimits
from mf_llm.simulation.simulation_config import ACTIONS, ANCHORS, PEOPLE, READOUTS, SIGNALS, STEPS, SimulationConfig
from mf_llm.training.ib_tune_config import SCHEDULES, TRAINED_SIGNALS, IBTuneConfig
from mf_llm.training.prompt_trees import TARGETS
from mf_llm.training.transition_settings import HORIZONS, TransitionSettings

pytestmark = pytest.mark.trust("inputs", "settings of a wrong type, sign, size or word")

ADDRESS = {"base_url": "http://localhost:1/v1", "model": "m"}
TOPIC = TopicLine(step=3, topic="News.")
SHIFT = {"name": "n", "data_set": "d", "before": ("a",), "after": ("b",), "category": "c", "news": "n", "known": 1.0}
# What is right -> and, of each field, the least number or the words that it may be (else its annotation says enough).
KINDS: list[tuple[type, dict[str, Any], dict[str, Any]]] = [
    (
        SimulationConfig,
        {},
        {"signal": SIGNALS, "readout": READOUTS, "action": ACTIONS, "steps": STEPS, "people": PEOPLE, "seed": 0}
        | {"anchor": ANCHORS}
        | dict.fromkeys(("wording", "writers", "warm_up", "warm_up_seed", "shown_answers"), 0)
        | {"choice_temperature": 0.0, "anchor_strength": 0.0, "seconds_per_step": 0.001}
        | dict.fromkeys(("agents_per_step", "max_actions", "max_people_per_step", "option_orders"), 1)
        | dict.fromkeys(("listed_actions", "max_new_tokens", "signal_max_tokens", "batch_tokens"), 1)
        | dict.fromkeys(("max_prompt_tokens", "max_state_tokens", "max_action_tokens"), 1),
    ),
    (
        TransitionSettings,
        {},
        {"horizon": HORIZONS, "action": ACTIONS, "seed": 0, "shown_answers": 0}
        | dict.fromkeys(("agents_per_step", "listed_actions", "max_history_steps", "transitions_per_event"), 1)
        | dict.fromkeys(("transitions_per_survey", "max_states", "max_people"), 1),
    ),
    (Windows, {"warm_up": 8, "window": 8}, {"warm_up": 1, "window": 1, "max_labelled": 1}),
    (PromptLimits, {}, dict.fromkeys(("max_prompt_tokens", "max_state_tokens", "max_action_tokens"), 8)),
    (
        Endpoint,
        ADDRESS,
        {"concurrency": 1, "retries": 0, "delay": 0.0, "reasoning_tokens": 0, "timeout": 0.0, "top_logprobs": 1}
        | {"max_delay": 0.0, "requests_per_minute": 0.0},
    ),
    (TopicLine, {"step": 3, "topic": "News."}, {"step": 0, "until": 3}),
    (ReplacedSignal, {"step": 3, "signal": "Calm."}, {"step": 0, "until": 3}),
    (AmendedSignal, {"step": 3, "amend_signal": "Calm."}, {"step": 0, "until": 3}),
    (ChangedPeople, {"step": 3, "profiles": ({"age": 3},), "add": 2}, {"step": 0, "until": 3, "add": 1}),
    (AddedAction, {"text": "No!"}, {"times": 1}),
    (Target, {"category": "deny", "step": 4}, {"goal": ("raise", "lower"), "cost_weight": 0.0, "step": 0}),
    (Candidate, {"name": "news", "interventions": (TOPIC,)}, {"cost": 0.0}),
    (Shift, SHIFT, {"warm_up": 1, "n_people": 1}),
]
# Checked elsewhere, or not by its annotation.
LEFT_OUT = {
    ("Target", "steps"), ("Candidate", "interventions"), ("AddedAction", "who"), ("ChangedPeople", "profiles"),
    ("AddedAction", "label"), ("ChangedPeople", "share"),
}  # fmt: skip


def wrong_fields(kind: type, least: dict[str, Any]) -> st.SearchStrategy[tuple[str, Any]]:
    """A field and a value that is certainly wrong for it."""
    found = []
    for f in fields(kind):
        if (kind.__name__, f.name) in LEFT_OUT:
            continue
        wrong, bound = wrong_for(kind, f.name), least.get(f.name)
        if isinstance(bound, tuple):
            wrong |= words_but(bound)
        elif bound is not None:
            wrong |= below(bound, whole=isinstance(bound, int))
        found.append(st.tuples(st.just(f.name), wrong))
    return st.one_of(found)


@pytest.mark.parametrize(("kind", "right", "least"), KINDS, ids=[kind.__name__ for kind, _, _ in KINDS])
def test_one_wrong_field(tries, kind, right, least):
    kind(**right)

    def attempt(drawn):
        name, value = drawn
        with pytest.raises(InputError) as caught:
            kind(**right | {name: value})
        check_refusal(caught.value, f"`{name}`")

    try_many(tries, 25, 240, wrong_fields(kind, least), attempt)


def test_one_wrong_field_of_a_training(tries, tmp_path):
    own = {"schedule": SCHEDULES, "signal": TRAINED_SIGNALS, "target": TARGETS, "mean_field_share": 0.0, "beta": 0.0}
    own |= {"lambda_population": 0.0, "lambda_perturbation": 0.0, "num_signals": 2, "signal_max_tokens": 1}
    own |= {
        "choice_temperature": 0.0,
        "signal_temperature": 0.0,
        "updates_per_draw": 1,
        "max_ratio": 1.0,
        "simulated_history": 0.0,
    }
    own |= {"simulated_steps": 1, "max_texts": 1, "scoring_tokens": 1, "mean_field_learning_rate": 0.0}
    own |= {"max_prompt_tokens": 8, "learning_rate": None, "anchored": None}
    strategies = []
    for name, bound in own.items():
        wrong = wrong_for(IBTuneConfig, name)
        wrong |= words_but(bound) if isinstance(bound, tuple) else wrong
        wrong |= below(bound, whole=isinstance(bound, int)) if isinstance(bound, int | float) else wrong
        strategies.append(st.tuples(st.just(name), wrong))

    def attempt(drawn):
        name, value = drawn
        with pytest.raises(InputError) as caught:
            IBTuneConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})
        check_refusal(caught.value, f"`{name}`")

    try_many(tries, 40, 500, st.one_of(strategies), attempt)


def test_addresses_that_are_none(tries):
    bad = st.sampled_from(
        [
            "",
            "127.0.0.9:8000",
            "ftp://h",
            "http://",
            "http://[::1",
            "http://h:99999/v1",
            "http://h:x/v1",
            "//h",
            "http://h:0",
        ]
    ) | TEXTS.filter(lambda text: not text.startswith("http"))

    def attempt(address):
        with pytest.raises(InputError) as caught:
            Endpoint(address, "m")
        check_refusal(caught.value, "`base_url`")
        assert len(address) < 8 or address not in str(caught.value)  # an address may hold a password

    try_many(tries, 20, 200, bad, attempt)
    for name in ("timeout", "delay", "max_delay"):
        tries.add()
        with pytest.raises(InputError, match=f"`{name}` must be at most 1,000,000 seconds"):
            Endpoint("http://h", "m", **{name: 1e9})


def test_profiles_that_nobody_can_have(tries):
    values = LISTS | st.dictionaries(TEXTS, TEXTS) | st.sampled_from([float("nan"), float("inf"), "\0", "\ud800"])
    bad = NUMBERS | LISTS | st.dictionaries(st.just("age"), values, min_size=1)
    bad |= st.dictionaries(st.sampled_from(["", " ", "a\nb", 3, "\ud800"]), TEXTS, min_size=1)

    def attempt(profile):
        for make in (
            lambda: AddedAction(text="No!", who=profile),
            lambda: ChangedPeople(step=1, profiles=[profile], add=1),
        ):
            with pytest.raises(InputError) as caught:
                make()
            check_refusal(caught.value)

    try_many(tries, 20, 200, bad, attempt)
