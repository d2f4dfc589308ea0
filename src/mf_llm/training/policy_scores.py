"""From the log-probabilities of a policy tree to what a loss needs: likelihood of the people, KL of the population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.training.data_collator import DataCollatorForIBTune
from mf_llm.training.losses import (
    LossParts,
    anchored_log_probs,
    label_log_likelihood,
    option_log_probs,
    perturbation,
    perturbation_penalty,
    population_kl,
)
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
        perturbation: mean square of the anchored readout's `f`, None for the plain one.
    """

    log_likelihood: torch.Tensor
    label: torch.Tensor | None
    text: torch.Tensor | None
    population_kl: torch.Tensor | None
    perturbation: torch.Tensor | None = None


def policy_scores(
    tree: PolicyTree,
    transition: Mapping[str, Any],
    node_log_probs: torch.Tensor,
    base_log_probs: torch.Tensor | None = None,
    *,
    temperature: float = 1.0,
) -> PolicyScores:
    """Reads a policy tree.

    Args:
        tree: the tree.
        transition: the transition it was made of.
        node_log_probs: ``[N]`` log-probabilities of the tree's scored nodes.
        base_log_probs: ``[N]``, the same under the base, for the anchored readout; None for the plain one.
        temperature: of the options in the plain readout.
    """
    device = node_log_probs.device
    total = node_log_probs.new_zeros(())
    label = text = kl = penalty = None
    if tree.option_rows.size:
        rows = torch.from_numpy(tree.option_rows).to(device)
        weights = torch.from_numpy(tree.weights).float().to(device)
        if base_log_probs is None:
            log_p = option_log_probs(node_log_probs[rows], temperature)
        else:
            carry = torch.tensor(transition["carry"], device=device, dtype=torch.float32)
            log_p = anchored_log_probs(carry, node_log_probs[rows], base_log_probs[rows])
            penalty = perturbation_penalty(perturbation(node_log_probs[rows], base_log_probs[rows]), weights)
        counts = torch.from_numpy(tree.counts).float().to(device)
        label = label_log_likelihood(log_p, counts)
        target = torch.tensor(transition["target_counts"], device=device, dtype=torch.float32)
        kl = population_kl(target / target.sum(), log_p, weights)
        total = total + label
    if len(tree.text_rows):
        rows = torch.from_numpy(tree.text_rows).to(device)
        text_weights = torch.from_numpy(tree.text_weights).float().to(device)
        text = (text_weights * node_log_probs[rows]).sum() / tree.text_total
        total = total + text
    return PolicyScores(total, label, text, kl, penalty)


def policy_loss(scores: Sequence[PolicyScores], *, lambda_population: float, lambda_perturbation: float) -> LossParts:
    """The policy's loss over a batch of transitions (method, section 3), and what is logged of it.

    ``L_pi = -mean_i log pi(a*_i | topic, s_i, m) + lambda_population * KL(P_t || p_t)``, and for the anchored readout
    ``+ lambda_perturbation * mean f^2``; a transition that lacks a term counts 0 there.
    """
    nll = -torch.stack([one.log_likelihood for one in scores]).mean()
    parts, loss = {"policy_nll": float(nll.detach())}, nll
    for name, weight in (("population_kl", lambda_population), ("perturbation", lambda_perturbation)):
        known = [value for one in scores if (value := getattr(one, name)) is not None]
        if known:
            loss = loss + weight * torch.stack(known).sum() / len(scores)
            parts[name] = float(torch.stack(known).detach().mean())
    for name in ("label", "text"):
        known = [value for one in scores if (value := getattr(one, name)) is not None]
        if known:
            parts[f"{name}_nll"] = -float(torch.stack(known).detach().mean())
    return LossParts(loss, parts)


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
