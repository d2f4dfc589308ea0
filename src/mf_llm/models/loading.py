"""A model and its processor by one name: a checkpoint of this package, or any causal language model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mf_llm.models.backbones import preferred_dtype
from mf_llm.models.checkpoints import find_simulation_checkpoint
from mf_llm.models.modeling_mf_llm import load_model
from mf_llm.models.processing_mf_llm import MFLLMProcessor

if TYPE_CHECKING:
    from mf_llm.models.modeling_mf_llm import MFLLMForSimulation


def load_model_and_processor(
    name_or_path: str | os.PathLike, *, dtype: Any = "auto"
) -> tuple[MFLLMForSimulation, MFLLMProcessor]:
    """Loads the two halves of a simulation.

    Args:
        name_or_path: a checkpoint of `MFLLMForSimulation`, or a causal language model (see `load_model`).
        dtype: type of the weights; "auto" is bfloat16 where the machine is fast in it, else float32.

    Returns:
        The model in evaluation mode, on the GPU if there is one, and its processor.
    """
    import torch

    dtype = preferred_dtype() if dtype == "auto" else dtype
    model = load_model(name_or_path, dtype=dtype).eval()
    if torch.cuda.is_available():
        model = model.to("cuda")
    folder = find_simulation_checkpoint(name_or_path)
    if folder is not None:
        return model, MFLLMProcessor.from_pretrained(folder)
    return model, MFLLMProcessor.from_backbones(os.fspath(name_or_path))
