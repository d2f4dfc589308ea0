"""Adapters of the two roles: switching off, freezing, merging, saving, loading."""

import json
import subprocess
import sys

import pytest
import torch
from model_inputs import assert_same_logits, assert_untied, both_logits, token_ids
from transformers import AutoModel

from mf_llm import InputError, MFLLMForSimulation
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone

peft = pytest.importorskip("peft")

pytestmark = [
    # peft 0.21 asks for the old name itself.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
]

TARGETS = {"gpt2": "c_attn|c_proj|c_fc"}
BOTH_ROLES = r"(policy|mean_field)\..*\.({})"


def add_adapters(model, pattern=BOTH_ROLES, family="llama", **kwargs):
    """Random adapters (B is not zero), put in by peft; returns the model itself."""
    names = TARGETS.get(family, "q_proj|v_proj|down_proj")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=pattern.format(names), task_type=None, **kwargs)
    wrapped = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return wrapped.get_base_model().eval()


@pytest.fixture(params=["llama", "gpt2", "gemma3"])
def family(request):
    return request.param


def test_the_base_of_tied_roles_stays_shared_under_adapters(family):
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone(family)), family=family)
    assert isinstance(model, MFLLMForSimulation)
    assert model.has_adapters("policy") and model.has_adapters("mean_field")
    shared = {id(p) for p in model.policy.parameters()} & {id(p) for p in model.mean_field.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert not shared & {id(p) for p in trainable}
    assert len(shared) == len(list(tiny_backbone(family).parameters()))
    model.tie_weights()
    assert (
        not {id(p) for p in model.policy.parameters()}
        & {id(p) for p in trainable}
        & {id(p) for p in model.mean_field.parameters()}
    )
    output = both_logits(model)
    alone = model(mean_field_input_ids=token_ids(40, 1)).mean_field_logits
    assert not torch.equal(output.policy_logits, alone)


def test_switching_a_role_off_gives_its_base_and_touches_nothing_else(family):
    base = both_logits(MFLLMForSimulation.from_backbones(tiny_backbone(family)))
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone(family)), family=family)
    tuned = both_logits(model)
    model.freeze("policy")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with model.adapters_disabled("policy"):
        off = both_logits(model)
        with model.adapters_disabled("policy"):
            pass
        assert torch.equal(both_logits(model).policy_logits, base.policy_logits)
    assert torch.equal(off.policy_logits, base.policy_logits)
    assert torch.equal(off.mean_field_logits, tuned.mean_field_logits)
    with pytest.raises(RuntimeError), model.adapters_disabled("mean_field"):
        raise RuntimeError
    assert_same_logits(both_logits(model), tuned)
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name.split(".")[0] for name, on in before.items() if on} == {"mean_field"}


def test_adapters_disabled_without_adapters_does_nothing():
    model = MFLLMForSimulation.from_backbones(tiny_backbone("llama"))
    with model.adapters_disabled("mean_field"):
        assert both_logits(model).policy_logits is not None
    assert not model.has_adapters("policy")
    with pytest.raises(InputError, match="has none"):
        model.merge()


def test_peft_is_not_imported_for_it():
    code = (
        "import sys\nfrom mf_llm import MFLLMForSimulation\nfrom mf_llm.models.tiny import tiny_backbone\n"
        "model = MFLLMForSimulation.from_backbones(tiny_backbone('llama'))\n"
        "with model.adapters_disabled('policy'):\n    assert not model.has_adapters('policy')\n"
        "assert 'peft' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("roles", ["both", "policy", "mean_field"])
def test_merging_is_right_for_each_role(family, roles, tmp_path):
    pattern = BOTH_ROLES if roles == "both" else roles + r"\..*\.({})"
    base = both_logits(MFLLMForSimulation.from_backbones(tiny_backbone(family)))
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone(family)), pattern, family)
    tuned = both_logits(model)
    assert torch.equal(tuned.policy_logits, base.policy_logits) == (roles == "mean_field")
    assert torch.equal(tuned.mean_field_logits, base.mean_field_logits) == (roles == "policy")

    assert model.merge() is model
    assert not any(model.has_adapters(role) for role in ("policy", "mean_field"))
    assert model.config.tie_backbones is False
    assert_untied(model)
    merged = both_logits(model)
    torch.testing.assert_close(merged.policy_logits, tuned.policy_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(merged.mean_field_logits, tuned.mean_field_logits, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name or "base_layer" in name for name, _ in model.named_parameters())

    model.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    loaded = MFLLMForSimulation.from_pretrained(tmp_path)
    assert_untied(loaded)
    assert_same_logits(both_logits(loaded), merged)


def test_merging_different_bases():
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone("llama"), tiny_backbone("qwen2")))
    tuned = both_logits(model)
    merged = both_logits(model.merge())
    torch.testing.assert_close(merged.policy_logits, tuned.policy_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(merged.mean_field_logits, tuned.mean_field_logits, atol=1e-4, rtol=1e-4)


def test_merging_an_adapter_of_tied_embeddings_is_refused():
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone("llama")), r"policy\.lm_head")
    with pytest.raises(InputError, match="embeddings"):
        model.merge()
    assert model.has_adapters("policy")


@pytest.mark.parametrize("mean_field", [None, "gpt2"])
def test_a_checkpoint_of_adapters_rebuilds_its_base(mean_field, tmp_path):
    policy = save_tiny_backbone(tmp_path / "base", "llama")
    other = save_tiny_backbone(tmp_path / "other", mean_field) if mean_field else None
    model = MFLLMForSimulation.from_backbones(policy, other, dtype=torch.float32)
    names = "q_proj|v_proj|c_attn"
    model = add_adapters(model, r"(policy|mean_field)\..*\.(" + names + ")")
    model.generation_config_of("policy").temperature = 0.5
    model.save_pretrained(tmp_path / "adapters")
    files = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert files == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "policy_generation_config.json",
        "mean_field_generation_config.json",
        "model_checksums.json",
    }
    assert json.loads((tmp_path / "adapters/adapter_config.json").read_text())["inference_mode"] is True

    for load in (MFLLMForSimulation.from_pretrained, AutoModel.from_pretrained):
        loaded = load(tmp_path / "adapters")
        assert type(loaded) is MFLLMForSimulation
        assert_same_logits(both_logits(loaded), both_logits(model))
        assert loaded.config.tie_backbones is (mean_field is None)
        assert loaded.generation_config_of("policy").temperature == 0.5
        assert not any(p.requires_grad for n, p in loaded.named_parameters() if "lora_" in n)
    trainable = MFLLMForSimulation.from_pretrained(tmp_path / "adapters", is_trainable=True)
    assert all(p.requires_grad == ("lora_" in n) for n, p in trainable.named_parameters())
    merged = MFLLMForSimulation.from_pretrained(tmp_path / "adapters").merge()
    merged.save_pretrained(tmp_path / "merged")
    assert_same_logits(both_logits(MFLLMForSimulation.from_pretrained(tmp_path / "merged")), both_logits(merged))


def test_adapters_saved_by_peft_itself_are_read(tmp_path):
    base = save_tiny_backbone(tmp_path / "base", "qwen3")
    model = add_adapters(MFLLMForSimulation.from_backbones(base, dtype=torch.float32))
    model.save_pretrained(tmp_path / "ours")
    wrapped = peft.PeftModel.from_pretrained(
        MFLLMForSimulation.from_backbones(base, dtype=torch.float32), tmp_path / "ours"
    )
    wrapped.save_pretrained(tmp_path / "theirs")
    wrapped.get_base_model().config.save_pretrained(tmp_path / "theirs")
    loaded = MFLLMForSimulation.from_pretrained(tmp_path / "theirs")
    assert_same_logits(both_logits(loaded), both_logits(model))


def test_adapters_of_another_base_are_refused(tmp_path):
    base = save_tiny_backbone(tmp_path / "base", "llama")
    model = add_adapters(MFLLMForSimulation.from_backbones(base, dtype=torch.float32))
    model.save_pretrained(tmp_path / "adapters")
    weights = tmp_path / "adapters/adapter_model.safetensors"
    weights.unlink()
    with pytest.raises(InputError, match="must hold"):
        MFLLMForSimulation.from_pretrained(tmp_path / "adapters")
    from safetensors.torch import save_file

    (tmp_path / "adapters/model_checksums.json").unlink()
    save_file({"base_model.model.policy.nothing.lora_A.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(InputError, match="do not fit"), pytest.warns(UserWarning, match="missing adapter keys"):
        MFLLMForSimulation.from_pretrained(tmp_path / "adapters")


def test_adapters_without_a_named_base_are_refused(tmp_path):
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone("llama")))
    with pytest.raises(InputError, match="policy_base"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_adapters_on_a_tied_base(family, checkpointing):
    def gradients(tie):
        model = MFLLMForSimulation.from_backbones(tiny_backbone(family), tie_backbones=tie)
        model = add_adapters(model, family=family).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable()
        output = model(token_ids(20, 1), mean_field_input_ids=token_ids(17, 2))
        (output.policy_logits.square().mean() + 3 * output.mean_field_logits.square().mean()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    tied, untied = gradients(True), gradients(False)
    assert tied.keys() == untied.keys()
    assert {name.split(".")[0] for name in tied} == {"policy", "mean_field"}
    for name, gradient in tied.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, untied[name], atol=1e-5, rtol=1e-4)


def test_ready_backbones_with_adapters_are_refused():
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone("llama")))
    with pytest.raises(InputError, match="free of adapters"):
        MFLLMForSimulation.from_backbones(model.policy)


def test_tied_roles_convert_together_under_adapters():
    model = add_adapters(MFLLMForSimulation.from_backbones(tiny_backbone("llama"))).to(torch.bfloat16)
    q = "model.layers.0.self_attn.q_proj.base_layer"
    assert model.policy.get_submodule(q).weight is model.mean_field.get_submodule(q).weight
    assert model.policy.get_submodule(q).weight.dtype == torch.bfloat16
