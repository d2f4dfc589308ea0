"""Keyed sampling of tokens: Gumbel noise from a counter-based generator, then the arg max; and top-p truncation."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor, TopPLogitsWarper

_GOLDEN = 0x9E3779B97F4A7C15
# 23 bits reach up to -log(-log(1 - 2^-24)) = 16.64; a little more, for rounding.
_LARGEST_NOISE = 16.7
_FIRST = 64
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
    """Standard Gumbel noise for all candidates of all rows.

    Args:
        keys: ``[B]`` int64, one stream per row.
        counter: index of the generated token.
        size: number of candidates V.

    Returns:
        ``[B, V]`` float32. Row b depends on ``keys[b]``, `counter` and the index alone.
    """
    return _noise(keys[:, None], counter, torch.arange(size, device=keys.device)[None, :])


def _noise(keys: torch.Tensor, counter: int, index: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise from a counter-based generator: SplitMix64 over key, counter and index of a candidate."""
    stream = _mix(keys + signed_64((counter + 1) * _GOLDEN))
    bits = _mix(stream + (index + 1) * signed_64(_GOLDEN))
    # 23 bits, shifted by half a step: float32 holds every value exactly and none is 0 or 1.
    uniform = (((bits >> 41) & 0x7FFFFF).to(torch.float32) + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def noisy_scores(scores: torch.Tensor, keys: torch.Tensor, counter: int) -> torch.Tensor:
    """Scores plus Gumbel noise, whose arg max is a draw from the softmax of the scores.

    Noise is made only for the candidates that can win at all: over a large vocabulary it costs more than all else.

    Args:
        scores: ``[B, V]`` float32, minus infinity for what was truncated away.
        keys: ``[B]`` int64, one stream per row.
        counter: index of the generated token.

    Returns:
        ``[B, V]``, minus infinity for candidates that cannot win.
    """
    first, index = scores.topk(min(_FIRST, scores.shape[-1]), dim=-1)
    best = (first + _noise(keys[:, None], counter, index)).amax(dim=-1, keepdim=True)
    rows, candidates = ((scores > best - _LARGEST_NOISE) & (scores > -torch.inf)).nonzero(as_tuple=True)
    noisy = torch.full_like(scores, -torch.inf)
    noisy[rows, candidates] = scores[rows, candidates] + _noise(keys[rows], counter, candidates)
    return noisy


class KeyedGumbel(LogitsProcessor):
    """Makes greedy decoding draw from the distribution: adds Gumbel noise that is keyed by row and token index.

    Comes last, after temperature and truncation.

    Args:
        keys: stream key of each row.
        prompt_length: length of the input the first new token follows; the token index is counted from it.
    """

    def __init__(self, keys: list[int], prompt_length: int) -> None:
        self.keys = torch.tensor([signed_64(key) for key in keys], dtype=torch.int64)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        n = input_ids.shape[1] - self.prompt_length
        return noisy_scores(scores.float(), self.keys.to(scores.device), n)  # type: ignore[return-value]


class TopP(LogitsProcessor):
    """Keeps the most probable tokens whose mass reaches `top_p`: `TopPLogitsWarper` without sorting the vocabulary.

    The mass of the likeliest tokens is enough to know where to cut, but for flat distributions, which are sorted.

    Args:
        top_p: mass to keep.
        candidates: how many of the likeliest tokens are looked at first.
    """

    def __init__(self, top_p: float, candidates: int = 512) -> None:
        self.top_p, self.candidates = top_p, candidates
        self._by_sorting = TopPLogitsWarper(top_p)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if scores.shape[-1] <= 2 * self.candidates:
            return self._by_sorting(input_ids, scores)
        top, index = scores.topk(self.candidates, dim=-1)
        p = torch.exp(top - torch.logsumexp(scores, dim=-1, keepdim=True))
        reached = p.cumsum(dim=-1)
        kept = top.masked_fill(reached - p >= self.top_p, -torch.inf)
        result = torch.full_like(scores, -torch.inf).scatter_(-1, index, kept)
        flat = (reached[:, -1] < self.top_p).nonzero()[:, 0]
        if len(flat):
            result[flat] = self._by_sorting(input_ids, scores[flat])
        return result  # type: ignore[return-value]
