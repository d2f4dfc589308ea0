"""From the log-probabilities of a policy tree to what a loss needs: likelihood of the people, KL of the population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.training.data_collator import DataCollatorForIBTune
from mf_llm.training.losses import anchored_log_probs, label_log_likelihood, option_log_probs, population_kl
from mf_llm.training.prompt_trees import PolicyTree
from mf_llm.training.token_tree import TokenTree, in_batches

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


@dataclass(frozen=True)
class PolicyScores:
    """How well the policy predicts one transition; scalars, with a gradient if the log-probabilities had one.

    Attributes:
        log_likelihood: mean over people of ``log pi(action | topic, state, signal)`` in nats.
        label: its part that belongs to the label, None for free text.
        text: its part that belongs to the text, None where no text was scored.
        population_kl: ``KL(P || p)`` of the labels, None for free text.
    """

    log_likelihood: torch.Tensor
    label: torch.Tensor | None
    text: torch.Tensor | None
    population_kl: torch.Tensor | None


def policy_scores(
    tree: PolicyTree,
    transition: Mapping[str, Any],
    node_log_probs: torch.Tensor,
    base_log_probs: torch.Tensor | None = None,
) -> PolicyScores:
    """Reads a policy tree.

    Args:
        tree: the tree.
        transition: the transition it was made of.
        node_log_probs: ``[N]`` log-probabilities of the tree's scored nodes.
        base_log_probs: ``[N]``, the same under the base, for the anchored readout; None for the plain one.
    """
    device = node_log_probs.device
    total, label, text, kl = node_log_probs.new_zeros(()), None, None, None
    if tree.option_rows.size:
        rows = torch.from_numpy(tree.option_rows).to(device)
        if base_log_probs is None:
            log_p = option_log_probs(node_log_probs[rows])
        else:
            carry = torch.tensor(transition["carry"], device=device, dtype=torch.float32)
            log_p = anchored_log_probs(carry, node_log_probs[rows], base_log_probs[rows])
        counts = torch.from_numpy(tree.counts).float().to(device)
        label = label_log_likelihood(log_p, counts)
        target = torch.tensor(transition["target_counts"], device=device, dtype=torch.float32)
        kl = population_kl(target / target.sum(), log_p, torch.from_numpy(tree.weights).float().to(device))
        total = total + label
    if len(tree.text_rows):
        rows = torch.from_numpy(tree.text_rows).to(device)
        weights = torch.from_numpy(tree.text_weights).float().to(device)
        text = (weights * node_log_probs[rows]).sum() / tree.text_total
        total = total + text
    return PolicyScores(total, label, text, kl)


@torch.no_grad()
def score_trees(
    model: MFLLMForSimulation,
    role: str,
    trees: Sequence[TokenTree],
    collator: DataCollatorForIBTune,
    *,
    batch_tokens: int,
    temperature: float = 1.0,
) -> list[torch.Tensor]:
    """Log-probabilities ``[N, L]`` of each tree's scored tokens, without gradients; L may differ between trees."""
    result: list[torch.Tensor | None] = [None] * len(trees)
    for batch in in_batches(trees, batch_tokens, shared=collator.shared[role]):
        packed = collator.pack(role, [trees[i] for i in batch])
        output = model(**packed.model_inputs(role, model.device))
        values = packed.log_probs(getattr(output, f"{role}_logits"), temperature)
        parts = values.split([len(trees[i].score_rows) for i in batch])
        for i, part in zip(batch, parts, strict=True):
            result[i] = part
    return [one for one in result if one is not None]
