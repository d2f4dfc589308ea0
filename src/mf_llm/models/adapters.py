"""Adapters (LoRA) of the two roles: finding, switching off, merging, saving and loading them.

Only saving and loading need peft; whoever has adapters in a model has imported it already.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.atomic_files import write_bytes
from mf_llm.errors import InputError
from mf_llm.models.checkpoints import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from mf_llm.models.integrity import check_files, check_numbers, reading

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from mf_llm.models.configuration_mf_llm import MFLLMConfig
    from mf_llm.models.modeling_mf_llm import MFLLMForSimulation

# Wrapping a layer moves its parameters one level down: q_proj.weight becomes q_proj.base_layer.weight.
_WRAPPERS = re.compile(r"\.(base_layer|original_module)(?=\.)")


def name_without_adapters(name: str) -> str:
    """The name a parameter of the base model has when no adapter wraps its layer."""
    return _WRAPPERS.sub("", name)


def adapter_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Named layers of peft inside `module`, found without importing peft."""
    for name, layer in module.named_modules():
        if hasattr(layer, "_disable_adapters"):
            yield name, layer


@contextmanager
def adapters_disabled(module: nn.Module) -> Iterator[None]:
    """Switches the adapters inside `module` off and restores their state afterwards.

    The switch of peft also changes which parameters need a gradient; this one leaves that as it is.
    """
    layers: list[Any] = [layer for _, layer in adapter_layers(module)]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer._disable_adapters = state


def check_mergeable(backbone: PreTrainedModel) -> None:
    """Raises `InputError` if an adapter sits on embeddings that are also the output layer (or the reverse)."""
    ends = (backbone.get_input_embeddings(), backbone.get_output_embeddings())
    weights = {id(end.weight) for end in ends if end is not None}
    if len(weights) == 1 and any(True for end in ends if end is not None for _ in adapter_layers(end)):
        raise InputError(
            "`merge` must not meet adapters on tied embeddings, got one on the input embeddings or the output layer "
            "of a backbone in which they are one tensor; merged into it, the adapter would act at both ends. Keep "
            "the adapters, or train them on other layers."
        )


def merge_adapters(backbone: nn.Module) -> None:
    """Adds the active adapters of one untied backbone to its weights and takes the wrappers away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer: Any
    for name, layer in list(adapter_layers(backbone)):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            replacement = layer.get_base_layer()
        elif hasattr(layer, "modules_to_save"):
            active = layer.active_adapters
            replacement = layer.modules_to_save[active[0]] if active else layer.original_module
        else:
            raise InputError(f"The adapter on {name!r} ({type(layer).__name__}) cannot be merged; keep it as it is.")
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, replacement)


def check_bases_are_named(config: MFLLMConfig) -> None:
    """Raises `InputError` unless the bases can be found again: a checkpoint of adapters holds nothing else."""
    missing = [f"`{role}_base`" for role in ("policy", "mean_field") if not getattr(config, f"{role}_base")]
    if missing:
        raise InputError(
            f"The configuration of a checkpoint of adapters must name the bases, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} empty; build the model from a folder or a Hub id, or merge() and "
            "save whole weights."
        )


def save_adapters(
    model: MFLLMForSimulation, folder: str | Path, state_dict: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Writes the adapters of both roles in the format of peft, so that ``PeftModel.from_pretrained`` reads them.

    Args:
        model: the composite.
        folder: an existing folder.
        state_dict: the weights of the composite where its own are sharded; by default its own.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    name = _only_adapter(model)
    state = get_peft_model_state_dict(model, state_dict, adapter_name=name, save_embedding_layers=False)
    state = {f"base_model.model.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    write_bytes(Path(folder) / ADAPTER_WEIGHTS_FILE, save(state, metadata={"format": "pt"}))
    peft_config = model.peft_config[name]
    inference_mode, peft_config.inference_mode = peft_config.inference_mode, True
    # Where the bases are found stands in config.json; peft has room for one base and would load it as such.
    base, peft_config.base_model_name_or_path = peft_config.base_model_name_or_path, None
    try:
        peft_config.save_pretrained(folder)
    finally:
        peft_config.inference_mode, peft_config.base_model_name_or_path = inference_mode, base


def remove_adapters(folder: str | Path) -> None:
    """Removes the adapters that were saved into a folder before: they would be loaded in place of its weights."""
    for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
        (Path(folder) / name).unlink(missing_ok=True)


def load_adapter_weights(model: MFLLMForSimulation, folder: str | Path) -> None:
    """Sets the adapters a model has to those of a folder, in place.

    Raises:
        InputError: the folder's adapters are not those of the model.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    path, name = Path(folder) / ADAPTER_WEIGHTS_FILE, _only_adapter(model)
    if not path.is_file():
        raise InputError(f"A checkpoint of a training run must hold {path.name}, {folder} does not; choose another.")
    check_files(Path(folder), "model")
    stored = {key.removeprefix("base_model.model."): value for key, value in load_file(str(path)).items()}
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if {k: tuple(v.shape) for k, v in stored.items()} != {k: tuple(v.shape) for k, v in expected.items()}:
        raise InputError(
            f"The adapters in {folder} must be of the shape the model's have, but they differ; resume with the "
            "adapter settings the run began with."
        )
    set_peft_model_state_dict(model, stored, adapter_name=name)


@contextmanager
def without_deprecations_of_peft() -> Iterator[None]:
    """Keeps what peft calls of transformers, and will no longer, from those who can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def load_adapters(model: MFLLMForSimulation, folder: str | Path, *, is_trainable: bool = False) -> MFLLMForSimulation:
    """Puts the adapters of a folder into `model` (in place) and returns it.

    Raises:
        ImportError: peft is not installed.
        InputError: weights are missing or do not fit, which peft itself would only warn about.
    """
    try:
        from peft import PeftModel
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"The checkpoint in {folder} holds adapters, which need peft; pip install peft.") from error

    path = Path(folder) / ADAPTER_WEIGHTS_FILE
    if not path.is_file() or not (Path(folder) / ADAPTER_CONFIG_FILE).is_file():
        raise InputError(f"A folder of adapters must hold {ADAPTER_CONFIG_FILE} and {path.name}, {folder} does not.")
    tensors = load_file(str(path))
    check_numbers(tensors.items(), Path(folder))
    stored = {key: tuple(value.shape) for key, value in tensors.items()}
    with without_deprecations_of_peft(), reading(Path(folder) / ADAPTER_CONFIG_FILE):
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable)
    from peft import get_peft_model_state_dict

    expected = {
        key: tuple(v.shape) for key, v in get_peft_model_state_dict(wrapped, save_embedding_layers=False).items()
    }
    if stored != expected:
        wrong = sorted(set(stored.items()) ^ set(expected.items()))
        raise InputError(
            f"The adapters in {folder} do not fit the base {model.config.policy_base!r}: {len(wrong)} tensors are "
            f"missing, unexpected or of another shape, such as {wrong[0][0]!r}. Load them with the base they were "
            "trained on."
        )
    return model


def _only_adapter(model: Any) -> str:
    names = {name for _, layer in adapter_layers(model) for name in getattr(layer, "active_adapters", [])}
    if len(names) != 1:
        raise InputError(
            f"A model must have exactly one active adapter per role to be saved, got {sorted(names) or 'none'}; "
            "activate one with set_adapter, or merge() first."
        )
    return names.pop()
