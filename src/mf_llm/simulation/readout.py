"""The exact readout: the likelihood of every option, for every person of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mf_llm.models.attention_windows import sliding_window
from mf_llm.models.cache_argument import cache_argument
from mf_llm.simulation.memory_limits import enough_memory, in_halves
from mf_llm.simulation.shared_attention import can_share, shared_cache, sharing

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Number of the prefix among those that are read together, and the segment behind it.
_Row = tuple[int, tuple[int, ...]]

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


def stacked_prefixes(prefixes: Sequence[SharedPrefix]) -> tuple[DynamicCache, list[int], torch.Tensor]:
    """The prefixes of some rows, in which equal ones stand together, as one cache.

    Returns:
        A cache with one row for each distinct prefix, padded in front; for each row which of them is its own; and how
        many tokens that has.
    """
    distinct = list({id(prefix): prefix for prefix in prefixes}.values())
    places = {id(prefix): place for place, prefix in enumerate(distinct)}
    ahead = torch.tensor([len(prefix.ids) for prefix in prefixes])
    return _stacked(distinct), [places[id(prefix)] for prefix in prefixes], ahead


def _stacked(distinct: Sequence[SharedPrefix]) -> DynamicCache:
    """One cache row for each prefix, padded in front."""
    # The longest one's cache says how many tokens there are; layers replace their tensors, they never write into them.
    stacked = copy.copy(max(distinct, key=lambda prefix: len(prefix.ids)).cache)
    stacked.layers = [copy.copy(layer) for layer in stacked.layers]
    for n, layer in enumerate(stacked.layers):
        for name in ("keys", "values"):
            parts = [getattr(prefix.cache.layers[n], name) for prefix in distinct]
            length = max(part.shape[-2] for part in parts)
            padded = [torch.nn.functional.pad(part, (0, 0, length - part.shape[-2], 0)) for part in parts]
            setattr(layer, name, torch.cat(padded))
    return stacked


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
    asked = [(prefix, segments)]
    return read_options(backbone, asked, options, batch_tokens=batch_tokens, advance=advance)[0]


@torch.inference_mode()
def read_options(
    backbone: PreTrainedModel,
    asked: Sequence[tuple[SharedPrefix, Sequence[Sequence[int]]]],
    options: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
    advance: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """`option_log_likelihoods` behind several prefixes, read in common passes.

    Args:
        backbone: a causal language model.
        asked: prefixes, each with the segments of the people behind it.
        options: as for `option_log_likelihoods`, of all of them.
        batch_tokens: see there; of several prefixes in a pass all but one count.
        advance: told after each batch how many people it settled.

    Returns:
        For each prefix ``[N, K]`` log-likelihoods.
    """
    prefixes = list({id(prefix): prefix for prefix, _ in asked}.values())
    number = {id(prefix): n for n, prefix in enumerate(prefixes)}
    distinct: dict[_Row, int] = {}
    rows = [
        [distinct.setdefault((number[id(prefix)], tuple(segment)), len(distinct)) for segment in segments]
        for prefix, segments in asked
    ]
    unique = sorted(distinct, key=lambda row: (row[0], len(row[1])))
    ahead = max((len(prefix.ids) for prefix in prefixes), default=0)
    longest = ahead + max((len(segment) for _, segment in unique), default=0) + sum(map(len, options))
    read = _by_copies if outgrows_window(backbone, longest) else _by_tree
    scores = np.empty((len(unique), len(options)))
    together = read is _by_tree and can_share(backbone)
    overhead = sum(map(len, options)) + (0 if together else ahead)
    places = 1 + sum(len(option) - 1 for option in options)  # the last token of an option is predicted, never read
    logits = _LOGITS_AT_ONCE if backbone.device.type == "cpu" else _LOGITS_ON_A_GPU
    most = max(1, logits // (backbone.config.get_text_config().vocab_size * places))
    batches = _batches(unique, overhead, batch_tokens, most, read is _by_copies, ahead if together else None)

    def compute(batch: Sequence[_Row]) -> torch.Tensor:
        return read(backbone, [prefixes[n] for n, _ in batch], [segment for _, segment in batch], options)

    people = np.bincount([row for one in rows for row in one], minlength=len(unique))
    for batch, values in in_halves(batches, compute):
        settled = [distinct[row] for row in batch]
        scores[settled] = values.double().cpu().numpy()
        if advance is not None:
            advance(int(people[settled].sum()))
    return [scores[one] for one in rows]


def normalise(log_likelihoods: np.ndarray) -> np.ndarray:
    """``pi(k | .)`` over the options: softmax of ``[N, K]`` log-likelihoods, in float64.

    The likeliest option has a share however small all likelihoods are; next to it, what is below about ``exp(-745)``
    is exactly 0. A row with a likelihood that is NaN, or without any option that is possible at all, is NaN: no
    readout, never a uniform one.
    """
    with np.errstate(invalid="ignore"):
        shifted = np.exp(log_likelihoods - log_likelihoods.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)


def anchored_probabilities(anchor: np.ndarray, tuned: np.ndarray, base: np.ndarray, clip: float = 2.0) -> np.ndarray:
    """The anchored readout ``p(k) proportional to p_anchor(k) exp(f_k)`` (method, section 2).

    Args:
        anchor: ``[K]`` shares, frozen at the end of the warm-up.
        tuned, base: ``[N, K]`` log-likelihoods under the policy and under its base.
        clip: bound of `f`, the centred difference.

    Returns:
        ``[N, K]`` probabilities; NaN in a row in which one of the models gives an option no likelihood.
    """
    with np.errstate(invalid="ignore"):
        f = tuned - base
        f = np.clip(f - f.mean(axis=1, keepdims=True), -clip, clip)
        f[~np.isfinite(tuned + base).all(axis=1)] = np.nan
    p = anchor[None, :] * np.exp(f)
    return p / p.sum(axis=1, keepdims=True)


def option_orders(first: list[int], count: int) -> list[list[int]]:
    """`count` orders that balance positions: an order and its reverse for 2, else cyclic shifts.

    Examples:
        >>> option_orders([0, 1, 2], 2)
        [[0, 1, 2], [2, 1, 0]]
    """
    if count == 2:
        return [first, first[::-1]]
    return [first[i:] + first[:i] for i in range(min(count, len(first)))]


def outgrows_window(backbone: PreTrainedModel, length: int) -> bool:
    """Whether rows of so many tokens do not fit into the smallest sliding window."""
    window = sliding_window(backbone)
    return window is not None and length > window


def _batches(
    rows: Sequence[_Row], overhead: int, batch_tokens: int, most: int, equal_lengths: bool, shared: int | None
) -> list[list[_Row]]:
    """Rows, sorted by prefix and then by length, in batches of at most `batch_tokens` and `most` (at least one each).

    Args:
        rows: number of the prefix and segment.
        overhead: tokens of a row beside its segment.
        batch_tokens, most: bounds.
        equal_lengths: only segments of one length together.
        shared: tokens of a further prefix in a batch; None: rows behind one prefix alone.
    """
    batches: list[list[_Row]] = []
    longest = prefixes = 0
    for row in rows:
        number, segment = row
        batch = batches[-1] if batches else []
        other = bool(batch) and batch[-1][0] != number
        length = max(longest, len(segment))
        tokens = (len(batch) + 1) * (overhead + length) + (prefixes - 1 + other) * (shared or 0)
        full = len(batch) == most or tokens > batch_tokens or (other and shared is None)
        if not batch or full or (equal_lengths and len(batch[-1][1]) != len(segment)):
            batches.append([row])
            longest, prefixes = len(segment), 1
        else:
            batch.append(row)
            longest, prefixes = length, prefixes + other
    return batches


@contextmanager
def _before(backbone: PreTrainedModel, prefixes: Sequence[SharedPrefix]) -> Iterator[DynamicCache]:
    """A cache for one pass over rows behind these prefixes; rows behind the same one stand together."""
    if len({id(prefix) for prefix in prefixes}) == 1:
        with prefixes[0].before(backbone, len(prefixes)) as cache:
            yield cache
        return
    stacked, owners, _ = stacked_prefixes(prefixes)
    with sharing(backbone):
        yield shared_cache(stacked, owners, kept=False)


def _by_tree(
    backbone: PreTrainedModel,
    prefixes: Sequence[SharedPrefix],
    batch: Sequence[tuple[int, ...]],
    options: Sequence[Sequence[int]],
) -> torch.Tensor:
    device, width = backbone.device, max(map(len, batch))
    ahead = torch.tensor([len(prefix.ids) for prefix in prefixes])
    p = int(ahead.max())
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
    positions = (ahead[:, None] + column[None, :] - (width - lengths)[:, None]).clamp(min=0)
    offset = torch.tensor([j for tail in tails for j in range(len(tail))], dtype=torch.long)
    positions = torch.cat([positions, (ahead + lengths)[:, None] + offset[None, :]], dim=1)
    owner = torch.tensor([k for k, tail in enumerate(tails) for _ in tail], dtype=torch.long)
    within = torch.ones(width + len(flat), width + len(flat), dtype=torch.bool).tril()
    within[width:, width:] &= owner[:, None] == owner[None, :]
    real = torch.cat([column[None, :] >= (width - lengths)[:, None], torch.ones(rows, len(flat), dtype=torch.bool)], 1)
    seen = within[None] & real[:, None, :]
    seen |= torch.eye(width + len(flat), dtype=torch.bool)[None]  # padding sees itself: a softmax over nothing is NaN
    before = torch.arange(p)[None, :] >= (p - ahead)[:, None]  # shorter prefixes are padded in front
    seen = torch.cat([before[:, None].expand(-1, width + len(flat), -1), seen], dim=2)
    mask = torch.zeros(seen.shape, dtype=backbone.dtype).masked_fill_(~seen, torch.finfo(backbone.dtype).min)
    with _before(backbone, prefixes) as cache:
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
    prefixes: Sequence[SharedPrefix],
    batch: Sequence[tuple[int, ...]],
    options: Sequence[Sequence[int]],
) -> torch.Tensor:
    prefix = prefixes[0]  # that of all rows
    device, p, rows, length = backbone.device, len(prefix.ids), len(batch), len(batch[0])
    cache = prefix.expanded(rows)
    positions = torch.arange(p, p + length, device=device)[None, :].expand(rows, -1)
    ids = torch.tensor(list(batch), device=device)
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
