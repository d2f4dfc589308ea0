"""One prefix for many rows: what it gives is what copies of the prefix give."""

import pytest
import torch
from small_events import model_of

from mf_llm.models.cache_argument import cache_argument
from mf_llm.models.tiny import TINY_FAMILIES
from mf_llm.simulation import readout, row_batches
from mf_llm.simulation.generation import generate_keyed
from mf_llm.simulation.readout import encode_prefix, option_log_likelihoods
from mf_llm.simulation.shared_attention import SharedKeys, can_share, shared_attention, shared_cache, sharing

OPTIONS = [[5, 9], [7], [8, 11, 30]]


def random_ids(count, seed):
    return torch.randint(20, 300, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("counts", [None, (7,), (3, 1, 3), (2, 2, 2, 1), (0, 4, 0, 3, 0)], ids=str)
@pytest.mark.parametrize("mask", ["boolean", "added", None])
@pytest.mark.parametrize("heads", [(6, 2), (4, 4), (3, 1)], ids=str)
def test_the_softmax_is_that_over_prefix_and_own_tokens(heads, mask, counts, monkeypatch):
    torch.manual_seed(0)
    (q, kv), rows, length, own, p, size = heads, 7, 3, 5, 11, 8
    query, scale = torch.randn(rows, q, length, size), 0.3
    ahead, values_ahead = torch.randn(2, len(counts or (1,)), kv, p, size)
    keys, values = torch.randn(2, rows, kv, own, size)
    seen = torch.ones(rows, 1, length, p + own, dtype=torch.bool)
    if mask is not None:
        seen[..., p:] = torch.rand(rows, 1, length, own) < 0.6
        if counts is not None:  # prefixes are padded in front
            seen[2:, ..., :4] = False
    given = {"boolean": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -3e38), None: None}[mask]
    owners = torch.repeat_interleave(torch.tensor(counts or (rows,)))
    whole = [torch.cat([a[owners], b], dim=2) for a, b in ((ahead, keys), (values_ahead, values))]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, *whole, attn_mask=seen, scale=scale, enable_gqa=True
    )
    for at_once in (10**9, 1, 2 * q * length * (p + own)):  # in one piece, row by row, and by twos
        monkeypatch.setattr("mf_llm.simulation.shared_attention._SCORES_AT_ONCE", at_once)
        got = shared_attention(query, SharedKeys(ahead, values_ahead, counts), keys, values, given, scale)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_rows_that_leave_take_their_prefixes_with_them():
    keys, values = torch.randn(2, 5, 2, 3, 4)
    prefix = SharedKeys(keys, values, (2, 0, 3, 1, 1))
    few = prefix.selected(torch.tensor([3, 6]))
    assert few.counts == (1, 1) and torch.equal(few.keys, keys[[2, 4]]) and torch.equal(few.values, values[[2, 4]])
    most = prefix.selected(torch.tensor([1, 2, 3, 5]))
    assert most.counts == (1, 0, 2, 1, 0) and most.keys is keys  # not worth a copy


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_options_are_as_likely_as_behind_copies(family, monkeypatch):
    backbone = model_of(family).backbone("policy")
    segments = [random_ids(n, n) for n in (3, 4, 4, 6, 9)]
    for length in (4, 10, 60):  # within the windows of gemma3 and mistral, and beyond them
        prefix = encode_prefix(backbone, random_ids(length, 1))
        passes = shared_passes(backbone, monkeypatch)
        shared = option_log_likelihoods(backbone, prefix, segments, OPTIONS)
        assert bool(passes) == (length + 9 + 6 <= {"gemma3": 16, "mistral": 32}.get(family, 10_000))
        with monkeypatch.context() as patched:
            patched.setattr(readout, "can_share", lambda backbone: False)
            copies = option_log_likelihoods(backbone, prefix, segments, OPTIONS)
        assert shared == pytest.approx(copies, abs=1e-4)


def test_what_people_add_to_a_prefix_is_not_kept_where_it_is_read_once(monkeypatch):
    backbone, caches = model_of("llama").backbone("policy"), []

    def watched(*args, **kwargs):
        caches.append(shared_cache(*args, **kwargs))
        return caches[-1]

    prefix = encode_prefix(backbone, random_ids(10, 1))
    monkeypatch.setattr(readout, "shared_cache", watched)
    option_log_likelihoods(backbone, prefix, [random_ids(4, n) for n in range(5)], OPTIONS)
    assert len(caches) == 1
    for layer, held in zip(caches[0].layers, prefix.cache.layers, strict=True):
        assert layer.keys is None and layer.get_seq_length() == 10 and layer.prefix.keys is held.keys


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_answers_are_those_behind_copies(family, monkeypatch):
    model = model_of(family)
    backbone = model.backbone("policy")
    segments, keys = [random_ids(2 + n % 5, n) for n in range(20)], list(range(20))
    config = model.generation_config_of("policy")
    config.do_sample, config.temperature = True, 1.0
    for length in (2, 60):
        prefix = encode_prefix(backbone, random_ids(length, 1))
        arguments = {"generation_config": config, "end_ids": [3], "max_new_tokens": 6}
        passes = shared_passes(backbone, monkeypatch)
        shared = generate_keyed(backbone, prefix, segments, keys, **arguments)
        assert bool(passes) == (length == 2 or family not in ("gemma3", "mistral"))
        with monkeypatch.context() as patched:
            patched.setattr(row_batches, "can_share", lambda backbone: False)
            patched.setattr(readout, "can_share", lambda backbone: False)
            assert shared == generate_keyed(backbone, prefix, segments, keys, **arguments)


def test_the_prefix_is_neither_copied_nor_written(monkeypatch):
    backbone = model_of("llama").backbone("policy")
    prefix = encode_prefix(backbone, random_ids(30, 1))
    before = [layer.keys.clone() for layer in prefix.cache.layers]
    cache = shared_cache(prefix.cache)
    with sharing(backbone), torch.inference_mode():
        backbone(input_ids=torch.tensor([random_ids(4, 2)] * 50), **cache_argument(backbone, cache), use_cache=True)
    for layer, other, keys in zip(prefix.cache.layers, cache.layers, before, strict=True):
        assert other.prefix.keys.data_ptr() == layer.keys.data_ptr()
        assert torch.equal(layer.keys, keys)
        assert other.keys.shape[-2] == 4 and other.get_seq_length() == 34


def test_a_shared_cache_is_no_use_to_other_attention():
    backbone = model_of("llama").backbone("policy")
    prefix = encode_prefix(backbone, random_ids(30, 1))
    with pytest.raises(RuntimeError):  # the mask covers the prefix, the keys do not
        backbone(
            input_ids=torch.tensor([random_ids(4, 2)]),
            **cache_argument(backbone, shared_cache(prefix.cache)),
            use_cache=True,
        )
    assert can_share(backbone)
    with sharing(backbone):
        assert can_share(backbone)
    assert backbone.config._attn_implementation == "sdpa"


def shared_passes(backbone, monkeypatch):
    """Filled with the number of rows of each layer's pass over a shared prefix from now on."""
    from mf_llm.simulation import shared_attention as module

    passes, real = [], module.shared_attention
    monkeypatch.setattr(module, "shared_attention", lambda q, *rest: (passes.append(len(q)), real(q, *rest))[1])
    return passes
