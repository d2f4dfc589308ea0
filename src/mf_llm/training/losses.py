"""The losses of IB-Tune as pure functions of tensors (method, section 3). Each returns named parts that are logged."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mf_llm.errors import InputError

ANCHOR_CLIP = 2.0


@dataclass(frozen=True)
class LossParts:
    """A loss and what it is made of.

    Attributes:
        loss: scalar with a gradient.
        parts: detached scalars by name.
    """

    loss: torch.Tensor
    parts: dict[str, float]


def leave_one_out(values: torch.Tensor) -> torch.Tensor:
    """``v_k - mean_{j != k} v_j`` along the second dimension.

    Args:
        values: ``[B, K, ...]`` with K >= 2.
    """
    count = values.shape[1]
    if count < 2:
        raise InputError(
            f"`num_signals` must be at least 2, got {count}; the leave-one-out baseline needs another signal."
        )
    return (values - values.mean(dim=1, keepdim=True)) * (count / (count - 1))


def mean_field_loss(
    log_q: torch.Tensor,
    log_r: torch.Tensor,
    relevance: torch.Tensor,
    *,
    beta: float,
    old_log_q: torch.Tensor | None = None,
    max_ratio: float = 2.0,
) -> LossParts:
    r"""Score-function surrogate of the bottleneck objective of the mean-field model.

    Its gradient is an unbiased estimate of that of

    ``L_mu = E_{m~q}[log q(m|X) - log r(m|topic)] - beta E_{m~q}[relevance(m)]``

    (method, section 3): signal k of a transition is rewarded with ``beta * relevance_k - rate_k``, from which the mean
    reward of the other signals is taken. The rate enters as reward-to-go: what token j changes is the rate from token
    j on (the part before has no gradient in expectation, and the baseline does not depend on signal k).

    Signals that are used a second time were drawn from an older q: they are weighted by
    ``min(q(m) / q_old(m), max_ratio)``, which is unbiased as long as no ratio is cut.

    Args:
        log_q: ``[B, K, L]`` log-probabilities of the tokens of K signals per transition in nats, with a gradient; 0
            behind the end of a signal, and where the length cap forced the end.
        log_r: ``[B, K, L]``, the same under the prior.
        relevance: ``[B, K]``, mean log-likelihood per person of the next actions, in nats.
        beta: weight of the relevance, >= 0.
        old_log_q: ``[B, K, L]``, `log_q` when the signals were drawn, if that was before the last update.
        max_ratio: bound of the importance ratios.

    Returns:
        The loss, with parts ``rate``, ``relevance``, ``reward``, ``reward_std`` (within transitions), and ``ratio``.
    """
    fixed_q, log_r, relevance = log_q.detach(), log_r.detach(), relevance.detach()
    per_token = fixed_q - log_r
    rate_to_go = per_token.flip(-1).cumsum(-1).flip(-1)
    advantage = leave_one_out(beta * relevance[..., None] - rate_to_go)
    ratio = torch.ones_like(relevance)
    if old_log_q is not None:
        ratio = (fixed_q - old_log_q.detach()).sum(-1).exp().clamp(max=max_ratio)
    loss = -(ratio[..., None] * advantage * log_q).sum(-1).mean()
    rate = per_token.sum(-1)
    reward = beta * relevance - rate
    return LossParts(
        loss,
        {
            "rate": float(rate.mean()),
            "relevance": float(relevance.mean()),
            "reward": float(reward.mean()),
            "reward_std": float(reward.std(dim=1).mean()),
            "ratio": float(ratio.mean()),
        },
    )


def option_log_probs(scores: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """``log pi(k | .)`` over the options: log-softmax of ``[N, K]`` log-likelihoods of their whole text."""
    return torch.log_softmax(scores / temperature, dim=-1)


def anchored_log_probs(
    carry: torch.Tensor, tuned: torch.Tensor, base: torch.Tensor, *, clip: float = ANCHOR_CLIP
) -> torch.Tensor:
    """The anchored readout ``log p(k)``, ``p(k) proportional to p_carry(k) exp(f_k)`` (method, section 2).

    Args:
        carry: ``[K]`` carry-forward shares, frozen at the end of the warm-up.
        tuned, base: ``[N, K]`` log-likelihoods under the policy and under its base.
        clip: bound of `f`, the centred difference.

    Returns:
        ``[N, K]``.
    """
    return torch.log_softmax(carry.log() + perturbation(tuned, base).clamp(-clip, clip), dim=-1)


def perturbation(tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """``f`` of the anchored readout before it is clipped (method, section 2): how far the policy has left its base.

    Args:
        tuned, base: ``[N, K]`` log-likelihoods under the policy and under its base.

    Returns:
        ``[N, K]``, centred over the options.
    """
    f = tuned - base
    return f - f.mean(dim=-1, keepdim=True)


def perturbation_penalty(f: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean square of `f` over options and people: minus the logarithm of a Gaussian prior on it, up to constants.

    It sees `f` before it is clipped, so that there is a way back from beyond the bound, where the readout has no
    gradient.

    Args:
        f: ``[N, K]`` of N distinct profiles.
        weights: ``[N]`` weighted people of each profile.
    """
    return (weights / weights.sum()) @ f.square().mean(dim=-1)


def label_log_likelihood(log_p: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean log-likelihood per person of what people answered.

    Args:
        log_p: ``[N, K]`` of N distinct profiles.
        counts: ``[N, K]`` weighted people of that profile with that answer; not all 0.
    """
    return (counts * log_p).sum() / counts.sum()


def population_kl(target: torch.Tensor, log_p: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``KL(P || p)`` of human shares and the readout of the population, in nats (method, section 3).

    Args:
        target: ``[K]`` human shares, sum 1.
        log_p: ``[N, K]`` of N distinct profiles.
        weights: ``[N]`` weighted people of each profile.
    """
    population = (log_p + (weights / weights.sum()).log()[:, None]).logsumexp(dim=0)
    return (torch.xlogy(target, target) - target * population).sum()
