"""Shared prefixes in pieces: the same tokens, the same keys and values, and pieces that no earlier step decides on."""

import numpy as np
import pytest
import torch
from small_events import FAMILIES, adapted_model, model_of, processor_of, run, several_events, small_event
from test_exact_readout import enumerated, random_ids

from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation import readout
from mf_llm.simulation.generation import generate_keyed
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.simulation.policy_step import PolicyStep
from mf_llm.simulation.prefix_chunks import PrefixStems, encode_prefix
from mf_llm.simulation.readout import anchored_probabilities, normalise, option_log_likelihoods, option_orders

STANCE = AnswerFormat(kind="choice", dimension="stance", options=("support", "deny", "query"))
# The windows of gemma3 (16) and mistral (32) end within a piece, between two and behind all of them.
LENGTHS = [
    (1, 1, 1),
    (3, 4, 2),
    (10, 5, 1),
    (15, 1, 1),
    (16, 16, 1),
    (17, 40, 9),
    (31, 1, 33),
    (70, 2, 5),
    (9, 80, 40),
]
OPTIONS = [[20], [20, 9], [21, 30, 31]]


def parts_of(lengths, seed=0):
    return tuple(tuple(random_ids(n, 100 * seed + i)) for i, n in enumerate(lengths))


def joined(parts):
    return [token for part in parts for token in part]


def same_bits(a, b):
    """Whether two prefixes hold the same keys and values, to the last bit."""
    layers = zip(a.cache.layers, b.cache.layers, strict=True)
    return a.ids == b.ids and all(torch.equal(x.keys, y.keys) and torch.equal(x.values, y.values) for x, y in layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_pieces_are_read_like_one_sequence(family, lengths):
    backbone, parts = model_of(family).backbone("policy"), parts_of(lengths)
    prefix = encode_prefix(PrefixStems(backbone), parts)
    assert list(prefix.ids) == joined(parts) and prefix.cache.get_seq_length() == sum(lengths)
    whole = readout.encode_prefix(backbone, joined(parts))
    for one, other in zip(prefix.cache.layers, whole.cache.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-5)
    segments = [random_ids(n, 40 + n) for n in (1, 6, 6, 3)]
    found = option_log_likelihoods(backbone, prefix, segments, OPTIONS)
    np.testing.assert_allclose(found, option_log_likelihoods(backbone, whole, segments, OPTIONS), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, enumerated(backbone, joined(parts), segments, OPTIONS), rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "mistral"])
@pytest.mark.parametrize("lengths", [(9, 4, 3), (12, 40, 9)], ids=str)
def test_texts_behind_pieces_are_those_behind_one_sequence(family, lengths):
    backbone, parts = model_of(family).backbone("policy"), parts_of(lengths)
    settings = {"generation_config": model_of(family).generation_config_of("policy"), "end_ids": [2]}
    settings |= {"max_new_tokens": 12, "keys": [11, 12, 13]}
    segments = [random_ids(n, 70 + n) for n in (2, 5, 3)]
    prefixes = [encode_prefix(PrefixStems(backbone), parts), readout.encode_prefix(backbone, joined(parts))]
    found, expected = (generate_keyed(backbone, prefix, segments, **settings) for prefix in prefixes)
    assert found == expected and all(one.failure is None for one in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_encoded_before_does_not_show(family):
    backbone, parts = model_of(family).backbone("policy"), parts_of((12, 30, 7))
    fresh = encode_prefix(PrefixStems(backbone), parts)
    others = [
        parts[:1],
        parts[:2],
        (*parts[:2], parts_of((9,), 1)[0]),  # another order of the options
        (parts[0], *parts_of((31, 7), 2)),  # another signal
        parts_of((12, 30, 7), 3),  # another cut of the topic
        (joined(parts[:2]), parts[2]),  # the same tokens in other pieces
    ]
    for other in others:
        stems = PrefixStems(backbone)
        encode_prefix(stems, other)
        assert same_bits(encode_prefix(stems, parts), fresh)
    stems = PrefixStems(backbone)
    for other in [*others, parts, *others[::-1]]:
        assert same_bits(encode_prefix(stems, parts), fresh)
        assert same_bits(encode_prefix(stems, other), encode_prefix(PrefixStems(backbone), other))


def test_a_piece_is_encoded_once_and_the_last_of_each_depth_is_kept(monkeypatch):
    encode, seen = readout.encode_prefix, []
    spy = lambda backbone, ids, after: seen.append(tuple(ids)) or encode(backbone, ids, after)  # noqa: E731
    monkeypatch.setattr(readout, "encode_prefix", spy)
    stems = PrefixStems(model_of("qwen2").backbone("policy"))
    topic, one, other, first, second = parts_of((5, 6, 7, 3, 4))
    for signal in (one, other):
        for order in (first, second):
            encode_prefix(stems, (topic, signal, order))
    assert seen == [topic, one, first, second, other, first, second]
    seen.clear()
    encode_prefix(stems, (topic, one, first))
    assert seen == [one, first] and len(stems._last) == 2


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("signal", [None, "", "Most deny it.", "- a\n- b\n- c", "so " * 400])
def test_parts_are_the_prefix_in_pieces(family, signal):
    processor, limits = processor_of(family), PromptLimits(max_prompt_tokens=600, max_state_tokens=40)
    both = [
        processor.policy_prefix_parts("A rumour. " * 60, signal, STANCE, order=order, limits=limits)
        for order in ([0, 1, 2], [2, 1, 0])
    ]
    for parts, order in zip(both, ([0, 1, 2], [2, 1, 0]), strict=True):
        assert joined(parts) == processor.policy_prefix("A rumour. " * 60, signal, STANCE, order=order, limits=limits)
        assert len(parts) == (2 if signal is None else 3) and all(parts)
    if sum(map(len, both[0])) < 500:  # nothing is cut
        assert both[0][:-1] == both[1][:-1] and both[0][-1] != both[1][-1]
    spell = processor.policy_tokenizer.decode
    assert "Answer with your stance" in spell(both[0][-1]) and "A rumour." in spell(both[0][0])
    assert "Answer with" not in spell(joined(both[0][:-1]))


def test_the_topic_is_the_same_piece_in_all_steps_unless_it_is_cut():
    processor, limits = processor_of("qwen2"), PromptLimits(max_prompt_tokens=600, max_state_tokens=40)
    first = [
        [processor.policy_prefix_parts(topic, signal, STANCE, limits=limits)[0] for signal in (None, "x", "so " * 400)]
        for topic in ("A rumour.", "A rumour about a bridge. " * 60)
    ]
    assert first[0][0] == first[0][1] == first[0][2]
    assert len(first[1][0]) > len(first[1][2])


# -- rollouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"anchored": True}, {"calibrated": True}], ids=str)
@pytest.mark.parametrize("signal", ["none", "both", "recent"])
def test_rollouts_are_those_of_whole_prefixes(monkeypatch, family, settings, signal):
    pytest.importorskip("peft")
    model, processor, event = adapted_model(family), processor_of(family), small_event(17)
    settings = settings | {"signal": signal, "action": "label_text", "max_prompt_tokens": 420, "max_state_tokens": 20}
    found = run(model, processor, event, **settings)
    build = PolicyStep.prefix_parts
    whole = lambda self, *args: [(tuple(joined(parts)),) for parts in build(self, *args)]  # noqa: E731
    monkeypatch.setattr(PolicyStep, "prefix_parts", whole)
    expected = run(model, processor, event, **settings)
    assert [step.prompt_tokens for step in found.steps] == [step.prompt_tokens for step in expected.steps]
    for one, other in zip(found.simulated(), expected.simulated(), strict=True):
        assert (one.label, one.text) == (other.label, other.text)
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_an_anchored_rollout_reads_policy_and_base_like_enumeration(family):
    pytest.importorskip("peft")
    model, processor, event = adapted_model(family), processor_of(family), small_event(14)
    rollout = run(model, processor, event, action="choice", signal="recent", anchored=True)
    orders = option_orders(permutation(3, stream_key(0, event.event_id, "option order")), 2)
    limits, options = PromptLimits(max_prompt_tokens=600), processor.option_ids(STANCE)
    differences = []
    for row in rollout.simulated():
        shown, order = rollout.steps[row.step].signal, orders[row.turn % 2]
        prefix = processor.policy_prefix(event.topic, shown, STANCE, order=order, limits=limits)
        segment = processor.person_segment(event.turns[row.turn].state, STANCE, limits=limits)
        tuned = enumerated(model.backbone("policy"), prefix, [segment], options)
        with model.adapters_disabled("policy"):
            base = enumerated(model.backbone("policy"), prefix, [segment], options)
        # The anchor is the same for all: what is left of the shares after `f` is taken out.
        unanchored = anchored_probabilities(np.full(3, 1 / 3), tuned, base)[0]
        differences.append(normalise(np.log(np.array(row.probabilities) / unanchored)[None])[0])
        assert np.abs(normalise(tuned) - normalise(base)).max() > 1e-3
    np.testing.assert_allclose(differences, np.tile(differences[0], (len(differences), 1)), rtol=0, atol=1e-5)


def test_a_topic_that_is_cut_differently_in_each_step():
    """Where topic and signal share too little room, even the first piece changes; events together change nothing."""
    model, processor = model_of("qwen3"), processor_of("qwen3")
    events = [event.__class__(**vars(event) | {"topic": event.topic * 30}) for event in several_events()]
    settings = {"action": "choice", "signal": "recent", "max_prompt_tokens": 420, "max_state_tokens": 20}
    apart = [run(model, processor, event, **settings) for event in events]
    together = run(model, processor, events, together=5, **settings)
    assert [(one.actions, one.steps) for one in together] == [(one.actions, one.steps) for one in apart]
    limits = PromptLimits(max_prompt_tokens=420, max_state_tokens=20)
    first = {
        tuple(processor.policy_prefix_parts(events[2].topic, step.signal, STANCE, limits=limits)[0])
        for step in apart[2].steps
        if not step.real
    }
    assert len(first) > 1
