"""Transitions as token trees: what people did, as branches below the prompt they answered to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mf_llm.models.processing_mf_llm import MFLLMProcessor, PromptLimits
from mf_llm.training.token_tree import TokenTree
from mf_llm.training.transitions import answer_of

TARGETS = ("label", "action")


@dataclass(frozen=True)
class PolicyTree:
    """The target people of a transition under one signal.

    Attributes:
        tree: prompt -> S distinct profiles -> K options -> texts.
        option_rows: ``[S, K]`` rows of the options among the tree's scored nodes; ``[S, 0]`` for free text.
        counts: ``[S, K]`` weighted people with that profile and label.
        weights: ``[S]`` weighted people with that profile.
        text_rows: ``[n]`` rows of the scored texts.
        text_weights: ``[n]`` weights of the people who wrote them.
        text_total: weights of the people looked at for a text, those included who wrote none.
    """

    tree: TokenTree
    option_rows: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    text_rows: np.ndarray
    text_weights: np.ndarray
    text_total: float


def policy_tree(
    processor: MFLLMProcessor,
    transition: Mapping[str, Any],
    signal: str | None,
    *,
    order: Sequence[int] | None = None,
    target: str = "label",
    max_texts: int = 16,
    limits: PromptLimits | None = None,
) -> PolicyTree:
    """The tree of a transition's target people under a signal.

    Args:
        processor: prompts and tokenizer of the policy.
        transition: a row of `build_transitions`.
        signal: what people see of the population, None for no signal section.
        order: order in which the options are listed.
        target: "label" (the option alone) or "action" (the option and the text behind it).
        max_texts: at most this many people's texts are scored (the first).
        limits: bounds of the prompt.
    """
    answer = answer_of(transition)
    tree = TokenTree(processor.policy_prefix(transition["topic"], signal, answer, order=order, limits=limits))
    options = processor.option_ids(answer) if answer.options else []
    silent = set(transition["silent"])
    places: dict[tuple[int, ...], int] = {}
    nodes: list[int] = []
    option_nodes: list[list[int]] = []
    counts: list[np.ndarray] = []
    weights: list[float] = []
    texts: list[tuple[int, float]] = []
    looked_at: list[float] = []
    for person in transition["people"]:
        segment = tuple(processor.person_segment(_state(person["state"]), answer, limits=limits))
        if segment not in places:
            places[segment] = len(nodes)
            nodes.append(tree.add(segment))
            option_nodes.append([tree.add(option, nodes[-1], scored=True) for option in options])
            counts.append(np.zeros(len(options)))
            weights.append(0.0)
        place, label = places[segment], person["label"]
        weights[place] += person["weight"]
        if label >= 0:
            counts[place][label] += person["weight"]
        if target == "label" or len(looked_at) == max_texts:
            continue
        looked_at.append(person["weight"])
        if label >= 0 and answer.options[label] in silent:
            continue  # the label is the whole action
        parent = option_nodes[place][label] if answer.options else nodes[place]
        ids = processor.text_ids(person["action"], limits=limits)
        texts.append((tree.add(ids, parent, scored=True), person["weight"]))
    return PolicyTree(
        tree=tree,
        option_rows=np.array([[tree.score_rows[node] for node in row] for row in option_nodes], dtype=np.int64),
        counts=np.array(counts).reshape(len(nodes), len(options)),
        weights=np.array(weights),
        text_rows=np.array([tree.score_rows[node] for node, _ in texts], dtype=np.int64),
        text_weights=np.array([weight for _, weight in texts]),
        text_total=sum(looked_at),
    )


def signal_tree(prompt: Sequence[int], signals: Sequence[Sequence[int]]) -> TokenTree:
    """K signals below the prompt they were drawn from (or below the prior's); all of them are scored."""
    tree = TokenTree(prompt)
    for ids in signals:
        tree.add(ids, scored=True)
    return tree


def _state(text: str) -> Any:
    return json.loads(text) if text else {}
