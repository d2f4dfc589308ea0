"""Inputs and comparisons that the tests of the models share."""

from __future__ import annotations

import torch

from mf_llm.models.modeling_mf_llm import MFLLMForSimulation, MFLLMOutput

FAMILIES = ("qwen2", "qwen3", "llama", "gemma3", "mistral", "gpt2")


def token_ids(tokens: int = 40, seed: int = 1, batch: int = 2) -> torch.Tensor:
    """Random ids ``[batch, tokens]`` that every tiny vocabulary has; longer than the sliding windows."""
    return torch.randint(8, 400, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def both_logits(model: MFLLMForSimulation) -> MFLLMOutput:
    """Logits of both roles on fixed inputs of different lengths."""
    with torch.no_grad():
        return model(token_ids(40, 1), mean_field_input_ids=token_ids(37, 2))


def assert_same_logits(one: MFLLMOutput, other: MFLLMOutput) -> None:
    """Bit by bit."""
    assert torch.equal(one.policy_logits, other.policy_logits)
    assert torch.equal(one.mean_field_logits, other.mean_field_logits)


def assert_tied(model: MFLLMForSimulation) -> None:
    """Every parameter of the mean field is the policy's, in the same memory, in a module of its own."""
    ours = dict(model.policy.named_parameters(remove_duplicate=False))
    theirs = dict(model.mean_field.named_parameters(remove_duplicate=False))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert not {id(m) for m in model.policy.modules()} & {id(m) for m in model.mean_field.modules()}


def assert_untied(model: MFLLMForSimulation) -> None:
    """No memory is shared between the roles."""
    ours = {p.data_ptr() for p in model.policy.parameters()}
    assert not ours & {p.data_ptr() for p in model.mean_field.parameters()}
