"""A model and its processor by one name: a checkpoint of this package, or any causal language model."""

from __future__ import annotations

import os
from typing import Any

from mf_llm.models.backbones import preferred_dtype
from mf_llm.models.checkpoints import DOWNLOAD_ARGUMENTS, find_simulation_checkpoint
from mf_llm.models.modeling_mf_llm import MFLLMForSimulation
from mf_llm.models.processing_mf_llm import MFLLMProcessor


def load_model(name_or_path: str | os.PathLike, **kwargs: Any) -> MFLLMForSimulation:
    """Loads a checkpoint of `MFLLMForSimulation`, or makes an untuned one from a plain language model.

    Args:
        name_or_path: as for `MFLLMForSimulation.from_pretrained`, or a causal language model's folder or Hub id, which
            becomes the base of both roles.
        **kwargs: passed on to `MFLLMForSimulation.from_pretrained` or `MFLLMForSimulation.from_backbones`.

    Raises:
        InputError: it is neither; the message lists where it was looked for.
    """
    download = {key: kwargs[key] for key in DOWNLOAD_ARGUMENTS if key in kwargs}
    if find_simulation_checkpoint(name_or_path, **download) is not None:
        return MFLLMForSimulation.from_pretrained(name_or_path, **kwargs)
    kwargs = {("policy_revision" if key == "revision" else key): value for key, value in kwargs.items()}
    return MFLLMForSimulation.from_backbones(name_or_path, **kwargs)


def load_model_and_processor(
    name_or_path: str | os.PathLike, *, dtype: Any = "auto", progress: bool = True
) -> tuple[MFLLMForSimulation, MFLLMProcessor]:
    """Loads the two halves of a simulation.

    Args:
        name_or_path: a checkpoint of `MFLLMForSimulation`, or a causal language model (see `load_model`).
        dtype: type of the weights; "auto" is bfloat16 where the machine is fast in it, else float32.
        progress: whether transformers shows a bar while it loads; False leaves its bars off from then on.

    Returns:
        The model in evaluation mode, on the GPU if there is one, and its processor.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    if not progress:
        disable_progress_bar()
    dtype = preferred_dtype() if dtype == "auto" else dtype
    model = load_model(name_or_path, dtype=dtype).eval()
    if torch.cuda.is_available():
        model = model.to("cuda")
    folder = find_simulation_checkpoint(name_or_path)
    if folder is not None:
        return model, MFLLMProcessor.from_pretrained(folder)
    return model, MFLLMProcessor.from_backbones(os.fspath(name_or_path))
