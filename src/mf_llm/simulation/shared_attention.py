"""Attention of many rows over one shared prefix, which is held and read once instead of once per row.

The softmax over prefix and own tokens is taken in one piece, so that nothing is approximated; what differs from rows
that each hold a copy of the prefix is rounding. Source: Juravsky et al. 2024, "Hydragen", arXiv 2402.05099.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "mf_llm_shared_prefix"
# Scores that are held at once: what a core keeps near it, and far below what the rows' own keys and values take.
_SCORES_AT_ONCE = 4_000_000


class _SharedLayer(DynamicLayer):
    """Keys and values of one layer: those of the prefix once, ``[1, H, P, D]``, and those of each row behind it."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.prefix = (keys, values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(key_states, value_states)
        # Attention functions are not given the cache. Should a model change the keys on their way, the attribute is
        # gone, and the mask, which covers the prefix too, fits them no more: an error, never a wrong result.
        keys.shared_prefix = self.prefix
        return keys, values

    def get_seq_length(self) -> int:
        return self.prefix[0].shape[-2] + super().get_seq_length()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


def can_share(backbone: PreTrainedModel) -> bool:
    """Whether the attention of this backbone is the one that `sharing` can take the place of."""
    return backbone.config.get_text_config()._attn_implementation in ("sdpa", NAME)


def shared_cache(cache: DynamicCache) -> DynamicCache:
    """A cache for any number of rows behind the prefix that `cache` (a batch of 1) holds; to be used in `sharing`."""
    shared = DynamicCache()
    shared.layers = [_SharedLayer(layer.keys, layer.values) for layer in cache.layers]
    return shared


@contextmanager
def sharing(backbone: PreTrainedModel) -> Iterator[None]:
    """Lets `backbone` read caches of `shared_cache`; all other caches are read as before."""
    config = backbone.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    prefix = getattr(key, "shared_prefix", None)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared_attention(query, *prefix, key, value, attention_mask, scaling).transpose(1, 2), None


def shared_attention(
    query: torch.Tensor,
    prefix_keys: torch.Tensor,
    prefix_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """``softmax(scaling * q [K_prefix; K]^T + mask) [V_prefix; V]``, with one prefix for all rows.

    Args:
        query: ``[B, G * H, L, D]``, G query heads to each of the H heads of keys.
        prefix_keys, prefix_values: ``[1, H, P, D]``, which everybody sees.
        keys, values: ``[B, H, S, D]``, each row's own.
        mask: ``[B or 1, 1, L, P + S]``, boolean (True: seen) or added to the scores; None: everything is seen.
        scaling: of the scores.

    Returns:
        ``[B, G * H, L, D]``
    """
    rows, heads, length, size = query.shape
    n_keys, p, own = keys.shape[1], prefix_keys.shape[-2], keys.shape[-2]
    if mask is not None and mask.shape[-1] != p + own:
        raise ValueError(f"`mask` must cover {p} + {own} tokens, got {mask.shape[-1]}; rows would see something else.")
    together = heads // n_keys * length
    grouped = (query * scaling).reshape(rows, n_keys, together, size)
    out = torch.empty_like(grouped)
    step = max(1, _SCORES_AT_ONCE // (heads * length * (p + own)))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        q = grouped[part]
        n = q.shape[0]
        scores = q.new_empty(n, n_keys, together, p + own)
        # One product for all rows: [H, n * G * L, D] with [H, D, P].
        ahead = q.transpose(0, 1).reshape(n_keys, n * together, size) @ prefix_keys[0].transpose(1, 2)
        scores[..., :p] = ahead.view(n_keys, n, together, p).transpose(0, 1)
        scores[..., p:] = q @ keys[part].transpose(2, 3)
        if mask is not None:
            _hide(scores.view(n, heads, length, p + own)[..., p:], (mask[part] if len(mask) > 1 else mask)[..., p:])
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        seen = weights[..., :p].transpose(0, 1).reshape(n_keys, n * together, p) @ prefix_values[0]
        out[part] = seen.view(n_keys, n, together, size).transpose(0, 1)
        out[part] += weights[..., p:] @ values[part]
    return out.view(rows, heads, length, size)


def _hide(scores: torch.Tensor, mask: torch.Tensor) -> None:
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    else:
        scores += mask


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
