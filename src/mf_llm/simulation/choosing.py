"""How a policy would choose, without any simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation.readout import encode_prefix, normalise, option_log_likelihoods, option_orders


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
