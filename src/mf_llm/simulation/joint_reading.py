"""What several rollouts are about to ask a policy, read at once: prefixes and option likelihoods of their next steps.

A step of a single rollout asks few people behind each prefix, in passes that are too small to fill a GPU; those of an
ensemble together are not. What is read here is what each rollout would have read alone, but for rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from mf_llm.models.attention_windows import sliding_window
from mf_llm.models.cache_argument import cache_argument
from mf_llm.simulation import readout
from mf_llm.simulation.memory_limits import in_halves
from mf_llm.simulation.prefix_chunks import Parts, PrefixStems
from mf_llm.simulation.readout import SharedPrefix, read_options, stacked_prefixes
from mf_llm.simulation.row_batches import row_batches
from mf_llm.simulation.shared_attention import can_share, shared_cache, sharing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mf_llm.simulation.policy_step import PolicyStep
    from mf_llm.simulation.steps import Step

Segments = Sequence[Sequence[int]]


def read_together(asking: Sequence[tuple[PolicyStep, Step, str | None]]) -> list[SharedPrefix]:
    """Reads what `PolicyStep.decide` will ask for, into what the policies share (`SharedReadings`).

    Args:
        asking: policies of one simulation, each with the step it is about to make and the signal its people see.

    Returns:
        The prefixes. What was read lasts as long as somebody holds them: keep them until all have decided.
    """
    alike: dict[tuple[tuple[int, ...], ...], list[tuple[PolicyStep, Step, str | None]]] = {}
    for one in asking:
        if one[0].reads_options:
            alike.setdefault(tuple(map(tuple, one[0].options)), []).append(one)
    held: list[SharedPrefix] = []
    for chosen in alike.values():
        held += _read_in_one_state(chosen, base=False)
        anchored = [one for one in chosen if one[0].anchor is not None]
        held += _read_in_one_state(anchored, base=True) if anchored else []
    return held


def _read_in_one_state(asking: Sequence[tuple[PolicyStep, Step, str | None]], *, base: bool) -> list[SharedPrefix]:
    """With adapters, or (`base`) without them."""
    first = asking[0][0]
    without: AbstractContextManager[None] = first.model.adapters_disabled("policy") if base else nullcontext()
    with without:
        wanted = [policy.prefix_parts(signal) for policy, _, signal in asking]
        stems = [policy.base_stems if base else policy.stems for policy, _, _ in asking]
        prefixes = encode_prefixes(stems, wanted, first.config.batch_tokens)
        questions: dict[tuple[int, tuple[tuple[int, ...], ...]], tuple[SharedPrefix, Segments, PolicyStep, Step]] = {}
        for (policy, step, _), orders in zip(asking, wanted, strict=True):
            for parts, people in zip(orders, policy.asked_in_orders(step), strict=True):
                if people:
                    key = id(prefixes[parts]), tuple(map(tuple, people))
                    questions.setdefault(key, (prefixes[parts], people, policy, step))
        asked = list(questions.values())
        scores = read_options(
            first.backbone,
            [(prefix, segments) for prefix, segments, _, _ in asked],
            first.options,
            batch_tokens=first.config.batch_tokens,
        )
        for (prefix, segments, policy, step), found in zip(asked, scores, strict=True):
            policy.take_in(prefix, segments, step, found)
    return list(prefixes.values())


def encode_prefixes(
    stems: Sequence[PrefixStems], wanted: Sequence[Sequence[Parts]], batch_tokens: int
) -> dict[Parts, SharedPrefix]:
    """The prefixes that several readers want, each piece that nobody holds encoded once, and many in one pass.

    Args:
        stems: of each reader, all of one model in one state, with a common `known`.
        wanted: for each reader the prefixes it wants, in pieces.
        batch_tokens: bound of a pass, see `mf_llm.simulation.readout.option_log_likelihoods`.
    """
    held: dict[Parts, SharedPrefix] = {}
    backbone, known = stems[0].backbone, stems[0].known
    for depth in range(1, 1 + max(len(parts) for orders in wanted for parts in orders)):
        pieces = dict.fromkeys(parts[:depth] for orders in wanted for parts in orders if len(parts) >= depth)
        held |= {piece: known[piece] for piece in pieces if piece in known}
        missing = [piece for piece in pieces if piece not in held]
        new = encode_behind(backbone, [(held.get(piece[:-1]), piece[-1]) for piece in missing], batch_tokens)
        for piece, prefix in zip(missing, new, strict=True):
            held[piece] = known[piece] = prefix
        for one, orders in zip(stems, wanted, strict=True):
            for parts in orders:
                if len(parts) > depth:
                    one.keep(parts[:depth], held[parts[:depth]])
    return {parts: held[parts] for orders in wanted for parts in orders}


@torch.inference_mode()
def encode_behind(
    backbone: PreTrainedModel, pieces: Sequence[tuple[SharedPrefix | None, Sequence[int]]], batch_tokens: int
) -> list[SharedPrefix]:
    """Prefixes that go on from others, many in one pass; see `mf_llm.simulation.readout.encode_prefix`.

    Args:
        backbone: a causal language model.
        pieces: what is encoded already, or None, and the tokens that follow.
        batch_tokens: bound of a pass, with what is encoded already.
    """
    found: dict[int, SharedPrefix] = {}
    # A window's cache forgets what rows still need.
    if can_share(backbone) and sliding_window(backbone) is None:
        behind = [n for n, (after, _) in enumerate(pieces) if after is not None]
        rows = [pieces[n] for n in behind]
        together = row_batches(backbone, [after for after, _ in rows], [ids for _, ids in rows], 0, batch_tokens)
        batches = [[behind[row] for row in batch] for batch in together if len(batch) > 1]
        for batch, encoded in in_halves(batches, lambda batch: _encode(backbone, [pieces[n] for n in batch])):
            found |= dict(zip(batch, encoded, strict=True))
    return [
        found[n] if n in found else readout.encode_prefix(backbone, ids, after)
        for n, (after, ids) in enumerate(pieces)
    ]


def _encode(
    backbone: PreTrainedModel, batch: Sequence[tuple[SharedPrefix | None, Sequence[int]]]
) -> list[SharedPrefix]:
    behind = [after for after, _ in batch if after is not None]  # all of them
    stacked, owners, ahead = stacked_prefixes(behind)
    longest, p = max(len(ids) for _, ids in batch), int(ahead.max())
    # Padding stands behind: nothing that is real can see it.
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, (_, tokens) in zip(ids, batch, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    before = torch.arange(p)[None, :] >= (p - ahead)[:, None]
    seen = torch.cat([before[:, None].expand(-1, longest, -1), causal[None].expand(len(batch), -1, -1)], dim=2)
    mask = torch.zeros(seen.shape, dtype=backbone.dtype).masked_fill_(~seen, torch.finfo(backbone.dtype).min)
    device = backbone.device
    with sharing(backbone):
        cache = shared_cache(stacked, owners)
        backbone(
            input_ids=ids.to(device),
            attention_mask=mask[:, None].to(device),
            position_ids=(ahead[:, None] + torch.arange(longest)).to(device),
            **cache_argument(backbone, cache),
            use_cache=True,
            logits_to_keep=torch.empty(0, dtype=torch.long, device=device),  # nobody reads them
        )
    found = []
    for n, (after, (_, tokens)) in enumerate(zip(behind, batch, strict=True)):
        whole = copy.copy(after.cache)
        whole.layers = [copy.copy(layer) for layer in whole.layers]
        for layer, own in zip(whole.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                parts = [getattr(layer, name), getattr(own, name)[n : n + 1, :, : len(tokens)]]
                setattr(layer, name, torch.cat(parts, dim=-2))
        found.append(SharedPrefix((*after.ids, *tokens), whole))
    return found
