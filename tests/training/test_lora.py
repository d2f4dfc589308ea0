"""Which layers carry adapters."""

import re

import pytest
import torch
from peft.tuners.lora import LoraLayer
from small_events import FAMILIES, new_model
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from mf_llm.errors import InputError
from mf_llm.models.tiny import tiny_backbone
from mf_llm.training.lora import add_adapters, lora_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
]
BOTH = ("policy", "mean_field")


def linear_layers(model):
    """Names of all linear layers, as they were before there were adapters."""
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def adapted(model):
    """Names of the layers with adapters."""
    return {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def inputs(role):
    return {f"{role}_input_ids": torch.tensor([[9, 30, 31, 50, 70, 11]])}


def logits(model, role):
    with torch.no_grad():
        return model(**inputs(role))[f"{role}_logits"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_projection_inside_the_decoder_layers_and_nothing_else(family, tied):
    model = new_model(family, tied=tied)
    expected = {name for name in linear_layers(model) if "lm_head" not in name}
    assert len(expected) == 2 * 2 * (4 if family == "gpt2" else 7)  # roles, layers, projections
    before = {role: logits(model, role) for role in BOTH}
    wrapped = add_adapters(model, lora_config(model, r=3, alpha=6))
    assert wrapped.get_base_model() is model
    assert adapted(model) == expected
    assert all(
        re.fullmatch(r"(policy|mean_field)\.(model\.layers|transformer\.h)\.[01]\..+", name) for name in expected
    )
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * len(expected) and all("lora_" in name for name in trainable)
    assert len({id(p) for p in trainable.values()}) == len(trainable)  # no adapter is shared between the roles
    assert {min(p.shape) for p in trainable.values()} == {3}
    for role in BOTH:
        assert (logits(model, role) == before[role]).all()  # an adapter starts as nothing


@pytest.mark.parametrize("role", BOTH)
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_one_role_alone(family, role):
    model = new_model(family)
    before = {role: logits(model, role) for role in BOTH}
    add_adapters(model, lora_config(model, roles=(role,)))
    assert adapted(model) and all(name.startswith(role + ".") for name in adapted(model))
    other = BOTH[role == "policy"]
    assert model.has_adapters(role) and not model.has_adapters(other)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    assert (logits(model, role) - before[role]).abs().max() > 1e-2
    assert (logits(model, other) == before[other]).all()  # tied weights, but not its adapters


@pytest.mark.parametrize(
    ("layers", "present"), [([1], {1}), ((0,), {0}), ([1, 0, 1], {0, 1}), ("upper half", {1}), (None, {0, 1})]
)
@pytest.mark.parametrize("family", ["mistral", "gpt2"])
def test_some_layers(family, layers, present):
    model = new_model(family)
    add_adapters(model, lora_config(model, layers=layers))
    assert {int(re.search(r"\.(\d+)\.", name)[1]) for name in adapted(model)} == present
    assert len(adapted(model)) == 2 * len(present) * (4 if family == "gpt2" else 7)


def test_layer_1_is_not_layer_11():
    config = tiny_backbone("qwen2").config
    config.num_hidden_layers, config.layer_types = 12, ["full_attention"] * 12
    model = nn.Module()
    model.policy = model.mean_field = AutoModelForCausalLM.from_config(config)
    pattern = lora_config(model, layers=[1]).target_modules
    matched = {name for name in linear_layers(model) if re.fullmatch(pattern, name)}
    assert len(matched) == 7 and all(name.startswith("policy.model.layers.1.") for name in matched)
    assert re.fullmatch(pattern, "mean_field.model.layers.1.mlp.up_proj")
    assert not re.fullmatch(pattern, "mean_field.model.layers.11.mlp.up_proj")
    assert not re.fullmatch(pattern, "policy.lm_head")


def test_two_families():
    model = new_model("gpt2", "llama")
    add_adapters(model, lora_config(model))
    roles = [name.split(".")[0] for name in adapted(model)]
    assert roles.count("policy") == 2 * 4 and roles.count("mean_field") == 2 * 7


def test_a_step_changes_every_adapter_and_nothing_else():
    model = new_model("qwen2")
    add_adapters(model, lora_config(model))
    names = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in names.items():
            if "lora_B" in name:
                parameter.fill_(0.01)
    before = {name: parameter.detach().clone() for name, parameter in names.items()}
    optimizer = torch.optim.AdamW([p for p in names.values() if p.requires_grad], lr=0.01)
    output = model(**inputs("policy"), **inputs("mean_field"))
    sum(torch.log_softmax(one, -1)[..., 7].sum() for one in output.to_tuple()).backward()
    optimizer.step()
    changed = {name for name, parameter in names.items() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in names if "lora_" in name}


def test_rank_scale_and_dropout_are_those_asked_for():
    config = lora_config(new_model("qwen2"), r=16, alpha=4, dropout=0.25)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias, config.task_type) == (
        16,
        4,
        0.25,
        "none",
        None,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": ("policy", "teacher")}, "`roles` must be some of policy, mean_field, got"),
        ({"roles": ()}, "`roles` must be some of policy, mean_field, got"),
        ({"layers": [2]}, "`layers` must be indices of the 2 decoder layers of the policy backbone, or 'upper half'"),
        ({"layers": "lower half"}, "`layers` must be indices of the 2 decoder layers"),
        ({"layers": [-1]}, "`layers` must be indices of the 2 decoder layers"),
        ({"layers": []}, "`layers` must be indices of the 2 decoder layers"),
    ],
)
def test_roles_and_layers_are_checked(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        lora_config(new_model("qwen2"), **options)


def test_a_model_without_decoder_layers_is_refused():
    model = nn.ModuleDict({"policy": nn.Linear(2, 2), "mean_field": nn.Linear(2, 2)})
    with pytest.raises(InputError, match="0 decoder layers"):
        lora_config(model)
