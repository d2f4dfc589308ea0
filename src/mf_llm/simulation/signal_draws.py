"""Several signals per prompt: each prompt encoded once, each draw with noise of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.models.cache_argument import cache_argument
from mf_llm.simulation.generation import Generated
from mf_llm.simulation.readout import outgrows_window
from mf_llm.simulation.sampling import noisy_scores, signed_64
from mf_llm.simulation.shared_attention import can_share, shared_cache, sharing

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


@torch.inference_mode()
def draw_signals(
    backbone: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[int]],
    *,
    temperature: float,
    end_ids: Sequence[int],
    max_new_tokens: int,
    batch_tokens: int = 16384,
) -> list[list[Generated]]:
    """Draws several answers to each prompt from ``softmax(logits / temperature)``, with nothing cut off.

    No top-k, top-p or penalty, so that the probability of a draw is the product of what the model gives its tokens
    (method, section 3). A draw is what `generate_keyed` gives for the same prompt, key and sampling: in float32 it
    depends on neither the batch nor the other draws. The backbone reads in evaluation mode (no dropout) and is handed
    back in the mode it was in.

    Args:
        backbone: a causal language model.
        prompts: B token lists of at least one token each; their lengths may differ.
        keys: B lists of stream keys, one key per draw.
        temperature: more than 0.
        end_ids: the tokens that end an answer, all of them (see `answer_ends`).
        max_new_tokens: bound of an answer, the end token included.
        batch_tokens: bound of rows times row length (at least one row), without the prompt where it is shared.

    Returns:
        B lists of answers, in the order of `keys`. `Generated.end` tells a drawn end from the length bound.
    """
    answers: list[list[Generated]] = [[] for _ in prompts]
    for group in _by_length(prompts, batch_tokens):
        was_training = backbone.training
        backbone.eval()
        try:
            drawn = _draw_group(
                backbone,
                [prompts[i] for i in group],
                [keys[i] for i in group],
                temperature=temperature,
                end_ids=end_ids,
                max_new_tokens=max_new_tokens,
                batch_tokens=batch_tokens,
            )
        finally:
            backbone.train(was_training)
        for i, one in zip(group, drawn, strict=True):
            answers[i] = one
    return answers


def _by_length(prompts: Sequence[Sequence[int]], batch_tokens: int) -> list[list[int]]:
    """Indices of prompts that are encoded together, each group within `batch_tokens`, shortest prompts first."""
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        if groups and (len(groups[-1]) + 1) * len(prompts[i]) <= batch_tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _draw_group(
    backbone: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[int]],
    *,
    temperature: float,
    end_ids: Sequence[int],
    max_new_tokens: int,
    batch_tokens: int,
) -> list[list[Generated]]:
    from transformers import DynamicCache

    device, width = backbone.device, max(map(len, prompts))
    # Padding stands in front of everything: no window of any layer, which counts slots, loses a token to it.
    ids = torch.full((len(prompts), width), end_ids[0], dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = DynamicCache(config=backbone.config)
    logits = backbone(
        input_ids=ids,
        attention_mask=mask,
        position_ids=_positions(mask),
        **cache_argument(backbone, cache),
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    rows = [(i, key) for i, row_keys in enumerate(keys) for key in row_keys]
    share = can_share(backbone) and not outgrows_window(backbone, width + max_new_tokens)
    size = max(batch_tokens // (max_new_tokens if share else width + max_new_tokens), 1)
    drawn: list[list[Generated]] = [[] for _ in prompts]
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        owners = [i for i, _ in batch]
        owner = torch.tensor(owners, device=device)
        with sharing(backbone) if share else nullcontext():
            found = _draw_rows(
                backbone,
                logits[owner],
                shared_cache(cache, owners) if share else _selected(cache, owner),
                mask[owner],
                torch.tensor([signed_64(key) for _, key in batch], dtype=torch.int64, device=device),
                temperature=temperature,
                end_ids=end_ids,
                max_new_tokens=max_new_tokens,
            )
        for (i, _), one in zip(batch, found, strict=True):
            drawn[i].append(one)
    return drawn


def _draw_rows(
    backbone: PreTrainedModel,
    logits: torch.Tensor,
    cache: DynamicCache,
    mask: torch.Tensor,
    keys: torch.Tensor,
    *,
    temperature: float,
    end_ids: Sequence[int],
    max_new_tokens: int,
) -> list[Generated]:
    """Token by token for all rows; rows that are done are dropped once they are half of the batch.

    Args:
        logits: ``[R, V]`` for the first new token.
        cache: keys and values of the R prompts.
        mask: ``[R, P]``, 1 for tokens, 0 for padding.
        keys: ``[R]`` int64.
    """
    ends = torch.tensor(list(end_ids), device=logits.device)
    answers: list[list[int]] = [[] for _ in range(len(keys))]
    settled: dict[int, Generated] = {}
    rows = list(range(len(keys)))  # which answer each row of the batch belongs to
    for counter in range(max_new_tokens):
        # In the order of operations of `generate_keyed`, so that equal logits give equal draws.
        scores = logits.float()
        broken = ~torch.isfinite(scores.amax(dim=-1))
        scores = scores.masked_fill(broken[:, None], 0.0) / temperature
        tokens = noisy_scores(scores, keys, counter).argmax(dim=-1)
        state = torch.stack([tokens, torch.isin(tokens, ends).long(), broken.long()], dim=1).tolist()
        for row, (token, ended, failed) in zip(rows, state, strict=True):
            if row in settled:
                continue
            if failed:
                settled[row] = Generated((), "non_finite_logits")
            elif ended:
                settled[row] = Generated(tuple(answers[row]), end=token)
            else:
                answers[row].append(token)
        if len(settled) == len(answers) or counter + 1 == max_new_tokens:
            break
        going = [place for place, row in enumerate(rows) if row not in settled]
        if 2 * len(going) <= len(rows):
            chosen = torch.tensor(going, device=keys.device)
            cache, mask, keys, tokens = _selected(cache, chosen), mask[chosen], keys[chosen], tokens[chosen]
            rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = backbone(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=_positions(mask)[:, -1:],
            **cache_argument(backbone, cache),
            use_cache=True,
        ).logits[:, -1]
    return [settled.get(row) or Generated(tuple(answer)) for row, answer in enumerate(answers)]


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions of left-padded tokens: the first token of a row is at 0, whatever stands in front of it."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _selected(cache: DynamicCache, rows: torch.Tensor) -> Any:
    """These rows of a cache, as a cache of their own; the one given stays as it is."""
    chosen = copy.copy(cache)
    # Layers replace their tensors, they never write into them.
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen
