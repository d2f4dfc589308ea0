"""Which rows are generated together, and the cache that they begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.models.cache_argument import cache_argument
from mf_llm.simulation.readout import SharedPrefix, outgrows_window, stacked_prefixes
from mf_llm.simulation.shared_attention import can_share, shared_cache, sharing

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

Prefixes = Sequence[SharedPrefix | None]


def row_batches(
    backbone: PreTrainedModel,
    prefixes: Prefixes,
    segments: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_tokens: int,
) -> list[list[int]]:
    """Rows that are generated together, of similar lengths: at most `batch_tokens`, padded (at least one row).

    Where rows share the cache of their prefix, it is counted once, and its rows stand together in their batch.

    Args:
        backbone: a causal language model.
        prefixes: of each row, or None.
        segments: each row's own part of the prompt.
        max_new_tokens: bound of an answer.
        batch_tokens: see `generate_keyed`.
    """
    numbers = {id(prefix): n for n, prefix in reversed(list(enumerate(prefixes)))}
    lengths = [(_length(p), numbers[id(p)], len(s)) for p, s in zip(prefixes, segments, strict=True)]
    longest = max((p for p, _, _ in lengths), default=0) + max((s for _, _, s in lengths), default=0) + max_new_tokens
    windowed = outgrows_window(backbone, longest)
    share = can_share(backbone) and not windowed
    batches: list[list[int]] = []
    seen: set[int] = set()
    p = s = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        p, s, seen = max(p, lengths[i][0]), max(s, lengths[i][2]), seen | {lengths[i][1]}
        batch = batches[-1] if batches else []
        rows = len(batch) + 1
        full = rows * (s + max_new_tokens) + (len(seen) if share else rows) * p > batch_tokens
        # Padding between prefix and segment would eat slots of a sliding window: equally long rows there.
        unequal = windowed and p > 0 and batch and _lengths(lengths[batch[-1]]) != _lengths(lengths[i])
        if not batch or full or unequal:
            batches.append([i])
            p, number, s = lengths[i]
            seen = {number}
        else:
            batch.append(i)
    return batches


@contextmanager
def first_cache(
    backbone: PreTrainedModel, prefixes: Prefixes, ids: torch.Tensor, mask: torch.Tensor, max_new_tokens: int
) -> Iterator[DynamicCache | None]:
    """The cache that a batch of rows begins with, to be used as long as this lasts.

    Args:
        backbone: a causal language model.
        prefixes: of each row, all or none of them None; equal ones stand together.
        ids, mask: ``[rows, P + S]``, prefix and segment of each row, each padded in front.
        max_new_tokens: bound of an answer.
    """
    distinct = list({id(prefix): prefix for prefix in prefixes if prefix is not None}.values())
    if not can_share(backbone) or outgrows_window(backbone, ids.shape[1] + max_new_tokens):
        yield _copied(distinct, prefixes)
        return
    with sharing(backbone):
        if not distinct:
            # What a row's own prompt gave is not written to again either, and so need not be copied for each token.
            yield shared_cache(_encoded(backbone, ids, mask), range(len(ids))) if ids.shape[1] > 1 else None
        elif len(distinct) == 1:
            yield shared_cache(distinct[0].cache)
        else:
            stacked, owners, _ = stacked_prefixes([prefix for prefix in prefixes if prefix is not None])
            yield shared_cache(stacked, owners)


def _encoded(backbone: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
    """Keys and values of all tokens but the last."""
    from transformers import DynamicCache

    cache = DynamicCache(config=backbone.config)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, :-1]
    none = torch.empty(0, dtype=torch.long, device=ids.device)  # nobody reads the logits
    backbone(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions,
        **cache_argument(backbone, cache),
        use_cache=True,
        logits_to_keep=none,
    )
    return cache


def _copied(distinct: Sequence[SharedPrefix], prefixes: Prefixes) -> DynamicCache | None:
    """A cache in which each row has a copy of its prefix."""
    if len(distinct) < 2:
        return distinct[0].expanded(len(prefixes)) if distinct else None
    stacked, owners, _ = stacked_prefixes([prefix for prefix in prefixes if prefix is not None])
    layer: Any = stacked.layers[0]
    stacked.batch_select_indices(torch.tensor(owners).to(layer.keys.device))
    return stacked


def _length(prefix: SharedPrefix | None) -> int:
    return len(prefix.ids) if prefix is not None else 0


def _lengths(row: tuple[int, int, int]) -> tuple[int, int]:
    return row[0], row[2]
