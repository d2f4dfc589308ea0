"""Which backbone everything starts from, and where this package keeps what it converts."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_BACKBONE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def cache_folder() -> Path:
    """Where this package keeps what it converts: ``$MF_LLM_CACHE``, else ``mf_llm`` in the home of Hugging Face."""
    chosen = os.environ.get("MF_LLM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "mf_llm"
