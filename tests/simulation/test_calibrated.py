"""Content-free calibration against plain enumeration over whole prompts."""

import re

import numpy as np
import pytest
import torch
from small_events import FAMILIES, adapted_model, model_of, new_model, outcome, processor_of, run, small_event
from test_exact_readout import enumerated

from mf_llm import InputError, SimulationConfig
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation import plan_simulation
from mf_llm.simulation.estimate import estimate
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.simulation.policy_step import calibrated_probabilities
from mf_llm.simulation.readout import normalise, option_orders
from stopped_journal import Crash, stop_journal

LIMITS = PromptLimits(max_prompt_tokens=600)


def test_the_formula_against_a_closed_form():
    shares, free = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]), np.array([0.8, 0.1, 0.1])
    expected = shares / free
    expected /= expected.sum(axis=1, keepdims=True)
    # Log-likelihoods are not normalised, neither of them: constants fall out.
    found = calibrated_probabilities(np.log(shares) - [[100.0], [3.0]], np.log(free) - 20.0)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(calibrated_probabilities(np.log(shares[:1]), np.log(shares[0])), 1 / 3, atol=1e-12)
    np.testing.assert_allclose(calibrated_probabilities(np.log(shares), np.zeros(3)), shares, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("action", "signal", "temperature"),
    [("choice", "statistics", 1.0), ("label_text", "none", 1.0), ("choice", "text", 1.6)],
)
def test_a_calibrated_rollout_is_the_formula(family, action, signal, temperature):
    model, processor, event = model_of(family), processor_of(family), small_event(12)
    settings = {"action": action, "signal": signal, "option_orders": 3, "choice_temperature": temperature}
    rollout = run(model, processor, event, calibrated=True, **settings)
    backbone = model.backbone("policy")
    answer = AnswerFormat(kind=action, dimension="stance", options=rollout.categories)
    orders = option_orders(permutation(3, stream_key(0, event.event_id, "option order")), 3)
    options = processor.option_ids(answer)
    nobody = processor.person_segment({}, answer, limits=LIMITS)
    shown = processor.policy_tokenizer.decode(processor.policy_prefix("N/A", None, answer, order=orders[0]) + nobody)
    assert re.search(r"Topic:\n *N/A *\n\nAnswer with your stance .*\n\nYou are:\n *a member of the public", shown)
    moved = 0.0
    for row in rollout.simulated():
        shown = None if signal == "none" else rollout.steps[row.step].signal
        order = orders[row.turn % 3]
        prefix = processor.policy_prefix(event.topic, shown, answer, order=order, limits=LIMITS)
        segment = processor.person_segment(event.turns[row.turn].state, answer, limits=LIMITS)
        scores = enumerated(backbone, prefix, [segment], options)[0]
        empty = processor.policy_prefix("N/A", None, answer, order=order, limits=LIMITS)
        free = enumerated(backbone, empty, [nobody], options)[0]
        p = np.exp((scores - scores.max() - (free - free.max())) / temperature)
        np.testing.assert_allclose(row.probabilities, p / p.sum(), rtol=0, atol=2e-5)
        assert sum(row.probabilities) == pytest.approx(1.0, abs=1e-12)
        moved = max(moved, np.abs(normalise(scores[None])[0] - p / p.sum()).max())
    assert len(rollout.simulated()) == 4 and moved > 1e-3


def test_a_person_and_a_topic_without_content_are_read_as_uniform():
    # No signal, no profile, topic "N/A": what is divided is what it is divided by.
    model, processor = model_of("qwen2"), processor_of("qwen2")
    event = small_event(12)
    turns = tuple(type(turn)(state={}, action=turn.action, labels=turn.labels) for turn in event.turns)
    event = type(event)(event_id="none", topic="N/A", turns=turns, dimensions=event.dimensions)
    found = run(model, processor, event, calibrated=True, action="choice", signal="none")
    np.testing.assert_allclose([row.probabilities for row in found.simulated()], 1 / 3, atol=1e-5)


def test_a_backbone_that_always_prefers_one_option_is_corrected():
    model, processor, event = new_model("qwen2"), processor_of("qwen2"), small_event(14)
    answer = AnswerFormat(kind="choice", dimension="stance", options=("support", "deny", "query"))
    favourite = processor.option_ids(answer)[1][0]
    before = run(model, processor, event, calibrated=True, action="choice", signal="none")
    plain = run(model, processor, event, action="choice", signal="none")
    firsts = [ids[0] for ids in processor.option_ids(answer)]
    assert firsts.count(favourite) == 1

    def prefer(module, args, kwargs, output):
        output.logits[..., favourite] += 6.0

    model.backbone("policy").register_forward_hook(prefer, with_kwargs=True)
    biased = run(model, processor, event, action="choice", signal="none")
    found = run(model, processor, event, calibrated=True, action="choice", signal="none")
    assert max(r.probabilities[1] for r in plain.simulated()) < min(r.probabilities[1] for r in biased.simulated())

    def spread(a, b):
        return max(np.abs(np.subtract(x.probabilities, y.probabilities)).max() for x, y in zip(a, b, strict=True))

    assert spread(found.simulated(), before.simulated()) < 0.5 * spread(biased.simulated(), plain.simulated())


def test_the_empty_prompt_is_read_once_per_order_and_event(tmp_path, monkeypatch):
    import mf_llm.simulation.policy_step as module

    read, lengths = module.option_log_likelihoods, []
    encode = module.encode_prefix
    encoded = []
    monkeypatch.setattr(
        module, "encode_prefix", lambda backbone, ids: encoded.append(tuple(ids)) or encode(backbone, ids)
    )

    def counting(backbone, prefix, segments, options, **kwargs):
        lengths.append(len(segments))
        return read(backbone, prefix, segments, options, **kwargs)

    monkeypatch.setattr(module, "option_log_likelihoods", counting)
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(32)
    found = run(model, processor, event, calibrated=True, action="choice", signal="none", agents_per_step=6)
    assert lengths.count(1) == 2 and len(lengths) == 2 + 2 * 4
    assert len(encoded) == len(set(encoded)) == 4
    # Its tokens are counted in the first simulated step, and nowhere else.
    plain = run(model, processor, event, action="choice", signal="none", agents_per_step=6)
    extra = [a.prompt_tokens - b.prompt_tokens for a, b in zip(found.steps, plain.steps, strict=True)]
    assert extra[2] > 0 and extra[:2] + extra[3:] == [0] * 5


def test_an_interrupted_run_counts_and_reads_the_same(tmp_path, monkeypatch):
    model, processor, event = model_of("gemma3"), processor_of("gemma3"), small_event(20)
    settings = {"calibrated": True, "signal": "both", "action": "label_text"}
    whole = run(model, processor, event, **settings)
    for lines in (3, 4, 5, 6):
        with monkeypatch.context() as patch:
            stop_journal(patch, lines)
            with pytest.raises(Crash):
                run(model, processor, event, tmp_path / str(lines), **settings)
        assert outcome(run(model, processor, event, tmp_path / str(lines), True, **settings)) == outcome(whole)


def test_adapters_are_part_of_both_readings():
    pytest.importorskip("peft")
    model, processor, event = adapted_model("qwen2"), processor_of("qwen2"), small_event(11)
    rollout = run(model, processor, event, calibrated=True, action="choice", signal="none", option_orders=1)
    answer = AnswerFormat(kind="choice", dimension="stance", options=rollout.categories)
    order = permutation(3, stream_key(0, event.event_id, "option order"))
    options, backbone = processor.option_ids(answer), model.backbone("policy")
    prefix = processor.policy_prefix(event.topic, None, answer, order=order, limits=LIMITS)
    empty = processor.policy_prefix("N/A", None, answer, order=order, limits=LIMITS)
    free = enumerated(backbone, empty, [processor.person_segment({}, answer, limits=LIMITS)], options)
    row = rollout.simulated()[0]
    segment = processor.person_segment(event.turns[row.turn].state, answer, limits=LIMITS)
    expected = normalise(enumerated(backbone, prefix, [segment], options) - free)[0]
    np.testing.assert_allclose(row.probabilities, expected, rtol=0, atol=2e-5)


def test_an_empty_prompt_without_a_distribution_fails_everybody():
    model, processor, event = new_model("qwen2"), processor_of("qwen2"), small_event(12)
    mark = processor.encoder("policy").encode("Topic:\nN/A")

    def fail(module, args, kwargs, output):
        calls.append(kwargs["input_ids"].tolist())
        if any(row[i : i + len(mark)] == mark for row in calls[-1] for i in range(len(row))):
            empty.append(True)
        elif empty and len(empty) == 1:
            output.logits[...] = torch.nan
            empty.append(True)

    calls, empty = [], []
    model.backbone("policy").register_forward_hook(fail, with_kwargs=True)
    found = run(model, processor, event, calibrated=True, action="choice", signal="none", option_orders=1)
    assert len(empty) == 2
    assert {row.failure for row in found.simulated()} == {"non_finite_logits"}
    assert found.steps[-1].shares is None


@pytest.mark.parametrize("other", [{"anchored": True}, {"action": "text"}, {"anchored": True, "action": "choice"}])
def test_calibration_goes_with_neither_an_anchor_nor_free_text(other):
    with pytest.raises(InputError, match=r"`calibrated` must be False with (anchored=True|action=\"text\"), got True"):
        SimulationConfig(calibrated=True, **other)


def test_free_text_without_a_dimension_cannot_be_calibrated():
    event = small_event(12)
    turns = tuple(type(turn)(state=turn.state, action=turn.action) for turn in event.turns)
    event = type(event)(event_id="x", topic=event.topic, turns=turns)
    with pytest.raises(InputError, match=r"`calibrated` must be False for free text .*'x'.*no options to calibrate"):
        plan_simulation(event, SimulationConfig(calibrated=True))


def test_the_estimate_knows_the_empty_prompts():
    event = small_event(20)
    tokens = []
    for calibrated in (False, True):
        config = SimulationConfig(warm_up=8, action="choice", calibrated=calibrated)
        tokens.append(estimate([event], [plan_simulation(event, config)], config).prompt_tokens)
    assert 200 < tokens[1] - tokens[0] < 600
