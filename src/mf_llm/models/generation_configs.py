"""How each role generates: the generation configs of the two backbones, with defaults where they have none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from mf_llm.errors import InputError
from mf_llm.models.integrity import reading

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from mf_llm.models.configuration_mf_llm import Role

# arXiv 2504.21582: people answer at temperature 0.8 with top-p 0.85 in at most 50 tokens; the signal is written at
# temperature 0.1. Its 200 tokens are cut to 96 here: the next prompt repeats the signal for every person. `top_k=0`
# is spelled out because generate() would otherwise keep the 50 likeliest tokens.
SAMPLING_DEFAULTS = {
    "policy": {"do_sample": True, "temperature": 0.8, "top_p": 0.85, "top_k": 0},
    "mean_field": {"do_sample": True, "temperature": 0.1, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.15},
}
LENGTH_DEFAULTS = {"policy": 50, "mean_field": 96}

# Above the first, at most the second.
_BOUNDS = {
    "temperature": (0.0, 1e6),
    "top_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "min_p": (-1e-9, 1.0),
    "top_k": (-1, 1e9),
    "repetition_penalty": (0.0, 1e6),
    "max_new_tokens": (0, 1e9),
}
_SAMPLING_FIELDS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "top_h")
# What one call of generate() needs, not what a role is.
_END_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def generation_config_file(role: Role) -> str:
    """Name of a role's file in a checkpoint."""
    return f"{role}_generation_config.json"


def role_generation_config(backbone: PreTrainedModel, role: Role) -> GenerationConfig:
    """The backbone's own generation config, completed with the role's defaults.

    A backbone that says nothing about sampling gets the role's temperature and top-p; one that says anything keeps all
    of what it says. The same goes for the length, and missing end and pad tokens come from the model's configuration.
    """
    from transformers import GenerationConfig

    config = copy.deepcopy(getattr(backbone, "generation_config", None)) or GenerationConfig()
    if all(getattr(config, field, None) is None for field in _SAMPLING_FIELDS):
        for field, value in SAMPLING_DEFAULTS[role].items():
            setattr(config, field, value)
    if config.max_new_tokens is None and config.max_length is None:
        config.max_new_tokens = LENGTH_DEFAULTS[role]
    text_config = backbone.config.get_text_config()
    for field in _END_FIELDS:
        if getattr(config, field, None) is None:
            setattr(config, field, getattr(text_config, field, None))
    return config


def read_generation_config(folder: str | Path, role: Role) -> GenerationConfig | None:
    """The generation config of a role in a checkpoint, None if the checkpoint has none.

    Raises:
        InputError: nobody can generate like that.
    """
    from transformers import GenerationConfig

    path = Path(folder) / generation_config_file(role)
    if not path.is_file():
        return None
    with reading(path):
        config = GenerationConfig.from_pretrained(folder, config_file_name=path.name, local_files_only=True)
    for field, (low, high) in _BOUNDS.items():
        value = getattr(config, field, None)
        read = config.do_sample or field not in _SAMPLING_FIELDS  # some greedy ones say "temperature 0"
        if read and value is not None and not (isinstance(value, int | float) and low < value <= high):
            raise InputError(
                f"{path}: `{field}` must be above {low:g} and at most {high:g}, got {value!r}; nothing can be "
                "generated like that; mend it, or get or save the checkpoint again."
            )
    return config
