"""A failed generation is a typed row: counted, never text that enters a signal, never a share."""

from contextlib import contextmanager

import pytest
import torch
from small_events import (
    FAMILIES,
    every_input,
    model_of,
    new_model,
    outcome,
    processor_of,
    run,
    small_event,
    texts_read,
    with_turns,
)

from mf_llm.simulation.signals import count_shares


@contextmanager
def broken(module, when, value=torch.nan):
    """Rows of the input for which ``when(ids)`` holds get logits that are no distribution."""

    def hook(module, args, kwargs, output):
        rows = torch.tensor([bool(when(row)) for row in kwargs["input_ids"].tolist()])
        output.logits[rows] = value
        return output

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def marked(processor, text):
    """Whether a row holds the tokens of `text`."""
    ids = processor.encoder("policy").encode(text)

    def when(row):
        return any(row[i : i + len(ids)] == ids for i in range(len(row) - len(ids) + 1))

    return when


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("action", ["choice", "label_text", "text"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=["nan", "inf", "minus-inf"])
def test_one_broken_row_fails_alone(family, action, value):
    model, processor = model_of(family), processor_of(family)
    event = with_turns(small_event(12), at={9: {"state": {"job": "zzqqzz"}, "weight": 50.0}})
    settings = {"action": action, "signal": "none", "agents_per_step": 4, "batch_tokens": 10**6}
    healthy = run(model, processor, event, **settings)
    with broken(model.backbone("policy"), marked(processor, "zzqqzz"), value):
        found = run(model, processor, event, **settings)
    failed = found.actions[9]
    assert (failed.source, failed.failure, failed.text, failed.label, failed.probabilities) == (
        "failed", "non_finite_logits", "", None, None,
    )  # fmt: skip
    assert (failed.turn, failed.weight, failed.state) == (9, 50.0, "job: zzqqzz")
    assert [row for row in found.actions if row.turn != 9] == [row for row in healthy.actions if row.turn != 9]
    already = sum(row.failure == "empty_text" for row in healthy.simulated() if row.turn != 9)
    assert found.steps[-1].n_failed == found.n_failed == already + 1 and found.steps[-1].n_people == 4
    if action != "text":
        others = [row for row in found.simulated() if row.turn != 9]
        assert found.steps[-1].shares == count_shares(others, found.categories).normalised


def test_a_failed_row_enters_no_signal():
    model, processor = model_of("qwen2"), processor_of("qwen2")
    event = with_turns(small_event(14), at={8: {"state": {"job": "zzqqzz"}}, 9: {"state": {"job": "zzqqzz"}}})
    for signal in ("text", "statistics", "both", "recent", "popular"):
        with broken(model.backbone("policy"), marked(processor, "zzqqzz")), every_input(model) as seen:
            found = run(model, processor, event, signal=signal)
        assert [row.turn for row in found.actions if row.source == "failed"] == [8, 9]
        read = "\n".join(processor.policy_tokenizer.decode(row) for row in seen["mean_field"] if len(row) > 1)
        assert "non_finite" not in texts_read(processor, seen) and "zzqqzz" not in read
        if signal == "statistics":
            assert found.steps[-1].signal.startswith("Of 9 people so far")  # eight real ones and turn 10
        if signal in ("recent", "popular"):
            assert found.steps[-1].signal.count("- ") == 5


def test_a_step_in_which_everybody_fails_has_no_shares_and_changes_no_statistics():
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(14)
    with broken(model.backbone("policy"), lambda row: True):
        found = run(model, processor, event, signal="statistics")
    assert [row.failure for row in found.simulated()] == ["non_finite_logits"] * 6
    assert [step.shares for step in found.steps if not step.real] == [None, None]
    assert found.steps[-1].signal == found.steps[-2].signal and found.n_failed == 6


def test_an_answer_without_words_fails_where_words_are_all_there_is():
    processor = processor_of("llama")
    model = new_model("llama")
    event, end = small_event(12), processor.frame("policy").end_ids[0]

    def end_at_once(module, args, kwargs, output):
        output.logits[...] = -30.0
        output.logits[..., end] = 30.0
        return output

    model.backbone("policy").register_forward_hook(end_at_once, with_kwargs=True)
    found = run(model, processor, event, action="text")
    assert [(row.source, row.failure, row.text) for row in found.simulated()] == [("failed", "empty_text", "")] * 4
    assert found.n_failed == 4
    labelled = run(model, processor, event, action="label_text")
    assert [(row.source, row.failure) for row in labelled.simulated()] == [("simulated", None)] * 4
    assert all(row.label in event.dimensions["stance"] and row.text == "" for row in labelled.simulated())


@pytest.mark.parametrize("how", ["non_finite_logits", "empty_text"])
def test_a_failed_signal_is_counted_and_leaves_the_one_before_in_force(how):
    processor, model, event = processor_of("llama"), new_model("llama", tied=False), small_event(14)
    end, calls = processor.frame("mean_field").end_ids[0], []
    healthy = run(model, processor, event, signal_max_tokens=4)

    def fail_in_the_second_signal(module, args, kwargs, output):
        if kwargs["input_ids"].shape[1] > 1:
            calls.append(1)
        if len(calls) == 2:
            output.logits[...] = torch.nan if how == "non_finite_logits" else -30.0
            if how == "empty_text":
                output.logits[..., end] = 30.0
        return output

    handle = model.backbone("mean_field").register_forward_hook(fail_in_the_second_signal, with_kwargs=True)
    found = run(model, processor, event, signal_max_tokens=4)
    handle.remove()
    signals = [step.signal for step in found.steps]
    assert signals[:2] == [step.signal for step in healthy.steps[:2]]
    assert signals[0] == "Nobody has reacted yet."
    assert signals[2] == signals[1]
    assert [step.signal_failure for step in found.steps] == [None, None, how, None, None]
    assert found.n_failed == healthy.n_failed + 1
    assert outcome(found) != outcome(healthy)
