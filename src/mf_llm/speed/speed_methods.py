"""The methods that are measured: each lets the same people act, with the same tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mf_llm.simulation.generation import generate_keyed
from mf_llm.simulation.keyed_draws import stream_key
from mf_llm.simulation.readout import encode_prefix, option_log_likelihoods
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.speed.speed_case import N_OPTIONS, NEW_TOKENS, PERSON_TOKENS, REFERENCE_BATCH

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

Ids = list[int]
BATCH_TOKENS = SimulationConfig.batch_tokens


def sampled_answers(
    method: str,
    backbone: PreTrainedModel,
    prefix: Ids,
    people: Sequence[Ids],
    config: GenerationConfig,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Ids]:
    """What each person writes, exactly `NEW_TOKENS` tokens.

    Args:
        method: see `SpeedCase`.
        backbone: a causal language model.
        prefix: the shared part.
        people: the parts of N people.
        config: how to sample; its end tokens are not looked at.
        batch_tokens: of mf_llm.
    """
    config = copy.deepcopy(config)
    config.update(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0)
    if method == "mf_llm":
        return _keyed(backbone, prefix, people, config, batch_tokens)
    work = {"reference": _generate, "continuous batching": _continuous_batching}[method]
    return work(backbone, prefix, people, config)


def option_scores(
    method: str,
    backbone: PreTrainedModel,
    prefix: Ids,
    people: Sequence[Ids],
    options: Sequence[Ids],
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Log-likelihoods of the options, ``[N, K]``.

    Args:
        method: see `SpeedCase`.
        backbone: a causal language model.
        prefix: the shared part.
        people: the parts of N people.
        options: K options.
        batch_tokens: of mf_llm.
    """
    if method == "reference":
        return _full_rows(backbone, prefix, people, options)
    if method == "one pass per person":
        # Behind a prefix of one token nothing is shared but that; the batches are those of the reference.
        whole = [[*prefix[1:], *person] for person in people]
        rows = REFERENCE_BATCH * (len(whole[0]) + sum(map(len, options)))
        return option_log_likelihoods(backbone, encode_prefix(backbone, prefix[:1]), whole, options, batch_tokens=rows)
    shared = encode_prefix(backbone, prefix)
    return option_log_likelihoods(backbone, shared, people, options, batch_tokens=batch_tokens)


@torch.inference_mode()
def _generate(backbone: PreTrainedModel, prefix: Ids, people: Sequence[Ids], config: GenerationConfig) -> list[Ids]:
    answers = []
    for start in range(0, len(people), REFERENCE_BATCH):
        rows = [[*prefix, *person] for person in people[start : start + REFERENCE_BATCH]]
        ids = torch.tensor(rows, device=backbone.device)
        mask = torch.ones_like(ids)
        written = backbone.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, generation_config=config
        )
        answers += written[:, ids.shape[1] :].tolist()
    return answers


def _continuous_batching(
    backbone: PreTrainedModel, prefix: Ids, people: Sequence[Ids], config: GenerationConfig
) -> list[Ids]:
    from transformers import ContinuousBatchingConfig

    page = 256
    length = len(prefix) + PERSON_TOKENS + NEW_TOKENS
    # Bounded, since by default it takes most of the memory there is.
    together = min(len(people), 256 if backbone.device.type == "cuda" else 64)
    settings = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=together * (-(-length // page) + 1),
        max_batch_tokens=16384 if backbone.device.type == "cuda" else 2048,
        max_requests_per_batch=together,
    )
    before = backbone.config._attn_implementation
    try:
        rows = [[*prefix, *person] for person in people]
        answers = backbone.generate_batch(  # type: ignore[operator]
            rows, generation_config=config, continuous_batching_config=settings
        )
    finally:
        backbone.set_attn_implementation(before)
    return [answer.generated_tokens for answer in answers.values()]


def _keyed(
    backbone: PreTrainedModel, prefix: Ids, people: Sequence[Ids], config: GenerationConfig, batch_tokens: int
) -> list[Ids]:
    never = backbone.config.get_text_config().vocab_size - 1
    written = generate_keyed(
        backbone,
        encode_prefix(backbone, prefix),
        people,
        [stream_key("speed", n) for n in range(len(people))],
        generation_config=config,
        end_ids=[never],  # which the least number of new tokens rules out
        max_new_tokens=NEW_TOKENS,
        batch_tokens=batch_tokens,
    )
    return [list(one.ids) for one in written]


@torch.inference_mode()
def _full_rows(backbone: PreTrainedModel, prefix: Ids, people: Sequence[Ids], options: Sequence[Ids]) -> np.ndarray:
    rows = [[*prefix, *person, *option] for person in people for option in options]
    scores = []
    for start in range(0, len(rows), REFERENCE_BATCH):
        ids = torch.tensor(rows[start : start + REFERENCE_BATCH], device=backbone.device)
        length = len(options[0])
        logits = backbone(input_ids=ids, logits_to_keep=length + 1, use_cache=False).logits[:, :-1]
        log_p = torch.log_softmax(logits.float(), dim=-1)
        scores.append(log_p.gather(2, ids[:, -length:, None])[..., 0].sum(dim=1))
    return torch.cat(scores).double().cpu().numpy().reshape(len(people), N_OPTIONS)
