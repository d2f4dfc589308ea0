"""The two-role model: building, tying, forward, saving and loading."""

import copy
import inspect

import pytest
import torch
from model_inputs import FAMILIES, assert_same_logits, assert_tied, assert_untied, both_logits, token_ids
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from mf_llm import InputError, MFLLMConfig, MFLLMForSimulation, MFLLMOutput
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone

MIXED_PAIRS = [("qwen2", "llama"), ("gpt2", "qwen2"), ("gemma3", "mistral"), ("llama", "qwen3"), ("mistral", "gpt2")]


def tied(family: str = "llama") -> MFLLMForSimulation:
    return MFLLMForSimulation.from_backbones(tiny_backbone(family))


# -- saving and loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_pair_survives_saving_and_loading(family, tmp_path):
    backbone = tiny_backbone(family)
    expected = MFLLMOutput(*(backbone(token_ids(n, s)).logits for n, s in ((40, 1), (37, 2))))
    model = MFLLMForSimulation.from_backbones(backbone)
    assert_tied(model)
    assert_same_logits(both_logits(model), expected)

    model.save_pretrained(tmp_path)
    loaded, report = MFLLMForSimulation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_tied(loaded)
    assert loaded.config.tie_backbones is True
    assert not loaded.training
    assert_same_logits(both_logits(loaded), expected)


@pytest.mark.parametrize(("policy", "mean_field"), MIXED_PAIRS)
def test_a_mixed_pair_survives_saving_and_loading(policy, mean_field, tmp_path):
    model = MFLLMForSimulation.from_backbones(tiny_backbone(policy), tiny_backbone(mean_field, seed=1))
    assert model.config.tie_backbones is False
    assert_untied(model)
    expected = both_logits(model)
    assert torch.equal(expected.policy_logits, tiny_backbone(policy)(token_ids(40, 1)).logits)
    assert torch.equal(expected.mean_field_logits, tiny_backbone(mean_field, seed=1)(token_ids(37, 2)).logits)

    model.save_pretrained(tmp_path)
    loaded, report = MFLLMForSimulation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_untied(loaded)
    assert_same_logits(both_logits(loaded), expected)
    assert_same_logits(both_logits(AutoModel.from_pretrained(tmp_path)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_tied_parameters_are_stored_once(family, tmp_path):
    model = tied(family)
    model.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("*.bin")] == []
    bytes_of_one = sum(p.numel() * 4 for p in tiny_backbone(family).parameters())
    file = tmp_path / "model.safetensors"
    assert bytes_of_one <= file.stat().st_size < bytes_of_one + 8192
    with safe_open(file, "pt") as tensors:
        assert all(name.startswith("policy.") for name in tensors.keys())  # noqa: SIM118 - not a dict


def test_a_sharded_checkpoint_stays_tied(tmp_path):
    model = tied()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = MFLLMForSimulation.from_pretrained(tmp_path)
    assert_tied(loaded)
    assert_same_logits(both_logits(loaded), both_logits(model))


def test_same_family_with_different_weights_is_not_tied(tmp_path):
    model = MFLLMForSimulation.from_backbones(tiny_backbone("llama", seed=0), tiny_backbone("llama", seed=1))
    assert_untied(model)
    model.save_pretrained(tmp_path)
    loaded = MFLLMForSimulation.from_pretrained(tmp_path)
    assert_untied(loaded)
    assert_same_logits(both_logits(loaded), both_logits(model))


def test_an_attention_implementation_reaches_both_roles(tmp_path):
    model = tied("qwen2")
    model.save_pretrained(tmp_path)
    eager = MFLLMForSimulation.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.policy.config._attn_implementation == "eager" == eager.mean_field.config._attn_implementation
    ours, theirs = both_logits(eager), both_logits(model)
    torch.testing.assert_close(ours.mean_field_logits, theirs.mean_field_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("how", ["to", "bfloat16", "from_pretrained", "low_memory", "device_map"])
def test_tying_survives_conversions(family, how, tmp_path):
    model = tied(family)
    dtype = torch.float32 if how in ("low_memory", "device_map") else torch.bfloat16
    if how == "to":
        model = model.to(torch.bfloat16)
    elif how == "bfloat16":
        model = model.bfloat16()
    else:
        model.save_pretrained(tmp_path)
        arguments = {
            "from_pretrained": {"dtype": torch.bfloat16},
            "low_memory": {"low_cpu_mem_usage": True},
            "device_map": {"device_map": "cpu"},
        }[how]
        model = MFLLMForSimulation.from_pretrained(tmp_path, **arguments)
    assert_tied(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in tiny_backbone(family).parameters())


def test_dtype_of_a_checkpoint_is_kept(tmp_path):
    MFLLMForSimulation.from_backbones(tiny_backbone("qwen3").bfloat16()).save_pretrained(tmp_path)
    assert MFLLMForSimulation.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_deepcopy_keeps_the_roles_tied():
    model = copy.deepcopy(tied())
    assert_tied(model)
    assert_same_logits(both_logits(model), both_logits(tied()))


@pytest.mark.parametrize("tie", [True, False])
def test_a_model_from_a_configuration_alone(tie):
    config = tiny_backbone("llama").config
    config = MFLLMConfig(policy_config=config.to_dict(), mean_field_config=config.to_dict(), tie_backbones=tie)
    model = AutoModel.from_config(config)
    assert isinstance(model, MFLLMForSimulation)
    (assert_tied if tie else assert_untied)(model)


# -- building ---------------------------------------------------------------------------------------------------------


def test_bases_are_recorded_and_shared_by_name(tmp_path):
    one, other = save_tiny_backbone(tmp_path / "a", "llama"), save_tiny_backbone(tmp_path / "b", "gpt2")
    for mean_field in (None, one, str(one)):
        model = MFLLMForSimulation.from_backbones(one, mean_field, dtype=torch.float32)
        assert_tied(model)
        assert model.config.policy_base == model.config.mean_field_base == str(one)
    model = MFLLMForSimulation.from_backbones(one, other)
    assert_untied(model)
    assert (model.config.policy_base, model.config.mean_field_base) == (str(one), str(other))


def test_one_base_can_be_used_untied(tmp_path):
    folder = save_tiny_backbone(tmp_path / "a", "gpt2")
    for base in (folder, tiny_backbone("gpt2")):
        model = MFLLMForSimulation.from_backbones(base, tie_backbones=False, dtype=torch.float32)
        assert_untied(model)
        assert model.mean_field.lm_head.weight is model.mean_field.transformer.wte.weight
        assert_same_logits(both_logits(model), both_logits(tied("gpt2")))
        model.save_pretrained(tmp_path / "b")
        assert_untied(MFLLMForSimulation.from_pretrained(tmp_path / "b"))


def test_wrong_backbones_are_refused(tmp_path):
    with pytest.raises(InputError, match="`tie_backbones` must be False"):
        MFLLMForSimulation.from_backbones(tiny_backbone("llama"), tiny_backbone("llama"), tie_backbones=True)
    with pytest.raises(InputError, match="causal language model"):
        MFLLMForSimulation.from_backbones(BertModel(BertConfig(hidden_size=12, num_hidden_layers=1, vocab_size=8)))
    with pytest.raises(InputError, match="causal language model"):
        MFLLMForSimulation.from_backbones(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="`role` must be"):
        tied().backbone("judge")


def test_untie_separates_the_roles(tmp_path):
    model = tied("gpt2")
    expected = both_logits(model)
    assert model.untie() is model
    assert_untied(model)
    assert model.config.tie_backbones is False
    assert model.mean_field.lm_head.weight is model.mean_field.transformer.wte.weight
    assert_same_logits(both_logits(model), expected)
    with torch.no_grad():
        model.mean_field.lm_head.weight.mul_(2.0)
    changed = both_logits(model)
    assert torch.equal(changed.policy_logits, expected.policy_logits)
    model.tie_weights()
    model.save_pretrained(tmp_path)
    loaded = MFLLMForSimulation.from_pretrained(tmp_path)
    assert_untied(loaded)
    assert_same_logits(both_logits(loaded), changed)


# -- forward ----------------------------------------------------------------------------------------------------------


def test_forward_takes_either_role_and_names_nothing_it_ignores():
    model = tied()
    assert "kwargs" not in inspect.signature(MFLLMForSimulation.forward).parameters
    policy, mean_field = model(token_ids()), model(mean_field_input_ids=token_ids())
    assert policy.mean_field_logits is None
    assert mean_field.policy_logits is None
    assert torch.equal(policy.policy_logits, mean_field.mean_field_logits)
    assert len(model(token_ids(), mean_field_input_ids=token_ids(5), return_dict=False)) == 2
    with pytest.raises(InputError, match="got neither"):
        model()


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_and_positions_reach_both_roles(family):
    model = tied(family)
    ids, left = token_ids(40), 7
    padded = torch.cat([torch.full((2, left), 3), ids], dim=1)
    mask = torch.cat([torch.zeros(2, left, dtype=torch.long), torch.ones_like(ids)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = model(ids).policy_logits
        both = model(padded, mask, positions, padded, mask, positions)
    torch.testing.assert_close(both.policy_logits[:, left:], plain, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(both.mean_field_logits[:, left:], plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_tied_roles_is_the_sum_of_the_untied_ones(family, checkpointing):
    def gradients(model):
        if checkpointing:
            model.activation_checkpointing_enable()
            assert all(model.backbone(role).is_activation_checkpointing for role in ("policy", "mean_field"))
        model.train()
        output = model(token_ids(20, 1), mean_field_input_ids=token_ids(17, 2))
        loss = output.policy_logits.log_softmax(-1)[..., 5].mean() + 3 * output.mean_field_logits.square().mean()
        loss.backward()
        return [dict(model.backbone(role).named_parameters()) for role in ("policy", "mean_field")]

    shared, _ = gradients(tied(family))
    ours, theirs = gradients(MFLLMForSimulation.from_backbones(tiny_backbone(family), tie_backbones=False))
    for name, parameter in shared.items():
        torch.testing.assert_close(parameter.grad, ours[name].grad + theirs[name].grad, atol=1e-5, rtol=1e-4)


def test_embeddings_are_found_and_resized():
    model = tied("qwen2")
    assert model.get_input_embeddings() is model.policy.model.embed_tokens
    assert model.get_output_embeddings() is model.policy.lm_head
    old = both_logits(model)
    size = model.config.get_text_config().vocab_size
    model.resize_token_embeddings(size + 6)
    assert_tied(model)
    assert model.config.policy_config.vocab_size == model.config.mean_field_config.vocab_size == size + 6
    torch.testing.assert_close(both_logits(model).mean_field_logits[..., :size], old.mean_field_logits)


def test_resized_embeddings_survive_saving(tmp_path):
    model = tied("llama")
    model.resize_token_embeddings(500)
    model.save_pretrained(tmp_path)
    loaded = MFLLMForSimulation.from_pretrained(tmp_path)
    assert_tied(loaded)
    assert_same_logits(both_logits(loaded), both_logits(model))


def test_freezing_a_role():
    model = MFLLMForSimulation.from_backbones(tiny_backbone("llama"), tiny_backbone("gpt2"))
    model.freeze("mean_field")
    assert not any(p.requires_grad for p in model.mean_field.parameters())
    assert all(p.requires_grad for p in model.policy.parameters())
    with pytest.raises(InputError, match="share every"):
        tied().freeze("policy")


def test_each_role_generates():
    model = tied("qwen3")
    output = model.backbone("mean_field").generate(token_ids(6), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert output.shape[1] <= 10


def test_auto_config_reads_the_saved_configuration(tmp_path):
    model = MFLLMForSimulation.from_backbones(tiny_backbone("gemma3"), tiny_backbone("gpt2"))
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, MFLLMConfig)
    for role in ("policy", "mean_field"):
        saved, own = config.backbone_config(role).to_dict(), model.config.backbone_config(role).to_dict()
        assert {k: v for k, v in saved.items() if k != "_name_or_path"} == {
            k: v for k, v in own.items() if k != "_name_or_path"
        }
