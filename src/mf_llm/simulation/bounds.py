"""How long prompts and answers may be: what was asked for, within what the backbones can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mf_llm.errors import InputError
from mf_llm.models.configuration_mf_llm import ROLES
from mf_llm.models.generation_configs import LENGTH_DEFAULTS
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.simulation.simulation_config import SimulationConfig

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation
    from mf_llm.models.configuration_mf_llm import Role

# Room behind a prompt for what is neither prompt nor generated: the option in front of a text.
_OPTION_ROOM = 64
_SHORTEST_PROMPT = 64


def prompt_limits(config: SimulationConfig) -> PromptLimits:
    """The prompt bounds of a simulation."""
    return PromptLimits(
        max_prompt_tokens=config.max_prompt_tokens,
        max_state_tokens=config.max_state_tokens,
        max_action_tokens=config.max_action_tokens,
    )


def max_new_tokens(model: MFLLMForSimulation, role: Role, config: SimulationConfig) -> int:
    """The bound of what a role generates: the simulation's, else its generation config's, else the role's default."""
    asked = config.max_new_tokens if role == "policy" else config.signal_max_tokens
    return asked or model.generation_config_of(role).max_new_tokens or LENGTH_DEFAULTS[role]


def within_context(model: MFLLMForSimulation, config: SimulationConfig) -> SimulationConfig:
    """Lowers `max_prompt_tokens` to what the backbones' positions leave beside the answer.

    Raises:
        InputError: if they leave too little for any prompt.
    """
    limit = config.max_prompt_tokens
    for role in ROLES:
        positions = getattr(model.backbone(role).config.get_text_config(), "max_position_embeddings", None)
        if positions is not None:
            limit = min(limit, positions - max_new_tokens(model, role, config) - _OPTION_ROOM)
    if limit < _SHORTEST_PROMPT:
        raise InputError(
            f"`model` must have room for a prompt, but its positions leave {limit} tokens beside the answer; lower "
            "`max_new_tokens` and `signal_max_tokens`, or use a backbone with a longer context."
        )
    return replace(config, max_prompt_tokens=limit)
