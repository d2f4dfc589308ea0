"""The exact readout: the likelihood of every option, for every person of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.models.cache_argument import cache_argument
from mf_llm.simulation.memory_limits import enough_memory, in_halves
from mf_llm.simulation.shared_attention import can_share, shared_cache, sharing

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Logits that are held at once, since a large vocabulary outweighs everything else. A GPU has memory and wants long
# passes; a processor gains nothing from them.
_LOGITS_AT_ONCE, _LOGITS_ON_A_GPU = 2**24, 2**26


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A shared prompt part, encoded once.

    Attributes:
        ids: its P token ids.
        cache: keys and values of these tokens, batch of 1. Copied or shared, never written.
    """

    ids: tuple[int, ...]
    cache: DynamicCache

    def expanded(self, rows: int) -> DynamicCache:
        """A copy of the cache for a batch of `rows`."""
        cache = copy.deepcopy(self.cache)
        if rows > 1:
            cache.batch_repeat_interleave(rows)
        return cache

    @contextmanager
    def before(self, backbone: PreTrainedModel, rows: int) -> Iterator[DynamicCache]:
        """A cache for one pass over `rows` behind this prefix, within a sliding window.

        It is one for all rows, and keeps nothing of theirs, where the backbone can share.
        """
        if rows > 1 and can_share(backbone):
            with sharing(backbone):
                yield shared_cache(self.cache, kept=False)
        else:
            yield self.expanded(rows)


@torch.inference_mode()
def encode_prefix(backbone: PreTrainedModel, ids: Sequence[int], after: SharedPrefix | None = None) -> SharedPrefix:
    """Encodes the shared part of a step's prompts.

    Args:
        backbone: a causal language model.
        ids: P >= 1 token ids.
        after: what stands before them and is encoded already; it is copied, not written.

    Returns:
        The prefix of all tokens, those of `after` in front.
    """
    from transformers import DynamicCache

    # Nothing is padded, so that a sliding window's slots stay those of one piece.
    cache = DynamicCache(config=backbone.config) if after is None else after.expanded(1)
    # Nobody reads the prefix's logits, and over a large vocabulary those of one token cost as much as the rest.
    none = torch.empty(0, dtype=torch.long, device=backbone.device)
    with enough_memory():
        backbone(input_ids=_row(backbone, ids), **cache_argument(backbone, cache), use_cache=True, logits_to_keep=none)
    return SharedPrefix((*(after.ids if after is not None else ()), *ids), cache)


@torch.inference_mode()
def option_log_likelihoods(
    backbone: PreTrainedModel,
    prefix: SharedPrefix,
    segments: Sequence[Sequence[int]],
    options: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
    advance: Callable[[int], None] | None = None,
) -> np.ndarray:
    """``log pi(option k | prefix, segment i)``: the whole text of each option, its end included.

    Equal segments are encoded once. A row is ``prefix + segment + all options``; a mask lets each option see the
    prompt and itself alone, and its positions continue from the prompt, so that one pass reads all options. Where a
    row could outgrow a sliding attention window, the options of equally long segments are appended to copies of
    their caches instead, since such a window counts slots, not positions.

    Args:
        backbone: a causal language model.
        prefix: the shared part (P tokens).
        segments: N token lists, one per person.
        options: K token lists, each of at least one token.
        batch_tokens: bound of rows times row length, with the prefix where each row holds a copy of it. A batch that
            does not fit into memory is halved.
        advance: told after each batch how many people it settled.

    Returns:
        ``[N, K]`` float64 log-likelihoods in nats, not normalised. Not finite where the model's logits are not.
    """
    distinct: dict[tuple[int, ...], int] = {}
    rows = [distinct.setdefault(tuple(segment), len(distinct)) for segment in segments]
    unique = sorted(distinct, key=len)
    longest = len(prefix.ids) + max(map(len, unique)) + sum(map(len, options))
    read = _by_copies if outgrows_window(backbone, longest) else _by_tree
    scores = np.empty((len(unique), len(options)))
    overhead = sum(map(len, options)) + (0 if read is _by_tree and can_share(backbone) else len(prefix.ids))
    places = 1 + sum(len(option) - 1 for option in options)  # the last token of an option is predicted, never read
    logits = _LOGITS_AT_ONCE if backbone.device.type == "cpu" else _LOGITS_ON_A_GPU
    most = max(1, logits // (backbone.config.get_text_config().vocab_size * places))
    batches = _batches(unique, overhead, batch_tokens, most, read is _by_copies)
    for batch, values in in_halves(batches, lambda batch: read(backbone, prefix, list(batch), options)):
        for segment, value in zip(batch, values.double().cpu().numpy(), strict=True):
            scores[distinct[segment]] = value
        if advance is not None:
            settled = {distinct[segment] for segment in batch}
            advance(sum(row in settled for row in rows))
    return scores[rows]


def normalise(log_likelihoods: np.ndarray) -> np.ndarray:
    """``pi(k | .)`` over the options: softmax of ``[N, K]`` log-likelihoods, in float64.

    The likeliest option has a share however small all likelihoods are; next to it, what is below about ``exp(-745)``
    is exactly 0. A row with a likelihood that is NaN, or without any option that is possible at all, is NaN: no
    readout, never a uniform one.
    """
    with np.errstate(invalid="ignore"):
        shifted = np.exp(log_likelihoods - log_likelihoods.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)


def anchored_probabilities(carry: np.ndarray, tuned: np.ndarray, base: np.ndarray, clip: float = 2.0) -> np.ndarray:
    """The anchored readout ``p(k) proportional to p_carry(k) exp(f_k)`` (method, section 2).

    Args:
        carry: ``[K]`` carry-forward shares, frozen at the end of the warm-up.
        tuned, base: ``[N, K]`` log-likelihoods under the policy and under its base.
        clip: bound of `f`, the centred difference.

    Returns:
        ``[N, K]`` probabilities; NaN in a row in which one of the models gives an option no likelihood.
    """
    with np.errstate(invalid="ignore"):
        f = tuned - base
        f = np.clip(f - f.mean(axis=1, keepdims=True), -clip, clip)
        f[~np.isfinite(tuned + base).all(axis=1)] = np.nan
    p = carry[None, :] * np.exp(f)
    return p / p.sum(axis=1, keepdims=True)


def choice_distribution(
    model: Any,
    processor: Any,
    topic: str,
    states: Sequence[Any],
    options: Sequence[str],
    *,
    signal: str | None = None,
    dimension: str = "answer",
    orders: int = 2,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """How a policy would choose: probabilities of `options` for each person, averaged over option orders.

    Args:
        model: an `MFLLMForSimulation`.
        processor: its `MFLLMProcessor`.
        topic: what people react to.
        states: N profiles; nobody gives an empty array.
        options: K different options; one alone has probability 1.
        signal: what people have done so far, or None.
        dimension: what the options are called ("stance").
        orders: number of orders the options are listed in.
        batch_tokens: see `option_log_likelihoods`.

    Returns:
        ``[N, K]`` probabilities in the order of `options`; NaN in a row for which the model gives no distribution.

    Raises:
        InputError: there is no option, one is blank or comes twice, or they do not fit into the prompt.
    """
    from mf_llm.models.prompts import AnswerFormat

    check_whole("orders", orders)
    texts = [" ".join(option.split()) for option in options]
    if not texts or not all(texts) or len(set(texts)) < len(texts):
        raise InputError(
            f"`options` must be different texts, at least one, got {list(options)!r}; their shares would mean "
            "nothing; give each option once, in words."
        )
    answer = AnswerFormat(kind="choice", dimension=dimension, options=tuple(texts))
    segments = [processor.person_segment(state, answer) for state in states]
    total = np.zeros((len(segments), len(options)))
    if not segments:
        return total
    listed = option_orders(list(range(len(options))), orders)
    for order in listed:
        prefix = encode_prefix(model.backbone("policy"), processor.policy_prefix(topic, signal, answer, order=order))
        scores = option_log_likelihoods(
            model.backbone("policy"), prefix, segments, processor.option_ids(answer), batch_tokens=batch_tokens
        )
        total += normalise(scores)
    return total / len(listed)


def option_orders(first: list[int], count: int) -> list[list[int]]:
    """`count` orders that balance positions: an order and its reverse for 2, else cyclic shifts.

    Examples:
        >>> option_orders([0, 1, 2], 2)
        [[0, 1, 2], [2, 1, 0]]
    """
    if count == 2:
        return [first, first[::-1]]
    return [first[i:] + first[:i] for i in range(min(count, len(first)))]


def sliding_window(backbone: PreTrainedModel) -> int | None:
    """The smallest sliding attention window among the layers, in tokens, or None."""
    config = backbone.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    if layers is not None and not any("sliding" in kind or "chunked" in kind for kind in layers):
        return None
    return window if getattr(config, "use_sliding_window", True) else None


def outgrows_window(backbone: PreTrainedModel, length: int) -> bool:
    """Whether rows of so many tokens do not fit into the smallest sliding window."""
    window = sliding_window(backbone)
    return window is not None and length > window


def _batches(
    segments: list[tuple[int, ...]], overhead: int, batch_tokens: int, most: int, equal_lengths: bool
) -> list[list[tuple[int, ...]]]:
    """Length-sorted segments in batches of at most `batch_tokens` and `most` rows (at least one row each)."""
    batches: list[list[tuple[int, ...]]] = []
    for segment in segments:
        batch = batches[-1] if batches else []
        full = len(batch) == most or (len(batch) + 1) * (overhead + len(segment)) > batch_tokens
        if not batch or full or (equal_lengths and len(batch[-1]) != len(segment)):
            batches.append([segment])
        else:
            batch.append(segment)
    return batches


def _by_tree(
    backbone: PreTrainedModel,
    prefix: SharedPrefix,
    batch: list[tuple[int, ...]],
    options: Sequence[Sequence[int]],
) -> torch.Tensor:
    device, p, width = backbone.device, len(prefix.ids), max(map(len, batch))
    # The last token of an option is predicted, never read.
    tails = [list(option[:-1]) for option in options]
    flat = [token for tail in tails for token in tail]
    starts = np.cumsum([0, *map(len, tails)])[:-1]
    rows, lengths = len(batch), torch.tensor([len(segment) for segment in batch])
    ids = torch.zeros(rows, width + len(flat), dtype=torch.long)
    # Padding stands between prefix and segment, so that the segment's last token is at one place in all rows.
    for i, segment in enumerate(batch):
        ids[i, width - len(segment) : width] = torch.tensor(segment)
        ids[i, width:] = torch.tensor(flat, dtype=torch.long)
    column = torch.arange(width)
    positions = (p + column[None, :] - (width - lengths)[:, None]).clamp(min=0)
    offset = torch.tensor([j for tail in tails for j in range(len(tail))], dtype=torch.long)
    positions = torch.cat([positions, p + lengths[:, None] + offset[None, :]], dim=1)
    owner = torch.tensor([k for k, tail in enumerate(tails) for _ in tail], dtype=torch.long)
    within = torch.ones(width + len(flat), width + len(flat), dtype=torch.bool).tril()
    within[width:, width:] &= owner[:, None] == owner[None, :]
    real = torch.cat([column[None, :] >= (width - lengths)[:, None], torch.ones(rows, len(flat), dtype=torch.bool)], 1)
    seen = within[None] & real[:, None, :]
    seen |= torch.eye(width + len(flat), dtype=torch.bool)[None]  # padding sees itself: a softmax over nothing is NaN
    seen = torch.cat([torch.ones(rows, width + len(flat), p, dtype=torch.bool), seen], dim=2)
    mask = torch.zeros(seen.shape, dtype=backbone.dtype).masked_fill_(~seen, torch.finfo(backbone.dtype).min)
    with prefix.before(backbone, rows) as cache:
        logits = backbone(
            input_ids=ids.to(device),
            attention_mask=mask[:, None].to(device),
            position_ids=positions.to(device),
            **cache_argument(backbone, cache),
            use_cache=True,
            logits_to_keep=len(flat) + 1,
        ).logits
    # One place after the other: a second copy of all logits would be as large as they are.
    total = torch.stack([torch.logsumexp(place.float(), dim=-1) for place in logits.unbind(dim=1)], dim=1)
    scores = total.new_zeros(rows, len(options))
    for k, option in enumerate(options):
        places = [0, *(1 + starts[k] + j for j in range(len(option) - 1))]
        scores[:, k] = (logits[:, places, list(option)].float() - total[:, places]).sum(dim=1)
    return scores


def _by_copies(
    backbone: PreTrainedModel,
    prefix: SharedPrefix,
    batch: list[tuple[int, ...]],
    options: Sequence[Sequence[int]],
) -> torch.Tensor:
    device, p, rows, length = backbone.device, len(prefix.ids), len(batch), len(batch[0])
    cache = prefix.expanded(rows)
    positions = torch.arange(p, p + length, device=device)[None, :].expand(rows, -1)
    ids = torch.tensor(batch, device=device)
    logits = backbone(
        input_ids=ids, position_ids=positions, **cache_argument(backbone, cache), use_cache=True, logits_to_keep=1
    ).logits
    first = torch.log_softmax(logits[:, -1].float(), dim=-1)
    scores = first[:, [option[0] for option in options]]
    for k, option in enumerate(options):
        if len(option) == 1:
            continue
        tail = torch.tensor(option[:-1], device=device)[None, :].expand(rows, -1)
        places = torch.arange(p + length, p + length + len(option) - 1, device=device)[None, :].expand(rows, -1)
        output = backbone(
            input_ids=tail, position_ids=places, **cache_argument(backbone, copy.deepcopy(cache)), use_cache=True
        )
        log_p = torch.log_softmax(output.logits.float(), dim=-1)
        following = torch.tensor(option[1:], device=device)[None, :, None].expand(rows, -1, 1)
        scores[:, k] += log_p.gather(2, following).squeeze(2).sum(dim=1)
    return scores


def _row(backbone: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(ids)], device=backbone.device)
