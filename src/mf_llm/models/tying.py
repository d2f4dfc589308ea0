"""Two module trees that share their parameters: what tied roles are made of.

Each role has modules of its own, so that each can carry an adapter of its own and gradient checkpointing recomputes
the right one; the parameters inside are the same objects. Transformers ties by a map from each shared name to its
source, which is also how a checkpoint holds every shared parameter once.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Self, TypeVar

from torch import nn
from transformers import PreTrainedModel

from mf_llm.errors import InputError
from mf_llm.models.adapters import name_without_adapters

if TYPE_CHECKING:
    from mf_llm.models.configuration_mf_llm import MFLLMConfig

    _Model = PreTrainedModel
else:
    _Model = object  # what it is mixed into

ModuleT = TypeVar("ModuleT", bound=nn.Module)
POLICY, MEAN_FIELD = "policy.", "mean_field."


def twin_of(module: ModuleT) -> ModuleT:
    """A second tree of modules that holds the very same parameters; configuration and buffers are copies."""
    shared: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    return copy.deepcopy(module, memo=shared)


def tied_names(backbone: nn.Module) -> frozenset[str]:
    """The names of the parameters that two roles share, as long as no adapter wraps a layer."""
    return frozenset(name for name, _ in backbone.named_parameters(remove_duplicate=False))


def tied_weights_map(policy: PreTrainedModel, mean_field: PreTrainedModel, names: frozenset[str]) -> dict[str, str]:
    """From each shared parameter's name to the name of the one that is kept.

    Everything points straight at a kept parameter, never at another shared one: the mean field's output layer at the
    policy's embeddings, where those are tied. Adapters may wrap different layers in the two trees and are not shared.
    """
    within_policy = policy.get_expanded_tied_weights_keys(all_submodels=True)
    within_policy = {name_without_adapters(k): name_without_adapters(v) for k, v in within_policy.items()}
    sources = _shared_by_plain_name(policy, names)
    targets = _shared_by_plain_name(mean_field, names)
    within = {POLICY + sources[k]: POLICY + sources[v] for k, v in within_policy.items() if k in sources}
    across = {MEAN_FIELD + name: POLICY + sources[within_policy.get(plain, plain)] for plain, name in targets.items()}
    return {**within, **across}


def _shared_by_plain_name(backbone: nn.Module, names: frozenset[str]) -> dict[str, str]:
    all_names = (name for name, _ in backbone.named_parameters(remove_duplicate=False))
    return {plain: name for name in all_names if (plain := name_without_adapters(name)) in names}


def separate(mean_field: PreTrainedModel, names: frozenset[str]) -> None:
    """Gives the mean field's tree parameters of its own, in place; what it ties within itself stays tied."""
    own: dict[int, nn.Parameter] = {}
    for name in _shared_by_plain_name(mean_field, names).values():
        parent_name, _, child = name.rpartition(".")
        parent = mean_field.get_submodule(parent_name)
        shared = getattr(parent, child)
        if id(shared) not in own:
            own[id(shared)] = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
        setattr(parent, child, own[id(shared)])


class TiedRolesMixin(_Model):
    """The part of `MFLLMForSimulation` that keeps tied roles tied: through loading, resizing and untying."""

    if TYPE_CHECKING:  # transformers evaluates the annotations of a model's class
        config: MFLLMConfig
        policy: PreTrainedModel
        mean_field: PreTrainedModel
        _shared_names: frozenset[str]

    _lacking: frozenset[str] = frozenset()

    def untie(self) -> Self:
        """Gives the mean field weights of its own, in place, and returns the model; nothing happens if it has them."""
        if self.config.tie_backbones:
            separate(self.mean_field, self._shared_names)
            self.config.tie_backbones = self.config.tie_word_embeddings = False
            self._shared_names = frozenset()
            self._tied_weights_keys = {}
            self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)
        return self

    def post_init(self) -> None:
        """Runs transformers' own, then puts the map of shared parameters in the place of the one it collected."""
        super().post_init()
        self.tie_weights()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """From each shared parameter's name to the name of the one that is kept (see `mf_llm.models.tying`)."""
        if not self.config.tie_backbones:
            return super().get_expanded_tied_weights_keys(all_submodels=all_submodels)
        return tied_weights_map(self.policy, self.mean_field, self._shared_names)

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Makes shared names hold one parameter; called by transformers after loading, too."""
        if self.config.tie_backbones:
            # Children of the model report ties of their own, which would hold the mean field's trees apart.
            self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)
            self._tied_weights_keys = dict(self.all_tied_weights_keys)
        super().tie_weights(missing_keys=missing_keys, recompute_mapping=recompute_mapping)

    def mark_tied_weights_as_initialized(self, loading_info: Any) -> None:
        """Keeps what a checkpoint lacks: transformers takes it for given then, its tied name being the same object."""
        self._lacking = frozenset(loading_info.missing_keys)
        super().mark_tied_weights_as_initialized(loading_info)

    def lacking_weights(self) -> list[str]:
        """The parameters that stood under none of their names in the checkpoint that was loaded."""
        sources = {name: self.all_tied_weights_keys.get(name, name) for name in self.state_dict(keep_vars=True)}
        given = {source for name, source in sources.items() if name not in self._lacking}
        return sorted({sources[name] for name in self._lacking if name in sources} - given)

    def _adjust_bias(self, output_embeddings: nn.Module, input_embeddings: nn.Module) -> None:
        # Meant for output layers; while every parameter is tied it would pad each bias to the height of its weight.
        if not self.config.tie_backbones:
            super()._adjust_bias(output_embeddings, input_embeddings)

    def get_input_embeddings(self) -> nn.Module:
        """The policy's input embeddings (PEFT asks for them)."""
        return self.policy.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the policy's input embeddings, and the mean field's while the roles are tied."""
        self.policy.set_input_embeddings(value)
        if self.config.tie_backbones:
            self.mean_field.set_input_embeddings(twin_of(value))

    def get_output_embeddings(self) -> nn.Module | None:
        """The policy's output layer."""
        return self.policy.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Sets the policy's output layer, and the mean field's while the roles are tied."""
        self.policy.set_output_embeddings(new_embeddings)
        if self.config.tie_backbones:
            self.mean_field.set_output_embeddings(twin_of(new_embeddings))

    def resize_token_embeddings(  # type: ignore[override]
        self, new_num_tokens: int | None = None, **kwargs: Any
    ) -> nn.Embedding:
        """Resizes the vocabulary of tied roles; the arguments are those of transformers.

        Raises:
            InputError: the roles are not tied and may have different vocabularies.
        """
        if not self.config.tie_backbones:
            raise InputError(
                "`resize_token_embeddings` must be called on one backbone when the roles are not tied, got the whole "
                "model; use model.backbone(role).resize_token_embeddings."
            )
        embeddings = self.policy.resize_token_embeddings(new_num_tokens, **kwargs)
        self.mean_field.resize_token_embeddings(embeddings.weight.shape[0], mean_resizing=False)
        self.tie_weights()
        return embeddings
