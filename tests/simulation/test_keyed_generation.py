"""Generation behind a shared prefix against generation from full prompts, one at a time."""

import copy

import numpy as np
import pytest
import torch
from small_events import FAMILIES, model_of, processor_of
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from mf_llm.simulation import generation
from mf_llm.simulation.generation import Generated, generate_keyed
from mf_llm.simulation.keyed_draws import stream_key
from mf_llm.simulation.readout import encode_prefix
from mf_llm.simulation.sampling import gumbel_noise

NEW = 7


def random_ids(length, seed):
    return torch.randint(8, 400, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def config_of(family, **changes):
    config = copy.deepcopy(model_of(family).backbone("policy").generation_config)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def written_out(backbone, ids, key, *, end_ids, config):
    """The same answer by a plain loop over full sequences: no cache, no padding, no `generate`."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(config.temperature), TopPLogitsWarper(config.top_p)])
    answer: list[int] = []
    signed = torch.tensor([key - (1 << 64) if key >= 1 << 63 else key])
    for counter in range(NEW):
        with torch.no_grad():
            scores = backbone(input_ids=torch.tensor([[*ids, *answer]]), use_cache=False).logits[:, -1].float()
        if config.repetition_penalty not in (None, 1.0):
            for token in set(answer):
                value = scores[0, token]
                factor = config.repetition_penalty
                scores[0, token] = value * factor if value < 0 else value / factor
        if config.do_sample:
            scores = warpers(None, scores)
            scores = torch.log_softmax(scores, dim=-1) + gumbel_noise(signed, counter, scores.shape[1])
        token = int(scores.argmax())
        if token in end_ids:
            return Generated(tuple(answer), end=token)
        answer.append(token)
    return Generated(tuple(answer))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [5, 14, 30, 70], ids=lambda n: f"prefix{n}")
@pytest.mark.parametrize("how", ["greedy", "keyed", "keyed with penalty"])
def test_a_shared_prefix_gives_what_full_prompts_give(family, length, how):
    backbone = model_of(family).backbone("policy")
    config = config_of(family, do_sample=how != "greedy")
    config.repetition_penalty = 1.3 if "penalty" in how else None
    prefix = random_ids(length, 1)
    segments = [random_ids(n, 20 + i) for i, n in enumerate((2, 5, 1, 5, 3, 2))]
    segments.append(segments[0])  # two people with the same words draw apart
    keys = [stream_key("test", i) for i in range(len(segments))]
    end_ids = processor_of(family).frame("policy").end_ids
    settings = {"generation_config": config, "end_ids": end_ids, "max_new_tokens": NEW}
    found = generate_keyed(backbone, encode_prefix(backbone, prefix), segments, keys, **settings)
    expected = [
        written_out(backbone, prefix + segment, key, end_ids=end_ids, config=config)
        for segment, key in zip(segments, keys, strict=True)
    ]
    assert found == expected
    assert generate_keyed(backbone, None, [prefix + s for s in segments], keys, **settings) == expected
    for batch_tokens in (1, 2 * (length + NEW + 5)):
        shared = encode_prefix(backbone, prefix)
        assert generate_keyed(backbone, shared, segments, keys, batch_tokens=batch_tokens, **settings) == expected
    backwards = generate_keyed(backbone, encode_prefix(backbone, prefix), segments[::-1], keys[::-1], **settings)
    assert backwards[::-1] == expected
    if how != "greedy":
        assert found[-1] != found[0]
        assert generate_keyed(backbone, None, [prefix + s for s in segments], keys[::-1], **settings) != expected


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_end_tokens_end_an_answer_and_are_left_out(family):
    backbone = model_of(family).backbone("policy")
    config, prompt = config_of(family, do_sample=False), random_ids(9, 3)
    settings = {"generation_config": config, "max_new_tokens": NEW}
    free = generate_keyed(backbone, None, [prompt], [1], end_ids=[7], **settings)[0].ids
    assert len(free) == NEW
    for place in (0, 2, 5):
        ended = generate_keyed(
            backbone, None, [prompt, random_ids(4, 9)], [1, 2], end_ids=[7, free[place]], **settings
        )
        assert ended[0] == Generated(free[: free.index(free[place])], end=free[place])


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_an_answer_ends_with_the_first_line_that_has_words(family):
    backbone = model_of(family).backbone("policy")
    config, prompts = config_of(family, do_sample=False), [random_ids(6, 3), random_ids(8, 30)]
    settings = {"generation_config": config, "max_new_tokens": NEW, "end_ids": [7]}
    free = [one.ids for one in generate_keyed(backbone, None, prompts, [1, 2], **settings)]
    # The token at place 3 of the first answer plays the line break; the second goes on.
    breaks = [free[0][3]]
    assert breaks[0] not in free[1]
    found = generate_keyed(backbone, None, prompts, [1, 2], line_break_ids=breaks, **settings)
    first = free[0].index(breaks[0])
    stop = first if first else next(i for i, token in enumerate(free[0]) if token == breaks[0] and i)
    assert found == [Generated(free[0][: stop + 1]), Generated(free[1])]
    # Line breaks in front of all words do not end it.
    leading = generate_keyed(backbone, None, prompts[:1], [1], line_break_ids=list(set(free[0])), **settings)
    assert leading == [Generated(free[0])]


@pytest.mark.parametrize("mask", ["minus infinity", "nan", "infinity"])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_logits_that_are_no_distribution_fail_their_row_alone(mask, with_prefix):
    model = model_of("qwen2")
    backbone = model.backbone("policy")
    bad = 399
    value = {"minus infinity": -torch.inf, "nan": torch.nan, "infinity": torch.inf}[mask]

    def break_row(module, args, kwargs, output):
        rows = (kwargs["input_ids"] == bad).any(dim=1)
        output.logits[rows] = value
        return output

    prompts = [[10, 11, 12], [10, bad], [30, 31], [40, 41, 42, 43]]
    prefix = encode_prefix(backbone, [50, 51]) if with_prefix else None
    settings = {"generation_config": config_of("qwen2"), "end_ids": [2], "max_new_tokens": NEW}
    keys = [1, 2, 3, 4]
    healthy = generate_keyed(backbone, prefix, prompts, keys, **settings)
    hook = backbone.register_forward_hook(break_row, with_kwargs=True)
    try:
        found = generate_keyed(backbone, prefix, prompts, keys, **settings)
    finally:
        hook.remove()
    assert found[1] == Generated((), "non_finite_logits")
    assert [found[i] for i in (0, 2, 3)] == [healthy[i] for i in (0, 2, 3)]
    assert all(one.failure is None for one in healthy)


def test_some_impossible_tokens_are_no_failure():
    backbone = model_of("qwen2").backbone("policy")

    def forbid(module, args, kwargs, output):
        output.logits[..., 100:] = -torch.inf
        return output

    hook = backbone.register_forward_hook(forbid, with_kwargs=True)
    try:
        found = generate_keyed(
            backbone,
            None,
            [[10, 11]] * 3,
            [1, 2, 3],
            generation_config=config_of("qwen2"),
            end_ids=[2],
            max_new_tokens=5,
        )
    finally:
        hook.remove()
    assert all(one.failure is None and max(one.ids, default=0) < 100 for one in found)


def test_broken_logits_after_the_end_of_an_answer_do_not_matter():
    backbone = model_of("qwen2").backbone("policy")
    config = config_of("qwen2", do_sample=False)
    prompts = [[10, 11, 12], [30, 31, 32]]
    settings = {"generation_config": config, "max_new_tokens": NEW}
    free = [one.ids for one in generate_keyed(backbone, None, prompts, [1, 2], end_ids=[7], **settings)]
    assert free[0][1] not in free[1] and free[0][0] != free[0][1]
    calls = []

    def break_first_row_later(module, args, kwargs, output):
        calls.append(len(calls))
        if len(calls) > 4:
            output.logits[0] = torch.nan
        return output

    hook = backbone.register_forward_hook(break_first_row_later, with_kwargs=True)
    try:
        found = generate_keyed(backbone, None, prompts, [1, 2], end_ids=[free[0][1]], **settings)
    finally:
        hook.remove()
    assert len(calls) == 1 + NEW  # the prompts, then a pass for each token
    assert found == [Generated(free[0][:1], end=free[0][1]), Generated(free[1])]


def test_draws_follow_the_distribution_of_the_model():
    from scipy import stats

    backbone = model_of("llama").backbone("policy")
    config = config_of("llama", temperature=1.0, top_p=1.0, top_k=0)
    prompt = random_ids(5, 4)
    with torch.no_grad():
        p = torch.softmax(backbone(input_ids=torch.tensor([prompt])).logits[0, -1].double(), -1).numpy()
    n = 3000
    keys = [stream_key("draws", i) for i in range(n)]
    drawn = generate_keyed(backbone, None, [prompt] * n, keys, generation_config=config, end_ids=[7], max_new_tokens=1)
    counts = np.bincount([one.ids[0] if one.ids else 7 for one in drawn], minlength=len(p))
    top = np.argsort(-p)[:30]
    observed = np.append(counts[top], n - counts[top].sum())
    expected = np.append(p[top], 1 - p[top].sum()) * n
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_a_backbone_that_would_search_beams_draws_all_the_same():
    backbone = model_of("qwen2").backbone("policy")
    settings = {"end_ids": [2], "max_new_tokens": NEW}
    prompts, keys = [[10, 11, 12], [30, 31]], [1, 2]
    plain = generate_keyed(backbone, None, prompts, keys, generation_config=config_of("qwen2"), **settings)
    for changes in ({"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"max_length": 4}):
        config = config_of("qwen2", **changes)
        assert generate_keyed(backbone, None, prompts, keys, generation_config=config, **settings) == plain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["shared", "stacked", "alone"])
def test_rows_that_are_done_leave_without_a_trace(family, how, monkeypatch):
    backbone, config = model_of(family).backbone("policy"), config_of(family, do_sample=True)
    one, other = (encode_prefix(backbone, random_ids(8, n)) for n in (1, 2))
    prefixes = {"shared": one, "stacked": [one, other] * 10, "alone": None}[how]
    segments, keys = [random_ids(3 + n % 4, n) for n in range(20)], list(range(20))
    ends = list(range(3, 140))  # so many that answers end here and there
    answers, rows = [], []
    real = backbone.generate
    monkeypatch.setattr(
        backbone, "generate", lambda **kwargs: (rows.append(len(kwargs["input_ids"])), real(**kwargs))[1]
    )
    for stretch in (1, 4, 1000):
        monkeypatch.setattr(generation, "_STRETCH", stretch)
        answers.append(
            generate_keyed(
                backbone, prefixes, segments, keys, generation_config=config, end_ids=ends, max_new_tokens=NEW
            )
        )
    assert answers[0] == answers[1] == answers[2]
    assert len({len(answer.ids) for answer in answers[0]}) > 2
    assert len(set(rows)) > 2  # some left before others
