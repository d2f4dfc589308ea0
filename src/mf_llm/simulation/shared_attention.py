"""Attention of many rows over shared prefixes, which are held and read once instead of once per row.

The softmax over prefix and own tokens is taken in one piece, so that nothing is approximated; what differs from rows
that each hold a copy of the prefix is rounding. Source: Juravsky et al. 2024, "Hydragen", arXiv 2402.05099.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
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


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values of prefixes in one layer, and how many rows stand behind each of them.

    Attributes:
        keys, values: ``[B, H, P, D]``, padded in front to the longest of the B prefixes.
        counts: rows behind each prefix, in the order of the rows; None for one prefix that all rows stand behind.
    """

    keys: torch.Tensor
    values: torch.Tensor
    counts: tuple[int, ...] | None = None

    def parts(self, rows: int, size: int) -> Iterator[tuple[slice, SharedKeys]]:
        """About `size` rows at a time, with the prefixes that they stand behind."""
        if self.counts is None:
            for start in range(0, rows, size):
                yield slice(start, min(start + size, rows)), self
            return
        if rows <= size:  # as it is: it knows its places already
            yield slice(0, rows), self
            return
        first = start = end = 0
        for last, count in enumerate(self.counts, 1):
            end += count
            if end > start and (end - start >= size or last == len(self.counts)):
                pieces = slice(first, last)
                yield slice(start, end), SharedKeys(self.keys[pieces], self.values[pieces], self.counts[pieces])
                first, start = last, end

    def selected(self, rows: torch.Tensor) -> SharedKeys:
        """Those behind which these rows (in increasing order) stand."""
        if self.counts is None:
            return self
        owners = torch.repeat_interleave(torch.tensor(self.counts))[rows.cpu()]
        counts = torch.bincount(owners, minlength=len(self.counts))
        left = counts.nonzero()[:, 0]
        if 2 * len(left) > len(counts):  # not worth a copy
            return replace(self, counts=tuple(counts.tolist()))
        place = left.to(self.keys.device)
        return SharedKeys(self.keys[place], self.values[place], tuple(counts[left].tolist()))

    def by_prefix(self, x: torch.Tensor) -> torch.Tensor:
        """``[rows, H, T, E]`` -> ``[B, H, R * T, E]``, with R rows behind each prefix, some of them made up."""
        _, heads, together, size = x.shape
        if self._slots is not None:
            x = x.new_zeros(len(self.keys) * self._most, heads, together, size).index_copy_(0, self._slots, x)
        return x.view(len(self.keys), -1, heads, together, size).transpose(1, 2).flatten(2, 3)

    def by_row(self, x: torch.Tensor, together: int) -> torch.Tensor:
        """What `by_prefix` did, undone."""
        b, heads, _, size = x.shape
        x = x.view(b, heads, -1, together, size).transpose(1, 2).flatten(0, 1)
        return x if self._slots is None else x[self._slots]

    @cached_property
    def _most(self) -> int:
        return max(self.counts or (1,))

    @cached_property
    def _slots(self) -> torch.Tensor | None:
        """Place of each row among R places for each prefix; None where there is a row for each place."""
        if self.counts is None or set(self.counts) == {self._most}:
            return None
        places = [n * self._most + i for n, count in enumerate(self.counts) for i in range(count)]
        return torch.tensor(places, device=self.keys.device)


class _SharedLayer(DynamicLayer):
    """Keys and values of one layer: those of the prefixes once, and those of each row behind them if they are kept."""

    def __init__(self, prefix: SharedKeys, kept: bool = True) -> None:
        super().__init__()
        self.prefix, self.kept = prefix, kept

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(key_states, value_states) if self.kept else (key_states, value_states)
        # Attention functions are not given the cache. Should a model change the keys on their way, the attribute is
        # gone, and the mask, which covers the prefix too, fits them no more: an error, never a wrong result.
        keys.shared_prefix = self.prefix  # type: ignore[attr-defined]
        return keys, values

    def get_seq_length(self) -> int:
        return self.prefix.keys.shape[-2] + super().get_seq_length()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.prefix = self.prefix.selected(indices)
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[indices], self.values[indices]


def can_share(backbone: PreTrainedModel) -> bool:
    """Whether the attention of this backbone is the one that `sharing` can take the place of."""
    return backbone.config.get_text_config()._attn_implementation in ("sdpa", NAME)


def shared_cache(cache: DynamicCache, owners: Sequence[int] | None = None, *, kept: bool = True) -> DynamicCache:
    """A cache for rows behind prefixes, which are not copied; to be used in `sharing`.

    Args:
        cache: keys and values of the prefixes; no sliding window of theirs may be outgrown.
        owners: the prefix of each row, in increasing order; None: `cache` holds one, for any number of rows.
        kept: whether the keys and values of the rows themselves are kept. Not needed where rows are read in one pass,
            and then they would be most of what it holds in memory.
    """
    shared = DynamicCache()
    layers: list[Any] = cache.layers
    if owners is None:
        shared.layers = [_SharedLayer(SharedKeys(layer.keys, layer.values), kept) for layer in layers]
        return shared
    first, last = owners[0], owners[-1] + 1
    counts = tuple(torch.bincount(torch.tensor(owners) - first, minlength=last - first).tolist())
    shared.layers = [
        _SharedLayer(SharedKeys(layer.keys[first:last], layer.values[first:last], counts), kept) for layer in layers
    ]
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
    return shared_attention(query, prefix, key, value, attention_mask, scaling).transpose(1, 2), None


def shared_attention(
    query: torch.Tensor,
    prefix: SharedKeys,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """``softmax(scaling * q [K_prefix; K]^T + mask) [V_prefix; V]``, with prefixes that rows share.

    Args:
        query: ``[rows, G * H, L, D]``, G query heads to each of the H heads of keys.
        prefix: of P tokens. Where there is but one, all of it is seen, whatever the mask says.
        keys, values: ``[rows, H, S, D]``, each row's own.
        mask: ``[rows or 1, 1, L, P + S]``, boolean (True: seen) or added to the scores; None: everything is seen.
        scaling: of the scores.

    Returns:
        ``[rows, G * H, L, D]``
    """
    rows, heads, length, size = query.shape
    n_keys, p, own = keys.shape[1], prefix.keys.shape[-2], keys.shape[-2]
    if mask is not None and mask.shape[-1] != p + own:
        raise ValueError(f"`mask` must cover {p} + {own} tokens, got {mask.shape[-1]}; rows would see something else.")
    together = heads // n_keys * length
    hidden = p if prefix.counts is None else 0
    grouped = (query * scaling).reshape(rows, n_keys, together, size)
    out = torch.empty_like(grouped)
    for part, piece in prefix.parts(rows, max(1, _SCORES_AT_ONCE // (heads * length * (p + own)))):
        q = grouped[part]
        scores = q.new_empty(len(q), n_keys, together, p + own)
        # One product for all rows behind a prefix: [R * G * L, D] with [D, P].
        scores[..., :p] = piece.by_row(piece.by_prefix(q) @ piece.keys.transpose(2, 3), together)
        scores[..., p:] = q @ keys[part].transpose(2, 3)
        if mask is not None:
            seen = mask[part] if len(mask) > 1 else mask
            _hide(scores.view(len(q), heads, length, p + own)[..., hidden:], seen[..., hidden:])
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        out[part] = piece.by_row(piece.by_prefix(weights[..., :p]) @ piece.values, together)
        out[part] += weights[..., p:] @ values[part]
    return out.view(rows, heads, length, size)


def _hide(scores: torch.Tensor, mask: torch.Tensor) -> None:
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    else:
        scores += mask


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
