"""FSDP2: the composite as one group of parameters, gathered as a whole to draw signals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mf_llm.errors import InputError


def check_sharding(plugin: Any) -> None:
    """Raises `InputError` for a kind of sharding with which signals cannot be drawn, or nothing would be saved.

    Args:
        plugin: accelerate's ``FullyShardedDataParallelPlugin``.
    """
    version, policy = getattr(plugin, "fsdp_version", 1), getattr(plugin, "auto_wrap_policy", None)
    if version != 2 or policy is not None:
        raise InputError(
            "`fsdp_config` must have version 2 and auto_wrap_policy NO_WRAP, got version "
            f"{version} and {getattr(policy, '__name__', policy) or 'NO_WRAP'}; signals are drawn from the whole "
            "model, and tied roles share every parameter, which can be in one group only; see "
            "accelerate_configs/fsdp2.yaml."
        )
    kind = getattr(plugin.state_dict_type, "name", plugin.state_dict_type)
    if kind != "FULL_STATE_DICT":
        raise InputError(
            f"`fsdp_config` must have state_dict_type FULL_STATE_DICT, got {kind}; the adapters would be in no file "
            "that `from_pretrained` reads; see accelerate_configs/fsdp2.yaml."
        )


@contextmanager
def as_one_group(model: nn.Module) -> Iterator[None]:
    """Within this context accelerate shards the model as one group.

    It would make groups of the input embeddings and the output layer, which it asks the model for: tied roles have
    each of them twice, and a parameter that two groups hold is refused.
    """
    model.get_input_embeddings = model.get_output_embeddings = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        del model.get_input_embeddings, model.get_output_embeddings


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within this context every process has all parameters, so that each may call parts of the model as often as it
    likes: a gathering in between would wait for the other processes. A model that is not sharded stays as it is.
    """
    sharded = hasattr(model, "unshard")
    if sharded:
        model.unshard()  # type: ignore[operator]
    try:
        yield
    finally:
        if sharded:
            model.reshard()  # type: ignore[operator]
