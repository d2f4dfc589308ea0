"""The exact readout against plain enumeration: one option, one person, one full sequence at a time."""

import numpy as np
import pytest
import torch
from small_events import FAMILIES, adapted_model, model_of, processor_of, run, small_event, with_turns

from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation import choice_distribution
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.simulation.readout import (
    anchored_probabilities,
    encode_prefix,
    normalise,
    option_log_likelihoods,
    option_orders,
    sliding_window,
)

# Longer and shorter than the windows of gemma3 (16) and mistral (32), and on their very edge.
PREFIX_LENGTHS = (1, 3, 9, 15, 16, 17, 31, 33, 70)


def random_ids(length, seed):
    return torch.randint(8, 400, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def enumerated(backbone, prefix, segments, options):
    """``[N, K]``: the sum of the log-probabilities of each option's tokens, read off one full sequence each."""
    scores = np.empty((len(segments), len(options)))
    for n, segment in enumerate(segments):
        for k, option in enumerate(options):
            ids = [*prefix, *segment, *option]
            with torch.no_grad():
                logits = backbone(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
            log_p = torch.log_softmax(logits, dim=-1)
            start = len(ids) - len(option)
            scores[n, k] = sum(float(log_p[start + j - 1, token]) for j, token in enumerate(option))
    return scores


OPTION_SETS = {
    "prefixes of each other": [random_ids(1, 5), [*random_ids(1, 5), 9], [*random_ids(1, 5), 9, 11, 12]],
    "one token each": [[20], [21], [22], [300]],
    "one option": [random_ids(3, 6)],
    "twenty": [random_ids(1 + k % 4, 100 + k) for k in range(20)],
    "twice the same": [[30, 31], [30, 31]],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", PREFIX_LENGTHS)
def test_readout_equals_enumeration_for_every_prefix_length(family, length):
    backbone = model_of(family).backbone("policy")
    prefix = random_ids(length, 1)
    segments = [random_ids(n, 40 + i) for i, n in enumerate((1, 4, 7, 4, 2))]
    options = OPTION_SETS["prefixes of each other"]
    found = option_log_likelihoods(backbone, encode_prefix(backbone, prefix), segments, options)
    np.testing.assert_allclose(found, enumerated(backbone, prefix, segments, options), rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize("length", [5, 40])
def test_readout_equals_enumeration_for_every_kind_of_options(family, name, length):
    backbone = model_of(family).backbone("policy")
    prefix, options = random_ids(length, 2), OPTION_SETS[name]
    segments = [random_ids(3, 60), random_ids(6, 61)]
    found = option_log_likelihoods(backbone, encode_prefix(backbone, prefix), segments, options)
    assert found.shape == (2, len(options)) and found.dtype == np.float64
    np.testing.assert_allclose(found, enumerated(backbone, prefix, segments, options), rtol=0, atol=4e-5)
    np.testing.assert_allclose(normalise(found).sum(axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [4, 40])
def test_neither_batch_size_nor_order_nor_repetition_matters(family, length):
    backbone = model_of(family).backbone("policy")
    prefix = encode_prefix(backbone, random_ids(length, 3))
    segments = [random_ids(1 + n % 5, 80 + n % 7) for n in range(11)]
    options = OPTION_SETS["prefixes of each other"]
    together = option_log_likelihoods(backbone, prefix, segments, options)
    for batch_tokens in (1, 100, 300):
        settled = []
        apart = option_log_likelihoods(
            backbone, prefix, segments, options, batch_tokens=batch_tokens, advance=settled.append
        )
        np.testing.assert_allclose(normalise(apart), normalise(together), rtol=0, atol=1e-5)
        assert sum(settled) == len(segments)
    backwards = option_log_likelihoods(backbone, prefix, segments[::-1], options)[::-1]
    np.testing.assert_allclose(normalise(backwards), normalise(together), rtol=0, atol=1e-5)
    alone = np.vstack([option_log_likelihoods(backbone, prefix, [segment], options) for segment in segments])
    np.testing.assert_allclose(normalise(alone), normalise(together), rtol=0, atol=1e-5)
    same = [i for i in range(11) if segments[i] == segments[0]]
    assert len(same) >= 1 and all((together[i] == together[0]).all() for i in same)


def test_a_prefix_is_never_written():
    backbone = model_of("gemma3").backbone("policy")
    prefix = encode_prefix(backbone, random_ids(12, 4))
    segments, options = [random_ids(3, 5)], [[9, 10], [11]]
    first = option_log_likelihoods(backbone, prefix, segments, options)
    assert prefix.cache.get_seq_length() == 12
    assert (option_log_likelihoods(backbone, prefix, segments, options) == first).all()


def test_windows_of_the_families():
    windows = {family: sliding_window(model_of(family).backbone("policy")) for family in FAMILIES}
    assert windows == {"qwen2": None, "qwen3": None, "llama": None, "gemma3": 16, "mistral": 32, "gpt2": None}


def test_normalise_against_a_closed_form():
    shares = np.array([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(normalise(np.log(shares) - [[1000.0], [3.0]]), shares, atol=1e-12)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [[2, 0, 1]]),
        (2, [[2, 0, 1], [1, 0, 2]]),
        (3, [[2, 0, 1], [0, 1, 2], [1, 2, 0]]),
        (9, [[2, 0, 1], [0, 1, 2], [1, 2, 0]]),
    ],
)
def test_option_orders(count, expected):
    assert option_orders([2, 0, 1], count) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("k", [1, 3, 20])
def test_choice_distribution_equals_enumeration_over_whole_prompts(family, k):
    model, processor = model_of(family), processor_of(family)
    options = [f"answer {number}" if number % 3 else f"no {'really ' * (number % 4)}{number}" for number in range(k)]
    states = [{"age": 34}, "a nurse from the city", {}]
    answer = AnswerFormat(kind="choice", dimension="next_vote", options=tuple(options))
    found = choice_distribution(
        model, processor, "A rumour.", states, options, signal="Most deny it.", dimension="next_vote", orders=2
    )
    expected = np.zeros((3, k))
    for order in (list(range(k)), list(range(k))[::-1]):
        prefix = processor.policy_prefix("A rumour.", "Most deny it.", answer, order=order)
        segments = [processor.person_segment(state, answer) for state in states]
        expected += normalise(enumerated(model.backbone("policy"), prefix, segments, processor.option_ids(answer))) / 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
    method = model.choice_distribution(
        processor, "A rumour.", states, options, signal="Most deny it.", dimension="next_vote"
    )
    assert (method == found).all()


@pytest.mark.parametrize("action", ["choice", "label_text"])
def test_a_rollout_reads_what_enumeration_reads(action):
    model, processor, event = adapted_model("mistral"), processor_of("mistral"), small_event(11)
    rollout = run(model, processor, event, action=action, signal="statistics", option_orders=3)
    answer = AnswerFormat(kind=action, dimension="stance", options=rollout.categories)
    orders = option_orders(permutation(3, stream_key(0, event.event_id, "option order")), 3)
    assert [row.turn for row in rollout.simulated()] == [8, 9, 10]
    for row in rollout.simulated():
        limits = PromptLimits(max_prompt_tokens=600)
        prefix = processor.policy_prefix(
            event.topic, rollout.steps[-1].signal, answer, order=orders[row.turn % 3], limits=limits
        )
        segment = processor.person_segment(event.turns[row.turn].state, answer, limits=limits)
        expected = normalise(enumerated(model.backbone("policy"), prefix, [segment], processor.option_ids(answer)))[0]
        np.testing.assert_allclose(row.probabilities, expected, rtol=0, atol=1e-5)
    weights = np.array([row.weight for row in rollout.simulated()])
    pooled = weights @ np.array([row.probabilities for row in rollout.simulated()]) / weights.sum()
    np.testing.assert_allclose(rollout.steps[-1].shares, pooled, atol=1e-12)


# -- anchored ---------------------------------------------------------------------------------------------------------


def test_the_anchored_formula_against_a_closed_form():
    carry = np.array([0.2, 0.3, 0.5])
    base = np.array([[-1.0, -2.0, -3.0]])
    f = np.array([0.9, -0.3, -0.6])  # sums to zero: centring leaves it
    found = anchored_probabilities(carry, base + f + 7.0, base)
    expected = carry * np.exp(f) / (carry * np.exp(f)).sum()
    np.testing.assert_allclose(found, [expected], atol=1e-12)
    assert (anchored_probabilities(carry, base, base) == carry / carry.sum()).all()


def test_f_is_clipped_at_two_after_centring():
    carry = np.array([0.5, 0.5])
    found = anchored_probabilities(carry, np.array([[50.0, 0.0], [3.0, 0.0]]), np.zeros((2, 2)))
    odds = found[:, 0] / found[:, 1]
    np.testing.assert_allclose(odds, [np.exp(4.0), np.exp(3.0)], rtol=1e-12)


def carry_of(event, alpha=10.0, prior=None):
    """Carry-forward shares as `mf_llm.evaluation` computes them."""
    waves = event.turns[0].wave is not None
    plan = plan_event(event, Windows(0, 0, waves=True) if waves else Windows(8, 3), "stance")
    training = Training([], plan.windows, "stance", event.dimensions["stance"])
    assert (training.prior == 1 / 3).all()
    return Carry(alpha=alpha)(event, plan, training)


def unweighted(event):
    return with_turns(event, at={i: {"weight": 1.0} for i in range(len(event.turns))})


@pytest.mark.parametrize("action", ["choice", "label_text"])
@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_without_adapters_the_anchored_readout_is_carry(action, alpha):
    event = unweighted(small_event(14))
    model, processor = model_of("qwen2"), processor_of("qwen2")
    rollout = run(model, processor, event, anchored=True, action=action, anchor_strength=alpha)
    expected = carry_of(event, alpha)
    counts = np.array([3.0, 5.0, 0.0])  # labels (i * i) % 3 of the 8 turns of the warm-up
    by_hand = (counts + alpha / 3) / (8 + alpha)
    np.testing.assert_allclose(expected, by_hand, atol=1e-12)
    assert [row.probabilities for row in rollout.simulated()] == [tuple(expected)] * 6
    np.testing.assert_allclose(rollout.steps[-1].shares, expected, atol=1e-12)


def test_in_a_survey_carry_is_the_last_warm_up_wave_with_weights():
    event = small_event(waves=(4, 5, 4))
    rollout = run(model_of("qwen2"), processor_of("qwen2"), event, anchored=True, warm_up="w2", action="choice")
    expected = carry_of(event)
    turns = event.turns[4:9]
    counts = np.array([sum(t.weight for t in turns if t.labels["stance"] == s) for s in event.dimensions["stance"]])
    by_hand = counts * 5 / counts.sum() + 10 / 3
    np.testing.assert_allclose(expected, by_hand / by_hand.sum(), atol=1e-12)
    np.testing.assert_allclose([row.probabilities for row in rollout.simulated()], [expected] * 4, atol=1e-12)


def test_an_anchor_prior_takes_the_place_of_the_uniform_one():
    prior = {"support": 2.0, "deny": 1.0, "query": 1.0}
    model, processor = model_of("qwen2"), processor_of("qwen2")
    rollout = run(model, processor, unweighted(small_event(11)), anchored=True, anchor_prior=prior, action="choice")
    by_hand = (np.array([3.0, 5.0, 0.0]) + 10 * np.array([0.5, 0.25, 0.25])) / 18
    np.testing.assert_allclose(rollout.simulated()[0].probabilities, by_hand, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "gpt2"])
def test_with_adapters_the_anchored_readout_is_the_formula(family):
    pytest.importorskip("peft")
    model, processor, event = adapted_model(family, scale=0.1), processor_of(family), small_event(12)
    rollout = run(model, processor, event, anchored=True, action="choice", agents_per_step=4, signal="statistics")
    answer = AnswerFormat(kind="choice", dimension="stance", options=rollout.categories)
    orders = option_orders(permutation(3, stream_key(0, event.event_id, "option order")), 2)
    limits = PromptLimits(max_prompt_tokens=600)
    clipped = 0
    for row in rollout.simulated():
        prefix = processor.policy_prefix(
            event.topic, rollout.steps[row.step].signal, answer, order=orders[row.turn % 2], limits=limits
        )
        segment = processor.person_segment(event.turns[row.turn].state, answer, limits=limits)
        tuned = enumerated(model.backbone("policy"), prefix, [segment], processor.option_ids(answer))[0]
        base = enumerated(model_of(family).backbone("policy"), prefix, [segment], processor.option_ids(answer))[0]
        f = (tuned - base) - (tuned - base).mean()
        clipped += int((np.abs(f) > 2).any())
        unnormalised = carry_of(event) * np.exp(np.clip(f, -2, 2))
        np.testing.assert_allclose(row.probabilities, unnormalised / unnormalised.sum(), rtol=0, atol=1e-5)
        assert np.abs(np.array(row.probabilities) - carry_of(event)).max() > 1e-3
        assert sum(row.probabilities) == pytest.approx(1.0, abs=1e-12)
    assert len(rollout.simulated()) == 4 and clipped < 4
