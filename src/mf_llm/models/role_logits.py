"""The logits of one role, for all tokens or for some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mf_llm.models.attention_windows import attention_masks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def role_logits(
    backbone: PreTrainedModel,
    input_ids: torch.LongTensor | None,
    attention_mask: torch.Tensor | None,
    position_ids: torch.LongTensor | None,
    places: torch.LongTensor | None,
) -> torch.FloatTensor | None:
    """Logits of one backbone; see `MFLLMForSimulation.forward` for the arguments. None without `input_ids`."""
    if input_ids is None:
        return None
    if attention_mask is not None and attention_mask.dim() == 4:
        masks: Any = attention_masks(backbone, attention_mask, position_ids)
    else:
        masks = attention_mask
    arguments = {"input_ids": input_ids, "attention_mask": masks, "position_ids": position_ids}
    if places is None:
        return backbone(**arguments, use_cache=False).logits
    # Over a large vocabulary the logits of all tokens would cost more than the rest; a slice is all backbones offer.
    hook = backbone.get_output_embeddings().register_forward_pre_hook(
        lambda module, inputs: (inputs[0][places[:, 0], places[:, 1]][None], *inputs[1:])
    )
    try:
        return backbone(**arguments, use_cache=False).logits[0]
    finally:
        hook.remove()
