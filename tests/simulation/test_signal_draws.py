"""Many draws from prompts of different lengths against one prompt and one draw at a time."""

import numpy as np
import pytest
import torch
from small_events import FAMILIES, adapted_model, model_of, new_model
from transformers import GenerationConfig

from mf_llm.simulation.generation import Generated, answer_ends, generate_keyed
from mf_llm.simulation.keyed_draws import stream_key
from mf_llm.simulation.signal_draws import draw_signals

LENGTHS = (1, 3, 20, 9, 50, 9)  # both windows (16 and 32) are outgrown, and one prompt is a single token
NEW = 9


def random_ids(length, seed):
    return torch.randint(8, 400, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompts_and_keys(draws=3):
    prompts = [random_ids(length, i) for i, length in enumerate(LENGTHS)]
    return prompts, [[stream_key("draws", i, k) for k in range(draws)] for i in range(len(prompts))]


def one_by_one(backbone, prompts, keys, *, temperature, end_ids, max_new_tokens=NEW):
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    settings = {"generation_config": config, "end_ids": end_ids, "max_new_tokens": max_new_tokens}
    return [
        [generate_keyed(backbone, None, [prompt], [key], **settings)[0] for key in row]
        for prompt, row in zip(prompts, keys, strict=True)
    ]


def frequent_tokens(answers, count=6):
    """Tokens that are drawn often: as end tokens they end answers at all places."""
    drawn = [token for row in answers for one in row for token in one.ids]
    return [int(token) for token in np.bincount(drawn).argsort()[::-1][:count]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws_are_those_of_one_prompt_at_a_time(family, temperature):
    backbone = model_of(family).backbone("mean_field")
    prompts, keys = prompts_and_keys()
    settings = {"temperature": temperature, "end_ids": [7], "max_new_tokens": NEW}
    free = one_by_one(backbone, prompts, keys, temperature=temperature, end_ids=[7])
    assert draw_signals(backbone, prompts, keys, **settings) == free
    settings["end_ids"] = frequent_tokens(free)
    expected = one_by_one(backbone, prompts, keys, temperature=temperature, end_ids=settings["end_ids"])
    flat = [one for row in expected for one in row]
    ends = {one.end for one in flat}
    assert None in ends and len(ends - {None}) > 1 and ends <= {None, *settings["end_ids"]}
    assert len({len(one.ids) for one in flat}) > 3
    assert all((one.end is not None) == (len(one.ids) < NEW) for one in flat)
    for batch_tokens in (16384, 150, 1):
        assert draw_signals(backbone, prompts, keys, batch_tokens=batch_tokens, **settings) == expected
    backwards = draw_signals(backbone, prompts[::-1], [row[::-1] for row in keys[::-1]], **settings)
    assert [row[::-1] for row in backwards[::-1]] == expected


def test_prompts_may_have_different_numbers_of_draws():
    backbone = model_of("gemma3").backbone("mean_field")
    prompts, keys = prompts_and_keys(4)
    uneven = [row[:k] for row, k in zip(keys, (2, 0, 4, 1, 3, 1), strict=True)]
    settings = {"temperature": 1.0, "end_ids": [7], "max_new_tokens": 5}
    found = draw_signals(backbone, prompts, uneven, **settings)
    assert found == one_by_one(backbone, prompts, uneven, temperature=1.0, end_ids=[7], max_new_tokens=5)
    assert draw_signals(backbone, [], [], **settings) == []


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral"])
@pytest.mark.parametrize("temperature", [1.0, 1.6])
def test_tokens_follow_the_distribution_of_the_model(family, temperature):
    from scipy import stats

    backbone = model_of(family).backbone("mean_field")
    prompts, n = [random_ids(4, 1), random_ids(40, 2)], 3000
    keys = [[stream_key("draws", i, k) for k in range(n)] for i in range(2)]
    found = draw_signals(backbone, prompts, keys, temperature=temperature, end_ids=[7], max_new_tokens=2)
    for prompt, answers in zip(prompts, found, strict=True):
        with torch.no_grad():
            logits = backbone(input_ids=torch.tensor([prompt])).logits[0, -1].double()
        p = torch.softmax(logits / temperature, -1).numpy()
        counts = np.bincount([one.ids[0] if one.ids else 7 for one in answers], minlength=len(p))
        assert fits(stats, counts, p)
        warmer = torch.softmax(logits / (1.3 * temperature), -1).numpy()
        assert not fits(stats, counts, warmer)  # so many draws would show a wrong temperature
        # And the second token, given the most frequent first one.
        first = int(counts.argmax())
        seconds = [one.ids[1] if len(one.ids) > 1 else 7 for one in answers if one.ids[:1] == (first,)]
        with torch.no_grad():
            logits = backbone(input_ids=torch.tensor([[*prompt, first]])).logits[0, -1].double()
        p = torch.softmax(logits / temperature, -1).numpy()
        assert fits(stats, np.bincount(seconds, minlength=len(p)), p)


def fits(stats, counts, p):
    """Chi-squared test over the likeliest categories and the rest."""
    top = np.argsort(-p)[: max(int((p * counts.sum() > 8).sum()), 1)]
    observed, expected = counts[top], p[top] * counts.sum()
    if p[top].sum() < 1 - 1e-9:
        observed = np.append(observed, counts.sum() - observed.sum())
        expected = np.append(expected, counts.sum() - expected.sum())
    return stats.chisquare(observed, expected).pvalue > 1e-4


def test_each_prompt_is_encoded_once_and_finished_rows_are_dropped():
    backbone = model_of("qwen2").backbone("mean_field")
    prompts, keys = prompts_and_keys(8)
    shapes = []
    hook = backbone.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        free = draw_signals(backbone, prompts, keys, temperature=1.0, end_ids=[7], max_new_tokens=NEW)
        assert shapes == [(6, 50)] + [(48, 1)] * (NEW - 1)
        ends = frequent_tokens(free, 40)
        shapes.clear()
        draw_signals(backbone, prompts, keys, temperature=1.0, end_ids=ends, max_new_tokens=NEW)
    finally:
        hook.remove()
    assert shapes[0] == (6, 50)
    rows = [shape[0] for shape in shapes[1:]]
    assert rows == sorted(rows, reverse=True) and rows[-1] <= rows[0] / 2


def test_logits_that_are_no_distribution_fail_their_draws_alone():
    backbone = model_of("qwen2").backbone("mean_field")
    bad = 399
    prompts = [[10, 11, 12], [10, bad], [30, 31], [40, 41, 42, 43]]
    keys = [[1, 2], [3, 4], [5, 6], [7, 8]]
    settings = {"temperature": 1.0, "end_ids": [2], "max_new_tokens": NEW}
    healthy = draw_signals(backbone, prompts, keys, **settings)

    def break_row(module, args, kwargs, output):
        output.logits[(kwargs["input_ids"] == bad).any(dim=1)] = torch.nan
        return output

    hook = backbone.register_forward_hook(break_row, with_kwargs=True)
    try:
        found = draw_signals(backbone, prompts, keys, **settings)
    finally:
        hook.remove()
    assert found[1] == [Generated((), "non_finite_logits")] * 2
    assert [found[i] for i in (0, 2, 3)] == [healthy[i] for i in (0, 2, 3)]


def test_dropout_is_off_and_the_mode_is_kept():
    backbone = new_model("gpt2").backbone("mean_field")
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    prompts, keys = prompts_and_keys(2)
    settings = {"temperature": 1.0, "end_ids": [7], "max_new_tokens": NEW}
    expected = draw_signals(backbone, prompts, keys, **settings)
    assert not backbone.training
    backbone.train()
    assert draw_signals(backbone, prompts, keys, **settings) == expected
    assert backbone.training


def test_adapters_are_part_of_the_model_that_draws():
    pytest.importorskip("peft")
    model = adapted_model("mistral")
    prompts, keys = prompts_and_keys(2)
    settings = {"temperature": 1.0, "end_ids": [7], "max_new_tokens": NEW}
    tuned = draw_signals(model.backbone("policy"), prompts, keys, **settings)
    assert tuned == one_by_one(model.backbone("policy"), prompts, keys, temperature=1.0, end_ids=[7])
    with model.adapters_disabled("policy"):
        assert draw_signals(model.backbone("policy"), prompts, keys, **settings) != tuned


def test_the_ends_of_an_answer_are_those_of_the_frame_and_of_the_backbone():
    assert answer_ends([5, 7], GenerationConfig(eos_token_id=[7, 9])) == (5, 7, 9)
    assert answer_ends([5], GenerationConfig(eos_token_id=9)) == (5, 9)
    assert answer_ends([5], GenerationConfig()) == (5,)
