"""Sliding attention windows: which backbones have one, and masks that keep to it where branches share a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL, SLIDING = "full_attention", "sliding_attention"  # as configurations name the kinds of layers


def sliding_window(backbone: PreTrainedModel) -> int | None:
    """The smallest sliding attention window among the layers, in tokens, or None."""
    config = backbone.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    if layers is not None and not any("sliding" in kind or "chunked" in kind for kind in layers):
        return None
    return window if getattr(config, "use_sliding_window", True) else None


def takes_trees(backbone: PreTrainedModel) -> bool:
    """Whether branches can share a row: each layer attends to all that a mask shows, or to a window of it.

    Layers that look at slots of a row (attention in chunks) or carry a state along it (recurrent ones) cannot.
    """
    kinds = getattr(backbone.config.get_text_config(), "layer_types", None)
    return kinds is None or set(kinds) <= {FULL, SLIDING}


def attention_masks(
    backbone: PreTrainedModel, sees: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor | dict[str, torch.Tensor]:
    """What the backbone's attention adds to its scores, each layer within its window.

    Models take a mask of four dimensions as it is, in sliding layers, too. A window of w shows a token itself and the
    w - 1 positions before it, wherever in the row these are.

    Args:
        backbone: one that takes trees.
        sees: bool ``[batch, 1, tokens, tokens]``, True where the token of the row sees that of the column.
        positions: ``[batch, tokens]``; None counts the tokens from the left.

    Returns:
        ``[batch, 1, tokens, tokens]``; for a backbone with both kinds of layers one for each kind.
    """
    window = sliding_window(backbone)
    if window is None:
        return _added(sees, backbone.dtype)
    if positions is None:
        positions = torch.arange(sees.shape[-1], device=sees.device)[None]
    near = sees & (positions[:, None, :, None] - positions[:, None, None, :] < window)
    kinds = getattr(backbone.config.get_text_config(), "layer_types", None)
    if kinds is None or FULL not in kinds:
        return _added(near, backbone.dtype)
    return {FULL: _added(sees, backbone.dtype), SLIDING: _added(near, backbone.dtype)}


def _added(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What eager attention adds to its scores; the fused kernels take it as well."""
    hidden = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return hidden.masked_fill_(~sees, torch.finfo(dtype).min)
