"""What a backbone calls its cache of keys and values: `cache` since transformers 5.24, `past_key_values` before."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

from transformers import PreTrainedModel

_NAMES = ("cache", "past_key_values")


def cache_argument(backbone: PreTrainedModel, cache: Any) -> dict[str, Any]:
    """The keyword argument with which `forward` and `generate` of this backbone take a cache.

    A class of models decides for itself: those that come with a checkpoint may still use the name of before.
    """
    return {_name(type(backbone)): cache}  # type: ignore[arg-type]


def returned_cache(output: Any) -> Any:
    """The cache in what `forward` or `generate` returned; None where there is none."""
    return next((output[name] for name in _NAMES if name in output), None)


@lru_cache
def _name(model_class: type[PreTrainedModel]) -> str:
    parameters = inspect.signature(model_class.forward).parameters
    return next((name for name in _NAMES if name in parameters), _NAMES[-1])
