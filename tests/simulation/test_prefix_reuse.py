"""Shared prefixes are encoded once as long as they stay the same, under the policy and under its base."""

import pytest
from small_events import adapted_model, model_of, new_model, outcome, processor_of, run, small_event

import mf_llm.simulation.policy_step as policy_step
from mf_llm.simulation import readout
from mf_llm.simulation.prefix_chunks import PrefixStems
from stopped_journal import Crash, stop_journal


@pytest.fixture
def encoded(monkeypatch):
    """Token ids of each piece of a shared prefix that is encoded, in order, with those in front of it."""
    encode, seen = readout.encode_prefix, []

    def encoding(backbone, ids, after=None):
        seen.append(((*after.ids,) if after is not None else (), tuple(ids)))
        return encode(backbone, ids, after)

    monkeypatch.setattr(readout, "encode_prefix", encoding)
    return seen


@pytest.mark.parametrize(("signal", "steps"), [("none", 1), ("statistics", 4)])
@pytest.mark.parametrize("action", ["choice", "label_text"])
def test_policy_and_base_encode_a_prefix_once_while_the_signal_stays(encoded, signal, steps, action):
    pytest.importorskip("peft")
    model, processor, event = adapted_model("qwen2"), processor_of("qwen2"), small_event(32)
    settings = {"action": action, "signal": signal, "agents_per_step": 6}
    found = run(model, processor, event, anchored=True, **settings)
    assert len([step for step in found.steps if not step.real]) == 4
    # The topic; in each step the signal, and what may be answered in two orders: under the policy and under its base.
    pieces = 1 + (3 * steps if signal != "none" else 2)
    assert len(encoded) == 2 * pieces and len(set(encoded)) == pieces
    assert sum(not before for before, _ in encoded) == 2
    plain = run(model, processor, event, **settings)
    assert len(encoded) == 3 * pieces
    # The tokens are those of two readouts where there was one.
    if action == "choice":
        once = [step.prompt_tokens for step in plain.steps]
        twice = [step.prompt_tokens for step in found.steps]
        if signal == "none":
            assert twice == [2 * tokens for tokens in once]
        else:
            assert twice[2] == 2 * once[2]


@pytest.mark.parametrize("family", ["gemma3", "qwen2"])
@pytest.mark.parametrize("signal", ["none", "statistics"])
def test_what_was_anchored_before_is_what_is_anchored_now(monkeypatch, family, signal):
    """With prefixes that are thrown away before each step, nothing but the work changes."""
    pytest.importorskip("peft")
    model, processor, event = adapted_model(family), processor_of(family), small_event(24)
    settings = {"anchored": True, "action": "choice", "signal": signal, "agents_per_step": 4}
    kept = run(model, processor, event, **settings)
    decide = policy_step.PolicyStep.decide

    def forgetful(self, *args):
        self._tuned, self._base = {}, {}
        self.stems, self.base_stems = PrefixStems(self.backbone), PrefixStems(self.backbone)
        return decide(self, *args)

    monkeypatch.setattr(policy_step.PolicyStep, "decide", forgetful)
    assert outcome(run(model, processor, event, **settings)) == outcome(kept)


@pytest.mark.parametrize("signal", ["none", "statistics", "recent"])
def test_a_resumed_anchored_run_counts_the_same_tokens(tmp_path, monkeypatch, signal):
    pytest.importorskip("peft")
    model, processor, event = adapted_model("llama"), processor_of("llama"), small_event(20)
    settings = {"anchored": True, "action": "choice", "signal": signal}
    whole = run(model, processor, event, **settings)
    with monkeypatch.context() as patch:
        stop_journal(patch, 6)
        with pytest.raises(Crash):
            run(model, processor, event, tmp_path, **settings)
    assert outcome(run(model, processor, event, tmp_path, True, **settings)) == outcome(whole)


@pytest.mark.parametrize("signal", ["none", "statistics"])
def test_without_adapters_an_anchored_choice_asks_no_model(encoded, signal):
    model, processor, calls = new_model("qwen2"), processor_of("qwen2"), []
    model.backbone("policy").register_forward_pre_hook(lambda *a: calls.append(1))
    found = run(model, processor, small_event(14), anchored=True, action="choice", signal=signal)
    assert calls == [] == encoded and {step.prompt_tokens for step in found.steps} == {0}
    assert len({row.probabilities for row in found.simulated()}) == 1
    # Texts are still written by it.
    texts = run(model_of("qwen2"), processor, small_event(14), anchored=True, action="label_text", signal=signal)
    assert any(row.text for row in texts.simulated()) and len(encoded) == 1 + (2 if signal == "none" else 3 * 2)
