"""Keyed sampling of tokens: Gumbel noise from a counter-based generator, then the arg max."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed_64(value: int) -> int:
    """A stream key (64 bits) as the int64 with the same bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >= (1 << 63) else value


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 on int64 tensors (arithmetic wraps; shifts are made logical)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * signed_64(_MIX_1)
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * signed_64(_MIX_2)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def gumbel_noise(keys: torch.Tensor, counter: int, size: int) -> torch.Tensor:
    """Standard Gumbel noise from a counter-based generator (SplitMix64 over key, counter and index).

    Args:
        keys: ``[B]`` int64, one stream per row.
        counter: index of the generated token.
        size: number of candidates V.

    Returns:
        ``[B, V]`` float32. Row b depends on ``keys[b]``, `counter` and the index alone.
    """
    index = torch.arange(size, device=keys.device, dtype=torch.int64)
    row = _mix(keys + signed_64((counter + 1) * _GOLDEN))
    bits = _mix(row[:, None] + (index[None, :] + 1) * signed_64(_GOLDEN))
    # 23 bits, shifted by half a step: float32 holds every value exactly and none is 0 or 1.
    uniform = (((bits >> 41) & 0x7FFFFF).to(torch.float32) + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


class KeyedGumbel(LogitsProcessor):
    """Makes greedy decoding draw from the distribution: adds Gumbel noise that is keyed by row and token index.

    Comes last, after temperature and truncation. The arg max of ``log p + Gumbel`` is a draw from ``p``.

    Args:
        keys: stream key of each row.
        prompt_length: length of the input the first new token follows; the token index is counted from it.
    """

    def __init__(self, keys: list[int], prompt_length: int) -> None:
        self.keys = torch.tensor([signed_64(key) for key in keys], dtype=torch.int64)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        keys = self.keys.to(scores.device)
        noise = gumbel_noise(keys, input_ids.shape[1] - self.prompt_length, scores.shape[1])
        return torch.log_softmax(scores.float(), dim=-1) + noise
