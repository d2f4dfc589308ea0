"""The model: a policy and a mean-field model, two causal language models in one checkpoint."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from mf_llm.errors import InputError
from mf_llm.models import adapters
from mf_llm.models.backbones import is_same_base, ready_backbone, suited_dtype
from mf_llm.models.checkpoints import (
    ADAPTER_CONFIG_FILE,
    DOWNLOAD_ARGUMENTS,
    checkpoint_model_type,
    find_checkpoint,
)
from mf_llm.models.configuration_mf_llm import ROLES, MFLLMConfig, Role, check_role
from mf_llm.models.generation_configs import generation_config_file, read_generation_config, role_generation_config
from mf_llm.models.integrity import check_config, check_files, check_weights, reading, write_checksums
from mf_llm.models.registration import register_model
from mf_llm.models.role_logits import role_logits
from mf_llm.models.simulating import SimulatingMixin
from mf_llm.models.tying import TiedRolesMixin, separate, tied_names, twin_of

if TYPE_CHECKING:
    from transformers import GenerationConfig


@dataclass
class MFLLMOutput(ModelOutput):
    """What `MFLLMForSimulation.forward` returns; a role that got no input has None.

    Args:
        policy_logits: float ``[batch, tokens, policy vocabulary]``, next-token scores of the policy; ``[places, policy
            vocabulary]`` where only some were asked for.
        mean_field_logits: float ``[batch, tokens, mean-field vocabulary]``, the same of the mean-field model.
    """

    policy_logits: torch.FloatTensor | None = None
    mean_field_logits: torch.FloatTensor | None = None


class MFLLMForSimulation(SimulatingMixin, TiedRolesMixin, PreTrainedModel):
    """A policy ``pi(action | topic, state, signal)`` and a mean-field model ``mu(signal | topic, history)``.

    Roles that start from the same base are *tied*: each has its own tree of modules, and both trees hold the same
    parameters, once in memory and once on disk. Build one with `from_backbones` or `from_pretrained`.

    Args:
        config: the configuration of both roles.
        policy: a ready backbone for the policy; without it, a new one is made from the configuration.
        mean_field: a ready backbone for the mean-field model; left out when the roles are tied.

    Examples:
        >>> from mf_llm import MFLLMProcessor
        >>> from mf_llm.models import tiny_backbone, tiny_tokenizer  # random weights
        >>> model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
        >>> processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
        >>> model.choice_distribution(processor, "The bridge closes.", [{"age": 46}, {"age": 20}], ["for", "no"]).shape
        (2, 2)
        >>> model.save_pretrained("runs/tiny")
        >>> MFLLMForSimulation.from_pretrained("runs/tiny").config.tie_backbones
        True
    """

    config_class = MFLLMConfig
    base_model_prefix = "mf_llm"
    main_input_name = "policy_input_ids"
    input_modalities = "text"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: MFLLMConfig,
        policy: PreTrainedModel | None = None,
        mean_field: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        for backbone in (policy, mean_field):
            for module in backbone.modules() if backbone is not None else ():
                # A ready backbone keeps its weights; what transformers has not loaded itself it would draw anew.
                module._is_hf_initialized = True  # type: ignore[assignment]
        if policy is None:
            policy = AutoModelForCausalLM.from_config(config.policy_config)
        if config.tie_backbones:
            mean_field = twin_of(policy)
        elif mean_field is None:
            mean_field = AutoModelForCausalLM.from_config(config.mean_field_config)
        self.policy = policy
        self.mean_field = mean_field
        # One object each, so that a change (attention implementation, vocabulary size) reaches model and checkpoint.
        config.policy_config, config.mean_field_config = policy.config, mean_field.config
        for role in ROLES:
            backbone = self.backbone(role)
            backbone.generation_config = role_generation_config(backbone, role)
        self._shared_names = tied_names(policy) if config.tie_backbones else frozenset()
        self.post_init()

    # -- building -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_backbones(
        cls,
        policy: str | os.PathLike | PreTrainedModel,
        mean_field: str | os.PathLike | PreTrainedModel | None = None,
        *,
        tie_backbones: bool | None = None,
        dtype: str | torch.dtype = "auto",
        policy_revision: str | None = None,
        mean_field_revision: str | None = None,
        **kwargs: Any,
    ) -> MFLLMForSimulation:
        """Joins two causal language models.

        Args:
            policy: folder or Hub id of the policy's base, or a model that is loaded already (it is used, not copied).
            mean_field: the same for the mean-field model; None takes the policy's.
            tie_backbones: whether the roles share their parameters. None means: when both start from the same base.
            dtype: type of the weights, see `mf_llm.models.backbones.load_backbone`. Ready models keep theirs.
            policy_revision: branch, tag or commit of the policy's base.
            mean_field_revision: that of the mean-field model's base; None takes the policy's if the base is the same.
            **kwargs: passed on to ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            InputError: a base is not found, or the roles are to be tied and start from different bases.
        """
        if mean_field is None or is_same_base(policy, mean_field):
            mean_field, same_base = policy, mean_field_revision in (None, policy_revision)
            mean_field_revision = mean_field_revision or policy_revision
        else:
            same_base = False
        tie = same_base if tie_backbones is None else tie_backbones
        if tie and not same_base:
            raise InputError(
                "`tie_backbones` must be False when the roles start from different bases, got True; tied roles share "
                "every parameter. Leave `mean_field` out to start both from the policy's base."
            )
        policy_model = ready_backbone(policy, dtype=dtype, revision=policy_revision, **kwargs)
        mean_field_model = None
        if not tie:
            if mean_field is policy and isinstance(policy, PreTrainedModel):
                mean_field_model = twin_of(policy_model)
                separate(mean_field_model, tied_names(policy_model))
            else:
                mean_field_model = ready_backbone(mean_field, dtype=dtype, revision=mean_field_revision, **kwargs)
        bases: dict[str, Any] = {}
        for role, model in (("policy", policy_model), ("mean_field", mean_field_model or policy_model)):
            source = getattr(model, "backbone_source", None)
            bases[f"{role}_base"] = source.base if source else (model.config.name_or_path or None)
            bases[f"{role}_revision"] = source.revision if source else None
        # Copies, since a composite configuration resets the attention implementation of the parts it is given.
        config = MFLLMConfig(
            policy_config=copy.deepcopy(policy_model.config),
            mean_field_config=copy.deepcopy(mean_field_model.config) if mean_field_model is not None else None,
            tie_backbones=tie,
            dtype=policy_model.dtype,
            **bases,
        )
        return cls(config, policy_model, mean_field_model).eval()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> MFLLMForSimulation:
        """Loads a checkpoint: both roles, or the adapters of both on their base.

        Args:
            pretrained_model_name_or_path: a folder, the name of a packaged checkpoint (`packaged_checkpoints`), a
                checkpoint in the Hugging Face cache or a Hub id ``owner/name``, looked up in this order.
            *model_args: as in transformers.
            **kwargs: as in transformers; ``is_trainable=True`` loads adapters for further training. Where no type is
                given, adapters come on a base of the type they were saved in, or in float32 where that is bfloat16
                and the processor would emulate it.

        Raises:
            InputError: there is no such checkpoint, it is not one of this class, or its files are damaged, incomplete
                or not those that were saved (`mf_llm.models.integrity`).
        """
        is_trainable = kwargs.pop("is_trainable", False)
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *model_args, **kwargs)
        download = {key: kwargs.pop(key) for key in DOWNLOAD_ARGUMENTS if key in kwargs}
        subfolder = kwargs.pop("subfolder", "")
        folder = find_checkpoint(pretrained_model_name_or_path, **download) / subfolder
        model_type = checkpoint_model_type(folder)
        if model_type != MFLLMConfig.model_type:
            raise InputError(
                f"A checkpoint of MFLLMForSimulation must have model_type 'mf_llm', {os.fspath(folder)!r} has "
                f"{model_type!r}; to start from a plain language model use MFLLMForSimulation.from_backbones."
            )
        check_files(folder, "model")
        check_config(folder, MFLLMConfig)
        if (folder / ADAPTER_CONFIG_FILE).is_file():
            loaded = cls._from_adapters(folder, is_trainable, kwargs)
        else:
            loaded = cls._from_weights(folder, model_args, kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = os.fspath(pretrained_model_name_or_path)
        for role in ROLES:
            backbone = model.backbone(role)
            backbone.generation_config = read_generation_config(folder, role) or backbone.generation_config
        return loaded

    @classmethod
    def _from_weights(cls, folder: Path, model_args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        tell = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("use_safetensors", True)
        with reading(folder / "config.json"):
            loaded: Any = super().from_pretrained(folder, *model_args, output_loading_info=True, **kwargs)
        model, found = loaded
        check_weights(model, found, folder)
        return (model, found) if tell else model

    @classmethod
    def _from_adapters(cls, folder: Path, is_trainable: bool, kwargs: dict[str, Any]) -> MFLLMForSimulation:
        config = kwargs.pop("config", None) or MFLLMConfig.from_pretrained(folder)
        kwargs = {k: v for k, v in kwargs.items() if not k.startswith("_") and k not in ("adapter_kwargs",)}
        if kwargs.pop("output_loading_info", False):
            raise InputError(
                "`output_loading_info` must be False for a checkpoint of adapters, got True; leave it out."
            )
        adapters.check_bases_are_named(config)
        model = cls.from_backbones(
            str(config.policy_base),
            config.mean_field_base,
            tie_backbones=config.tie_backbones,
            dtype=kwargs.pop("dtype", None) or suited_dtype(config.dtype),
            policy_revision=config.policy_revision,
            mean_field_revision=config.mean_field_revision,
            **kwargs,
        )
        model.config.prompt_version, model.config.simulation = config.prompt_version, config.simulation
        return adapters.load_adapters(model, folder, is_trainable=is_trainable)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, **kwargs: Any
    ) -> None:
        """Writes a checkpoint: configuration, generation configs of both roles, weights as safetensors, check sums.

        A model with adapters is saved as adapters plus the id and revision of its base (`merge` first to save whole
        weights). Tied roles are written once.

        Args:
            save_directory: the folder; made if need be.
            **kwargs: as in transformers, ``push_to_hub=True`` included.
        """
        push = kwargs.pop("push_to_hub", False)
        with_adapters = any(self.has_adapters(role) for role in ROLES)
        if with_adapters:
            adapters.check_bases_are_named(self.config)
        main = kwargs.get("is_main_process", True)
        if main:
            os.makedirs(save_directory, exist_ok=True)
            for role in ROLES:
                self.generation_config_of(role).save_pretrained(
                    save_directory, config_file_name=generation_config_file(role)
                )
        if with_adapters:
            if main:
                self.config.dtype = str(self.dtype).removeprefix("torch.")
                self.config.architectures = [type(self).__name__]
                self.config.save_pretrained(save_directory)
                adapters.save_adapters(self, Path(save_directory), kwargs.get("state_dict"))
        else:
            hub_arguments = ("repo_id", "commit_message", "private", "create_pr")
            plain = {key: value for key, value in kwargs.items() if key not in hub_arguments}
            if main:
                adapters.remove_adapters(Path(save_directory))
            super().save_pretrained(save_directory, **plain)
        if main:
            write_checksums(Path(save_directory), "model")
        if push:
            repo_id = kwargs.get("repo_id") or Path(save_directory).name
            hub = {key: kwargs[key] for key in ("commit_message", "private", "create_pr", "token") if key in kwargs}
            self.push_to_hub(repo_id, **hub)  # type: ignore[arg-type]

    # -- roles --------------------------------------------------------------------------------------------------------

    def backbone(self, role: Role) -> PreTrainedModel:
        """The causal language model of a role; its ``generate`` and caches are those of transformers."""
        return getattr(self, check_role(role))

    def generation_config_of(self, role: Role) -> GenerationConfig:
        """How a role generates; change it in place. Saved with the checkpoint.

        A backbone that brings no sampling settings gets the role's: the policy samples at temperature 0.8 with top-p
        0.85 and 50 new tokens, the mean field at temperature 0.1 with 96 (arXiv 2504.21582, which uses 200).
        """
        return self.backbone(role).generation_config

    def forward(
        self,
        policy_input_ids: torch.LongTensor | None = None,
        policy_attention_mask: torch.Tensor | None = None,
        policy_position_ids: torch.LongTensor | None = None,
        mean_field_input_ids: torch.LongTensor | None = None,
        mean_field_attention_mask: torch.Tensor | None = None,
        mean_field_position_ids: torch.LongTensor | None = None,
        policy_logit_places: torch.LongTensor | None = None,
        mean_field_logit_places: torch.LongTensor | None = None,
        return_dict: bool | None = None,
    ) -> MFLLMOutput | tuple[torch.FloatTensor, ...]:
        """Scores token sequences with both roles in one call, so that a wrapper (DDP, FSDP) sees both.

        Args:
            policy_input_ids: ``[batch, tokens]``, or None to leave the policy out.
            policy_attention_mask: ``[batch, tokens]``, 1 for tokens and 0 for padding; or bool ``[batch, 1, tokens,
                tokens]``, True where a row's token sees a column's (in its window, if any). None means no padding.
            policy_position_ids: ``[batch, tokens]``; None counts the tokens from the left, padding included.
            mean_field_input_ids: as `policy_input_ids`; the batches of the roles need not have the same shape.
            mean_field_attention_mask: as `policy_attention_mask`.
            mean_field_position_ids: as `policy_position_ids`.
            policy_logit_places: ``[places, 2]``, rows and columns of the tokens whose logits are wanted, which then
                come as ``[places, vocabulary]``; None gives those of all tokens.
            mean_field_logit_places: as `policy_logit_places`.
            return_dict: False returns a tuple of the logits that were computed.

        Raises:
            InputError: neither role has input.
        """
        if policy_input_ids is None and mean_field_input_ids is None:
            raise InputError("`policy_input_ids` or `mean_field_input_ids` must be given, got neither.")
        output = MFLLMOutput(
            policy_logits=role_logits(
                self.policy, policy_input_ids, policy_attention_mask, policy_position_ids, policy_logit_places
            ),
            mean_field_logits=role_logits(
                self.mean_field,
                mean_field_input_ids,
                mean_field_attention_mask,
                mean_field_position_ids,
                mean_field_logit_places,
            ),
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def freeze(self, role: Role) -> None:
        """Excludes what belongs to a role alone from training; call it before ``accelerator.prepare``.

        Raises:
            InputError: the roles are tied and the role has no adapter, so that nothing belongs to it alone.
        """
        other = {id(p) for p in self.backbone("mean_field" if check_role(role) == "policy" else "policy").parameters()}
        own = [parameter for parameter in self.backbone(role).parameters() if id(parameter) not in other]
        if not own:
            raise InputError(
                f"`freeze({role!r})` must leave the other role trainable, but tied roles without adapters share every "
                "parameter; add adapters first, or untie() the roles."
            )
        for parameter in own:
            parameter.requires_grad_(False)

    # -- adapters -----------------------------------------------------------------------------------------------------

    def has_adapters(self, role: Role) -> bool:
        """Whether a role carries adapters."""
        return next(adapters.adapter_layers(self.backbone(role)), None) is not None

    def adapters_disabled(self, role: Role) -> AbstractContextManager[None]:
        """Within this context the role is its base: the reference and the prior. Use it without gradients."""
        return adapters.adapters_disabled(self.backbone(role))

    def merge(self) -> MFLLMForSimulation:
        """Adds the adapters of both roles to their weights, in place, and returns the model.

        Tied roles are untied first (the model then holds two sets of weights): merged into one tensor, the adapters of
        one role would change the other.

        Raises:
            InputError: there are no adapters.
        """
        if not any(self.has_adapters(role) for role in ROLES):
            raise InputError("`merge` must be called on a model with adapters, this one has none; nothing to do.")
        for role in ROLES:
            adapters.check_mergeable(self.backbone(role))
        self.untie()
        for role in ROLES:
            adapters.merge_adapters(self.backbone(role))
        if hasattr(self, "peft_config"):
            del self.peft_config
        return self


register_model()

__all__ = ["MFLLMForSimulation", "MFLLMOutput"]
