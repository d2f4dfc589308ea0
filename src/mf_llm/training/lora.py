"""LoRA for both roles: which layers carry adapters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mf_llm.errors import InputError
from mf_llm.models.adapters import without_deprecations_of_peft

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

    from mf_llm.models import MFLLMForSimulation
    from mf_llm.training.ib_tune_config import IBTuneConfig

ROLES = ("policy", "mean_field")
UPPER_HALF = "upper half"

Layers = Sequence[int] | Literal["upper half"] | None


def lora_config(
    model: MFLLMForSimulation,
    *,
    r: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    roles: Sequence[str] = ROLES,
    layers: Layers = None,
) -> LoraConfig:
    """LoRA on every linear projection inside the decoder layers, one adapter per role.

    The output layer carries none: it is tied to the embeddings in many backbones, and to the other role's.

    Args:
        model: the composite, or anything whose children are called "policy" and "mean_field".
        r, alpha, dropout: of LoRA (Hu et al. 2021); an update is scaled by ``alpha / r``.
        roles: the roles that get adapters.
        layers: indices of the decoder layers with adapters, or "upper half"; all by default. Gradients stop at the
            lowest of them: the upper half alone makes a step about 1.5 times as fast.

    Raises:
        InputError: an unknown role or layer.

    Examples:
        >>> from mf_llm import MFLLMForSimulation
        >>> from mf_llm.models import tiny_backbone
        >>> model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
        >>> config = lora_config(model, r=4, roles=["policy"])
        >>> config.r, "mean_field" in config.target_modules
        (4, False)
    """
    from peft import LoraConfig

    unknown = sorted(set(roles) - set(ROLES))
    if unknown or not roles:
        raise InputError(f"`roles` must be some of {', '.join(ROLES)}, got {list(roles)}; nothing would be trained.")
    patterns = [_pattern(model, role, layers) for role in ROLES if role in roles]
    return LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="|".join(patterns), task_type=None, bias="none"
    )


def add_adapters(model: MFLLMForSimulation, config: PeftConfig) -> PeftModel:
    """Puts adapters into the composite, in place; the wrapper that is returned need not be kept."""
    from peft import get_peft_model

    with without_deprecations_of_peft():
        return get_peft_model(model, config)


def check_adapters(model: MFLLMForSimulation, args: IBTuneConfig) -> None:
    """Raises `InputError` if a role that is to be trained has no adapters."""
    for role in args.trains:
        if not model.has_adapters(role):
            raise InputError(
                f"`model` must have adapters for the role {role!r}, which schedule={args.schedule!r} trains, got "
                "none; the prior and the anchor's base are the same weights with adapters off; give `peft_config`."
            )


def _pattern(model: MFLLMForSimulation, role: str, layers: Layers) -> str:
    """A regular expression for the full names of a role's projections."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    linear = [
        name for name, module in model.get_submodule(role).named_modules() if isinstance(module, nn.Linear | Conv1D)
    ]
    # Names inside a decoder layer hold its number: "model.layers.3.self_attn.q_proj".
    inside = [match for name in linear if (match := re.fullmatch(r"(.*?)\.(\d+)\.(.*)", name))]
    known = sorted({int(match[2]) for match in inside})
    named = {None: known, UPPER_HALF: known[len(known) // 2 :]}
    wanted = named.get(layers, []) if layers is None or isinstance(layers, str) else sorted(set(layers))
    if not wanted or not set(wanted) <= set(known):
        raise InputError(
            f"`layers` must be indices of the {len(known)} decoder layers of the {role} backbone, or {UPPER_HALF!r}, "
            f"got {layers!r}; no adapter can be placed there."
        )
    stems = "|".join(sorted({re.escape(match[1]) for match in inside}))
    ends = "|".join(sorted({re.escape(match[3]) for match in inside if int(match[2]) in wanted}))
    return rf"{role}\.(?:{stems})\.(?:{'|'.join(map(str, wanted))})\.(?:{ends})"
