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
    TypicalLogitsWarper,
)

from mf_llm.models.cache_argument import cache_argument, returned_cache
from mf_llm.simulation.memory_limits import in_halves
from mf_llm.simulation.readout import SharedPrefix
from mf_llm.simulation.row_batches import first_cache, row_batches
from mf_llm.simulation.sampling import KeyedGumbel, TopP

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Tokens between two looks at which rows are done.
_STRETCH = 16


@dataclass(frozen=True)
class Generated:
    """One generated answer.

    Attributes:
        ids: new tokens, the end token left out.
        failure: "non_finite_logits" if the model gave no distribution at some token, else None.
        end: the end token that was drawn, one of several with some backbones; None if something else ended the answer
            (the length bound, the end of its first line, a failure).
    """

    ids: tuple[int, ...]
    failure: str | None = None
    end: int | None = None


class _AfterFirstLine(StoppingCriteria):
    """Ends a row at the first line break behind some text: what a person writes is one line."""

    def __init__(self, line_break_ids: Sequence[int], prompt_length: int) -> None:
        self.line_breaks = torch.tensor(sorted(line_break_ids), dtype=torch.long)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        breaks = torch.isin(input_ids[:, self.prompt_length :], self.line_breaks.to(input_ids.device))
        return (breaks & ((~breaks).cumsum(dim=1) > 0)).any(dim=1)  # type: ignore[return-value]


def _first_line_ends(answer: Sequence[int], line_break_ids: Sequence[int]) -> bool:
    """Whether `_AfterFirstLine` ended this answer."""
    return bool(answer) and answer[-1] in line_break_ids and any(token not in line_break_ids for token in answer)


class _FiniteGuard(LogitsProcessor):
    """Marks the rows whose logits are no distribution; their tokens are not to be used."""

    def __init__(self, rows: int) -> None:
        self.failed = torch.zeros(rows, dtype=torch.bool)
        self.failed_at = torch.full((rows,), -1)
        self._calls = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        # The largest is finite just where the logits are a distribution: NaN passes through, so does infinity.
        broken = ~torch.isfinite(scores.amax(dim=-1)).cpu()
        self.failed_at[broken & ~self.failed] = self._calls
        self.failed |= broken
        self._calls += 1
        if broken.any():
            return scores.masked_fill(broken.to(scores.device)[:, None], 0.0)  # type: ignore[return-value]
        return scores


@torch.inference_mode()
def generate_keyed(
    backbone: PreTrainedModel,
    prefix: SharedPrefix | Sequence[SharedPrefix] | None,
    segments: Sequence[Sequence[int]],
    keys: Sequence[int],
    *,
    generation_config: GenerationConfig,
    end_ids: Sequence[int],
    max_new_tokens: int,
    line_break_ids: Sequence[int] = (),
    batch_tokens: int = 8192,
) -> list[Generated]:
    """Generates one answer per row.

    Temperature and truncation are those of `generation_config`; the draw is keyed (see `KeyedGumbel`), so that a row's
    answer does not depend on the batch it is in. With ``do_sample=False`` the answer is the greedy one.

    Args:
        backbone: a causal language model.
        prefix: the shared part of all prompts, or of each of the N prompts, or None.
        segments: N token lists, each row's own part of the prompt, at least one token each.
        keys: N stream keys.
        generation_config: of the role.
        end_ids: tokens that end an answer; those of `generation_config` do too.
        max_new_tokens: bound of an answer.
        line_break_ids: tokens with a line break; if given, an answer also ends at the first of them behind some text.
        batch_tokens: bound of rows times row length; a prefix counts once where its rows share it. A batch that does
            not fit into memory is halved.
    """
    end_ids = answer_ends(end_ids, generation_config)
    prefixes: list[SharedPrefix | None]
    prefixes = [prefix] * len(segments) if prefix is None or isinstance(prefix, SharedPrefix) else list(prefix)
    answers: list[Generated | None] = [None] * len(segments)

    def generate(batch: Sequence[int]) -> list[Generated]:
        return _generate_batch(
            backbone,
            [prefixes[i] for i in batch],
            [segments[i] for i in batch],
            [keys[i] for i in batch],
            generation_config,
            end_ids,
            max_new_tokens,
            line_break_ids,
        )

    for batch, generated in in_halves(
        row_batches(backbone, prefixes, segments, max_new_tokens, batch_tokens), generate
    ):
        for i, answer in zip(batch, generated, strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


def answer_ends(end_ids: Sequence[int], config: GenerationConfig) -> tuple[int, ...]:
    """The frame's end tokens and the further ones a backbone declares (Llama 3 has several)."""
    own = config.eos_token_id
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return tuple(dict.fromkeys([*end_ids, *own]))


def _generate_batch(
    backbone: PreTrainedModel,
    prefixes: Sequence[SharedPrefix | None],
    segments: Sequence[Sequence[int]],
    keys: list[int],
    generation_config: GenerationConfig,
    end_ids: Sequence[int],
    max_new_tokens: int,
    line_break_ids: Sequence[int],
) -> list[Generated]:
    shared = [p.ids if p is not None else () for p in prefixes]
    p, width = max(map(len, shared)), max(map(len, segments))
    ids = torch.full((len(segments), p + width), end_ids[0], dtype=torch.long)
    mask = torch.zeros_like(ids)
    # Every row: padding, prefix, padding, segment.
    for i, (prefix, segment) in enumerate(zip(shared, segments, strict=True)):
        for part, end in ((prefix, p), (segment, p + width)):
            ids[i, end - len(part) : end] = torch.tensor(part, dtype=torch.long)
            mask[i, end - len(part) : end] = 1
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    with first_cache(backbone, prefixes, ids, mask, max_new_tokens) as cache:
        rows, failed_at = _write(
            backbone,
            ids,
            mask,
            cache,
            keys,
            generation_config,
            end_ids,
            max_new_tokens,
            line_break_ids,
        )
    answers = []
    for i, row in enumerate(rows):
        length = next((j for j, token in enumerate(row) if token in end_ids), len(row))
        failed = 0 <= failed_at[i] <= length
        # Behind an answer that its first line ended stands padding, which looks like an end token.
        cut = _first_line_ends(row[:length], line_break_ids)
        done = Generated(tuple(row[:length]), end=row[length] if length < len(row) and not cut else None)
        answers.append(Generated((), "non_finite_logits") if failed else done)
    return answers


def _write(
    backbone: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache | None,
    keys: Sequence[int],
    generation_config: GenerationConfig,
    end_ids: Sequence[int],
    max_new_tokens: int,
    line_break_ids: Sequence[int],
) -> tuple[list[list[int]], list[int]]:
    """New tokens of each row, and where its logits first were no distribution (-1: nowhere).

    After each stretch of tokens the rows that are done leave, so that the others need not wait for them.
    """
    prompt_length, written = ids.shape[1], 0
    answers: list[list[int]] = [[] for _ in keys]
    failed_at = [-1] * len(answers)
    rows = list(range(len(answers)))  # whose answer each row of the batch is
    first_line = StoppingCriteriaList([_AfterFirstLine(line_break_ids, prompt_length)] if line_break_ids else [])
    while True:
        guard = _FiniteGuard(len(rows))
        limits = {"max_new_tokens": min(_STRETCH, max_new_tokens - written), "eos_token_id": list(end_ids)}
        greedy, processors = _processors(generation_config, prompt_length, pad_token_id=end_ids[0], **limits)
        greedy.return_dict_in_generate = True
        if greedy.min_new_tokens:
            greedy.min_new_tokens = min(max(greedy.min_new_tokens - written, 0), limits["max_new_tokens"])
        if generation_config.do_sample:
            processors.append(KeyedGumbel([keys[row] for row in rows], prompt_length))
        output = backbone.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            **cache_argument(backbone, cache),
            logits_processor=LogitsProcessorList([guard, *processors]),
            stopping_criteria=first_line,
            generation_config=greedy,
        )
        new = output.sequences[:, ids.shape[1] :]
        going = []
        for i, (row, tokens) in enumerate(zip(rows, new.tolist(), strict=True)):
            answers[row] += tokens
            if guard.failed[i]:
                failed_at[row] = written + int(guard.failed_at[i])
            elif not (set(tokens) & set(end_ids) or _first_line_ends(answers[row], line_break_ids)):
                going.append(i)
        written += new.shape[1]
        if not going or written >= max_new_tokens:
            return answers, failed_at
        ids, mask, cache = output.sequences, torch.cat([mask, torch.ones_like(new)], dim=1), returned_cache(output)
        if len(going) < len(rows):
            chosen = torch.tensor(going, device=ids.device)
            ids, mask, rows = ids[chosen], mask[chosen], [rows[i] for i in going]
            cache.batch_select_indices(chosen)


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
            warpers.append(TopP(config.top_p))
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
