"""Which code and which weights made a rollout."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.evaluation.provenance import versions

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


def versions_of(model: MFLLMForSimulation) -> dict[str, Any]:
    """Package versions, base models, and a fingerprint of the weights of both roles.

    Returns:
        Plain values, equal for equal code and weights.
    """
    return versions(("torch", "transformers", "tokenizers", "numpy")) | {
        "policy_base": model.config.policy_base,
        "mean_field_base": model.config.mean_field_base,
        "prompt_version": model.config.prompt_version,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "weights": weights_fingerprint(model),
    }


def weights_fingerprint(model: torch.nn.Module) -> str:
    """The first 16 digits of a SHA-256 over names, shapes and 256 evenly spaced values of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.state_dict(keep_vars=True).items():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 256)].float().cpu().contiguous()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
