"""Signals are drawn from exactly the q that is scored, by names alone, along the chain of a history."""

import re

import numpy as np
import pytest
import torch
from made_transitions import build, made_event
from scipy.stats import chisquare
from small_events import model_of, new_model, processor_of

from mf_llm.models.attention_windows import takes_trees
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.simulation.generation import Generated, answer_ends
from mf_llm.training import signal_sampler
from mf_llm.training.data_collator import DataCollatorForIBTune
from mf_llm.training.lora import add_adapters, lora_config
from mf_llm.training.signal_sampler import SignalSampler

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
]
TEMPERATURE = 0.7


def tuned(family):
    """A model whose mean field carries random adapters and ends its signals soon, now and then."""
    model = new_model(family)
    add_adapters(model, lora_config(model, roles=("mean_field",)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.generation_config_of("mean_field").eos_token_id = list(range(9, 480, 7))
    return model.eval()


def sampler_of(model, family, *, temperature=TEMPERATURE, max_new_tokens=5, seed=0, batch_tokens=4096):
    shared = {role: takes_trees(model.backbone(role)) for role in ("policy", "mean_field")}
    limits = PromptLimits(max_prompt_tokens=400)
    collator = DataCollatorForIBTune(processor_of(family), limits=limits, shared=shared)
    options = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    return SignalSampler(model.backbone("mean_field"), collator, batch_tokens=batch_tokens, **options)


def ends_of(sampler):
    frame = sampler.collator.processor.frame("mean_field")
    return set(answer_ends(frame.end_ids, sampler.backbone.generation_config))


def transitions(n=3, **settings):
    """Rows whose histories have 1, 2, 3, 1, ... steps."""
    rows = build(*[made_event(f"e{i}", n=30) for i in range(n)], agents_per_step=4, warm_ups=(12,), **settings)
    return [row | {"history": row["history"][: 1 + i % 3]} for i, row in enumerate(rows)]


def without_history(row):
    return row | {"history": [], "warm_up": 0}


# -- the distribution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_signals_are_draws_from_the_distribution_that_is_scored(family):
    """Less its expectation, the log-probability of a drawn token has mean 0, for the first token and for later ones.

    The sum over all tokens of all signals is a martingale, so that its variance is known, too.
    """
    model, n = tuned(family), 250
    sampler, (row,) = sampler_of(model, family, max_new_tokens=4, batch_tokens=20_000), transitions(1)
    (drawn,) = sampler.draw([row], n, turn=0)
    packed = sampler.collator.pack("mean_field", sampler.collator.signal_trees([drawn.prompt], [drawn.ids]))
    with torch.no_grad():
        logits = model(**packed.model_inputs("mean_field", "cpu")).mean_field_logits
    log_q = packed.log_probs(logits, TEMPERATURE).double()

    def standard_score(temperature):
        chosen = torch.log_softmax(logits[packed.place].double() / TEMPERATURE, dim=-1)
        weights = torch.softmax(logits[packed.place].double() / temperature, dim=-1)
        expected = (weights * chosen).sum(-1)
        variance = (weights * (chosen - expected[:, None]).square()).sum(-1)
        return (log_q[packed.node, packed.offset] - expected).sum() / variance.sum().sqrt()

    assert len(packed.token) > 2 * n and len(set(map(tuple, drawn.ids))) > n / 2
    assert abs(standard_score(TEMPERATURE)) < 3.5
    assert abs(standard_score(0.85)) > 6  # another temperature would have been noticed

    p = log_q[:, 0].exp().numpy()
    counted = {token: sum(ids[0] == token for ids in drawn.ids) for token in {ids[0] for ids in drawn.ids}}
    likely = {ids[0]: value for ids, value in zip(drawn.ids, p, strict=True) if n * value >= 5}
    rest = 1 - sum(likely.values())
    observed = [counted[token] for token in likely] + [n - sum(counted[token] for token in likely)]
    assert len(likely) > 3
    assert chisquare(observed, [n * value for value in [*likely.values(), rest]]).pvalue > 1e-3


def test_the_end_belongs_to_a_signal_where_it_was_drawn():
    model = tuned("qwen3")
    sampler = sampler_of(model, "qwen3", max_new_tokens=6)
    ends, cap = ends_of(sampler), 6
    drawn = sampler.draw(transitions(), 40, turn=0)
    signals = [(ids, text) for one in drawn for ids, text in zip(one.ids, one.texts, strict=True)]
    ended = [ids[-1] in ends for ids, _ in signals]
    assert any(ended) and not all(ended)
    for ids, text in signals:
        assert 1 <= len(ids) <= cap and not ends & set(ids[:-1])
        assert ids[-1] in ends or len(ids) == cap  # at the cap the end is forced, and no token of the signal
        words = ids[:-1] if ids[-1] in ends else ids
        assert text == sampler.collator.processor.read_answer("mean_field", words)
    assert len({len(ids) for ids, _ in signals}) > 3


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_draws_depend_on_neither_the_batch_nor_the_number_of_signals(family):
    model, rows = tuned(family), transitions()
    sampler = sampler_of(model, family)
    together = sampler.draw(rows, 3, turn=4)
    assert sampler.draw(rows, 3, turn=4) == together
    assert sampler_of(model, family, batch_tokens=1).draw(rows, 3, turn=4) == together
    assert sampler.draw(rows[::-1], 3, turn=4)[::-1] == together
    assert [sampler.draw([row], 3, turn=4)[0] for row in rows] == together
    more = sampler.draw(rows, 5, turn=4)
    assert [one.ids[:3] for one in more] == [one.ids for one in together]


def test_every_name_has_noise_of_its_own():
    model, (row,) = model_of("qwen2"), transitions(1)
    draw = {
        "as it is": sampler_of(model, "qwen2").draw([row], 2, turn=0),
        "turn": sampler_of(model, "qwen2").draw([row], 2, turn=1),
        "named turn": sampler_of(model, "qwen2").draw([row], 2, turn="evaluation"),
        "seed": sampler_of(model, "qwen2", seed=1).draw([row], 2, turn=0),
        "draw": sampler_of(model, "qwen2").draw([row | {"draw": 1}], 2, turn=0),
        "event": sampler_of(model, "qwen2").draw([row | {"event_id": "other"}], 2, turn=0),
        "data set": sampler_of(model, "qwen2").draw([row | {"data_set": "other"}], 2, turn=0),
    }
    assert len({tuple(one.prompt) for (one,) in draw.values()}) == 1
    signals = [tuple(ids) for (one,) in draw.values() for ids in one.ids]
    assert len(set(signals)) == 2 * len(draw)


def test_every_step_and_every_signal_has_noise_of_its_own(monkeypatch):
    keys = []

    def stub(backbone, prompts, row_keys, **options):
        keys.extend(key for one in row_keys for key in one)
        return [[Generated((9, 10)) for _ in one] for one in row_keys]

    monkeypatch.setattr(signal_sampler, "draw_signals", stub)
    sampler_of(model_of("qwen2"), "qwen2").draw(transitions(3), 4, turn=0)
    assert len(keys) == len(set(keys)) == (0 + 1 + 2) + 3 * 4


def test_the_signal_that_is_carried_on_is_any_of_them(monkeypatch):
    def stub(backbone, prompts, keys, **options):
        return [[Generated((9, 10)) for _ in one] for one in keys]

    monkeypatch.setattr(signal_sampler, "draw_signals", stub)
    sampler, rows = sampler_of(model_of("qwen2"), "qwen2"), transitions(3)
    carried = [one.carried for turn in range(80) for one in sampler.draw(rows, 4, turn)]
    assert chisquare(np.bincount(carried, minlength=4)).pvalue > 1e-3 and set(carried) == {0, 1, 2, 3}
    assert {one.carried for turn in range(20) for one in sampler.draw(rows, 1, turn)} == {0}


# -- the chain of a history -------------------------------------------------------------------------------------------


def spy_on_prompts(sampler, monkeypatch):
    """(event, step, previous signal) of every prompt the sampler asks for."""
    asked, original = [], sampler.collator.mean_field_prompt

    def spy(transition, step, previous):
        asked.append((transition["event_id"], step, previous))
        return original(transition, step, previous)

    monkeypatch.setattr(sampler.collator, "mean_field_prompt", spy)
    return asked


def test_every_step_reads_the_signal_of_the_step_before(monkeypatch):
    rows = transitions(3)
    sampler = sampler_of(model_of("llama"), "llama", max_new_tokens=12)
    asked = spy_on_prompts(sampler, monkeypatch)
    drawn = sampler.draw(rows, 2, turn=0)
    assert [len(row["history"]) for row in rows] == [1, 2, 3]
    by_event = {
        row["event_id"]: [(step, text) for event, step, text in asked if event == row["event_id"]] for row in rows
    }
    assert [[step for step, _ in steps] for steps in by_event.values()] == [[0], [0, 1], [0, 1, 2]]
    for row, one in zip(rows, drawn, strict=True):
        previous, *later = (text for _, text in by_event[row["event_id"]])
        assert previous is None
        for n, text in enumerate(later):
            # What the next step read was drawn after this history of n + 1 steps, with the same name.
            (before,) = sampler.draw([row | {"history": row["history"][: n + 1]}], 1, turn=0)
            assert text == before.texts[0] != ""
            previous = text
        step = len(row["history"]) - 1
        assert one.prompt == sampler.collator.mean_field_prompt(row, step, previous)
        assert len(one.ids) == len(one.texts) == 2


def test_a_signal_without_words_leaves_the_one_before_in_place(monkeypatch):
    (row,) = build(made_event("e", n=30), agents_per_step=4, warm_ups=(12,))
    assert len(row["history"]) == 3
    sampler = sampler_of(model_of("qwen2"), "qwen2")
    words = tuple(sampler.collator.processor.encoder("mean_field").encode("Most deny it."))
    answers = iter([Generated(words, end=2), Generated((), end=2), Generated(words[:3], end=2)])
    monkeypatch.setattr(signal_sampler, "draw_signals", lambda *args, **options: [[next(answers)]])
    asked = spy_on_prompts(sampler, monkeypatch)
    (one,) = sampler.draw([row], 1, turn=0)
    assert [text for _, _, text in asked] == [None, "Most deny it.", "Most deny it."]
    assert one.ids == [[*words[:3], 2]]


def test_without_a_history_there_is_no_signal():
    rows = transitions(2)
    sampler = sampler_of(model_of("qwen2"), "qwen2")
    assert sampler.draw([without_history(row) for row in rows], 2, turn=0) == [None, None]
    assert sampler.tokens_drawn == 0 and sampler.draw([], 2, turn=0) == []
    mixed = sampler.draw([without_history(rows[0]), rows[1]], 2, turn=0)
    assert mixed[0] is None and mixed[1:] == sampler.draw(rows[1:], 2, turn=0)


def test_drawn_tokens_are_counted():
    sampler = sampler_of(tuned("qwen2"), "qwen2")
    ends = ends_of(sampler)
    (one,) = sampler.draw(transitions(1), 6, turn=0)
    assert sampler.tokens_drawn == sum(token not in ends for ids in one.ids for token in ids)


def test_weights_that_diverged_are_named():
    model = new_model("qwen2")
    with torch.no_grad():
        model.mean_field.lm_head.weight.fill_(float("nan"))
    (row,) = transitions(1)
    with pytest.raises(
        FloatingPointError, match=re.escape(f"no distribution for a signal of event {row['event_id']!r}")
    ):
        sampler_of(model, "qwen2").draw([row], 2, turn=0)
