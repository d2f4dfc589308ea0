"""Keyed generation behind a shared prefix: transformers' ``generate`` with noise that belongs to each row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from mf_llm.simulation.readout import SharedPrefix, _batches, _outgrows_window
from mf_llm.simulation.sampling import KeyedGumbel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Generated:
    """One generated answer.

    Attributes:
        ids: new tokens, the end token left out.
        failure: "non_finite_logits" if the model gave no distribution at some token, else None.
    """

    ids: tuple[int, ...]
    failure: str | None = None


class _AfterFirstLine(StoppingCriteria):
    """Ends a row at the first line break behind some text: what a person writes is one line."""

    def __init__(self, line_break_ids: Sequence[int], prompt_length: int) -> None:
        self.line_breaks = torch.tensor(sorted(line_break_ids), dtype=torch.long)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        breaks = torch.isin(input_ids[:, self.prompt_length :], self.line_breaks.to(input_ids.device))
        return (breaks & ((~breaks).cumsum(dim=1) > 0)).any(dim=1)


class _FiniteGuard(LogitsProcessor):
    """Marks the rows whose logits are no distribution; their tokens are not to be used."""

    def __init__(self, rows: int) -> None:
        self.failed = torch.zeros(rows, dtype=torch.bool)
        self.failed_at = torch.full((rows,), -1)
        self._calls = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        broken = ~torch.isfinite(torch.logsumexp(scores.float(), dim=-1)).cpu()
        self.failed_at[broken & ~self.failed] = self._calls
        self.failed |= broken
        self._calls += 1
        return torch.where(broken.to(scores.device)[:, None], torch.zeros_like(scores), scores)


@torch.inference_mode()
def generate_keyed(
    backbone: PreTrainedModel,
    prefix: SharedPrefix | None,
    segments: Sequence[Sequence[int]],
    keys: Sequence[int],
    *,
    generation_config: GenerationConfig,
    end_ids: Sequence[int],
    max_new_tokens: int,
    line_break_ids: Sequence[int] = (),
    batch_tokens: int = 16384,
) -> list[Generated]:
    """Generates one answer per row.

    Temperature and truncation are those of `generation_config`; the draw is keyed (see `KeyedGumbel`), so that a row's
    answer does not depend on the batch it is in. With ``do_sample=False`` the answer is the greedy one.

    Args:
        backbone: a causal language model.
        prefix: the shared part of the prompts, or None.
        segments: N token lists, each row's own part of the prompt, at least one token each.
        keys: N stream keys.
        generation_config: of the role.
        end_ids: tokens that end an answer; those of `generation_config` do too.
        max_new_tokens: bound of an answer.
        line_break_ids: tokens with a line break; if given, an answer also ends at the first of them behind some text.
        batch_tokens: bound of rows times row length.
    """
    end_ids = _with_own_ends(end_ids, generation_config)
    p = len(prefix.ids) if prefix is not None else 0
    rows: dict[tuple[int, ...], list[int]] = {}
    for i, segment in enumerate(segments):
        rows.setdefault(tuple(segment), []).append(i)
    # Padding between prefix and segment would eat slots of a sliding window: equally long rows there.
    longest = p + max(map(len, rows)) + max_new_tokens
    ordered = [segment for segment in sorted(rows, key=len) for _ in rows[segment]]
    batches = _batches(ordered, p + max_new_tokens, batch_tokens, _outgrows_window(backbone, longest))
    answers: list[Generated | None] = [None] * len(segments)
    for batch in batches:
        places = [rows[segment].pop(0) for segment in batch]
        row_keys = [keys[i] for i in places]
        generated = _generate_batch(
            backbone, prefix, batch, row_keys, generation_config, end_ids, max_new_tokens, line_break_ids
        )
        for i, answer in zip(places, generated, strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


def _with_own_ends(end_ids: Sequence[int], config: GenerationConfig) -> tuple[int, ...]:
    """The frame's end tokens and the further ones a backbone declares (Llama 3 has several)."""
    own = config.eos_token_id
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return tuple(dict.fromkeys([*end_ids, *own]))


def _generate_batch(
    backbone: PreTrainedModel,
    prefix: SharedPrefix | None,
    batch: list[tuple[int, ...]],
    keys: list[int],
    generation_config: GenerationConfig,
    end_ids: Sequence[int],
    max_new_tokens: int,
    line_break_ids: Sequence[int],
) -> list[Generated]:
    shared = prefix.ids if prefix is not None else ()
    width = max(map(len, batch))
    ids = torch.full((len(batch), len(shared) + width), end_ids[0], dtype=torch.long)
    mask = torch.ones_like(ids)
    for i, segment in enumerate(batch):
        ids[i, : len(shared)] = torch.tensor(shared, dtype=torch.long)
        ids[i, ids.shape[1] - len(segment) :] = torch.tensor(segment)
        mask[i, len(shared) : ids.shape[1] - len(segment)] = 0
    guard = _FiniteGuard(len(batch))
    first_line = _AfterFirstLine(line_break_ids, ids.shape[1])
    greedy, processors = _processors(
        generation_config,
        ids.shape[1],
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
    )
    noise = [] if not generation_config.do_sample else [KeyedGumbel(keys, ids.shape[1])]
    output = backbone.generate(
        input_ids=ids.to(backbone.device),
        attention_mask=mask.to(backbone.device),
        past_key_values=prefix.expanded(len(batch)) if prefix is not None else None,
        logits_processor=LogitsProcessorList([guard, *processors, *noise]),
        stopping_criteria=StoppingCriteriaList([first_line] if line_break_ids else []),
        generation_config=greedy,
    )
    answers = []
    for i, row in enumerate(output[:, ids.shape[1] :].tolist()):
        length = next((j for j, token in enumerate(row) if token in end_ids), len(row))
        failed = bool(guard.failed[i]) and int(guard.failed_at[i]) <= length
        answers.append(Generated((), "non_finite_logits") if failed else Generated(tuple(row[:length])))
    return answers


def _processors(
    config: GenerationConfig, prompt_length: int, **limits: Any
) -> tuple[GenerationConfig, list[LogitsProcessor]]:
    """Greedy decoding with the same config otherwise, and the warpers that sampling would have used."""
    warpers: list[LogitsProcessor] = []
    if config.repetition_penalty not in (None, 1.0):
        # Over the answer alone: counting the prompt too would make it depend on the padding of the batch.
        ignored = prompt_length
        warpers.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty, prompt_ignore_length=ignored))
    if config.do_sample:
        if config.temperature is not None and config.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(config.temperature))
        if config.top_k:
            warpers.append(TopKLogitsWarper(config.top_k))
        if config.top_p is not None and config.top_p < 1.0:
            warpers.append(TopPLogitsWarper(config.top_p))
        if config.min_p is not None:
            warpers.append(MinPLogitsWarper(config.min_p))
        if config.typical_p is not None and config.typical_p < 1.0:
            warpers.append(TypicalLogitsWarper(config.typical_p))
    greedy = copy.deepcopy(config)
    # Neutral values, not None: what is None here, `generate` takes from the backbone's own generation config.
    neutral = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "typical_p": 1.0}
    neutral["repetition_penalty"] = 1.0
    greedy.update(**neutral, max_length=None, num_beams=1, num_return_sequences=1, **limits)
    return greedy, warpers
