"""Whether the files of a checkpoint are those that were saved.

Model and processor are saved one after the other, and each leaves the SHA-256 of its own files beside them. Files that
were damaged or changed since are refused; a checkpoint without these sums (of mf_llm 0.1.0, or written by something
else) still loads, and then only what cannot be read, or does not fit, is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError

if TYPE_CHECKING:
    import torch

    from mf_llm.models.configuration_mf_llm import MFLLMConfig
    from mf_llm.models.modeling_mf_llm import MFLLMForSimulation

Part = Literal["model", "processor"]

# What of a folder belongs to which part.
PARTS: dict[Part, tuple[str, ...]] = {
    "model": (
        "config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "*_generation_config.json",
    ),
    "processor": ("processor_config.json", "*_tokenizer/**/*"),
}
# Never asked for, and refused without a question: code that comes with a checkpoint.
NO_CODE = {"trust_remote_code": False}
REMEDY = "get or save the checkpoint again"


def checksums_file(part: Part) -> str:
    """Name of the file that holds the sums of a part."""
    return f"{part}_checksums.json"


def write_checksums(folder: Path, part: Part) -> None:
    """Writes the sums of what a part has in a folder; called when all of it is there."""
    sums = {name: _sha256(folder / name) for name in _names(folder, part)}
    write_json(folder / checksums_file(part), {"sha256": sums})


def check_files(folder: Path, part: Part) -> None:
    """Refuses files of a checkpoint that cannot be read or are not those that were saved.

    Args:
        folder: the checkpoint.
        part: whose files; those of the other part may be missing or changed.

    Raises:
        InputError: naming the file.
    """
    for name in _names(folder, part):
        path = folder / name
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            _check_tensors(path)
    if part == "model":
        _check_weights_are_there(folder)
    path = folder / checksums_file(part)
    if not path.is_file():
        return
    sums = read_json(path).get("sha256")
    if not isinstance(sums, dict):
        raise InputError(f"{path} must hold `sha256` of each file, it does not; it was damaged or changed; {REMEDY}.")
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} must be there, since {path.name} names it, but is missing; {REMEDY}, or, if it is "
                f"meant to be gone, delete {path.name}."
            )
        if _sha256(folder / name) != expected:
            raise InputError(
                f"{folder / name} must be the file that was saved, but its SHA-256 is not the one in {path.name}; it "
                f"was damaged or changed, and people would answer otherwise; {REMEDY}, or, if the change is meant, "
                f"delete {path.name}."
            )


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        InputError: it does not, or cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be a readable JSON file, but is not: {error}; {REMEDY}.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(record).__name__}; {REMEDY}.")
    return record


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Names the file where other packages find out that what it says cannot be.

    Raises:
        InputError: it cannot be made use of.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except InputError:
        raise
    except RuntimeError as error:
        if not is_mismatch(error):
            raise
        raise InputError(
            f"The weights must have the shapes that {path} says, but some have others: they belong to another model "
            f"or base; {REMEDY}."
        ) from error
    except (OSError, ValueError, TypeError, AttributeError, LookupError, StrictDataclassError) as error:
        what = str(error).strip().partition("\n\n")[0]
        raise InputError(
            f"{path} must be as it was saved, but cannot be used: {type(error).__name__}: {' '.join(what.split())}; "
            f"{REMEDY}."
        ) from error


def check_config(folder: Path, config_class: type[MFLLMConfig]) -> None:
    """Refuses a ``config.json`` that no model can be made of, or not the one that was saved.

    Raises:
        InputError: naming the field.
    """
    path = folder / "config.json"
    record = read_json(path)
    for field in ("policy_config", "mean_field_config"):
        part = record.get(field)
        if not isinstance(part, dict) or not isinstance(part.get("model_type"), str):
            # What is left out would be that of a model of billions of parameters.
            raise InputError(f"{path}: `{field}` must hold the configuration of a model, it does not; {REMEDY}.")
    try:
        with reading(path):
            config_class.from_pretrained(folder).simulation_config()
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error


def is_mismatch(error: RuntimeError) -> bool:
    """Whether transformers or peft found tensors of other shapes than the model's."""
    return "ignore_mismatched_sizes" in str(error) or "size mismatch" in str(error)


def check_complete(missing: Iterable[str], folder: Path) -> None:
    """Refuses weights that lack some of the model's, which transformers would draw at random behind a warning.

    Args:
        missing: names of those that were not found.
        folder: where the weights are.

    Raises:
        InputError: naming the first tensors that are missing.
    """
    missing = sorted(missing)
    if missing:
        raise InputError(
            f"The weights in {folder} must be those of all parts of the model, but {len(missing)} are missing, such "
            f"as {', '.join(missing[:3])}; they would be random numbers; {REMEDY}."
        )


def check_weights(model: MFLLMForSimulation, found: Mapping[str, Any], folder: Path) -> None:
    """Refuses weights that lack some of the model's, hold others that it has no place for, or are no numbers.

    Args:
        model: what was loaded.
        found: what transformers tells with ``output_loading_info=True``.
        folder: where the weights are.

    Raises:
        InputError: naming the first of them.
    """
    check_complete({*found["missing_keys"], *model.lacking_weights()}, folder)
    check_numbers(model.named_parameters(), folder)
    unexpected = sorted(found["unexpected_keys"])
    if unexpected:
        raise InputError(
            f"The weights in {folder} must be those of the model in its config.json, but it has no place for "
            f"{len(unexpected)} of them, such as {', '.join(unexpected[:3])}; it would answer without them; {REMEDY}."
        )


def check_numbers(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Refuses weights that are no numbers: whatever they touch would be a failed generation.

    Raises:
        InputError: naming the tensor.
    """
    for name, tensor in tensors:
        if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() == 0:
            continue
        # The least and the largest are finite just where all are: NaN passes through.
        if not all(math.isfinite(bound) for bound in tensor.detach().float().aminmax()):
            raise InputError(
                f"The weights in {folder} must be finite numbers, but {name} holds others; every answer would fail; "
                f"{REMEDY}, or train it anew with a lower learning rate."
            )


def _check_weights_are_there(folder: Path) -> None:
    weights = "adapter_model.safetensors" if (folder / "adapter_config.json").is_file() else "model*.safetensors"
    if any(folder.glob(weights)):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
    why = f"; {', '.join(pickles)} is not read, since a pickle can run code" if pickles else ""
    raise InputError(f"{folder} must hold {weights}, it does not{why}; {REMEDY}, as safetensors.")


def _names(folder: Path, part: Part) -> list[str]:
    found = {path for pattern in PARTS[part] for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_tensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} must be a readable safetensors file, but is not: {error}; {REMEDY}.") from error


__all__ = [
    "NO_CODE",
    "PARTS",
    "check_complete",
    "check_config",
    "check_files",
    "check_numbers",
    "check_weights",
    "checksums_file",
    "is_mismatch",
    "read_json",
    "reading",
    "write_checksums",
]
