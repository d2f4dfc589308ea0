"""How each role generates, and that it survives saving."""

import json

import pytest
from transformers import GenerationConfig

from mf_llm import MFLLMForSimulation
from mf_llm.models.tiny import tiny_backbone


def test_defaults_of_the_roles():
    model = MFLLMForSimulation.from_backbones(tiny_backbone("gemma3"))
    policy, mean_field = (model.generation_config_of(role) for role in ("policy", "mean_field"))
    assert (policy.do_sample, policy.temperature, policy.top_p, policy.top_k) == (True, 0.8, 0.85, 0)
    assert (mean_field.do_sample, mean_field.temperature, mean_field.top_p, mean_field.top_k) == (True, 0.1, 1.0, 0)
    assert (policy.max_new_tokens, mean_field.max_new_tokens) == (50, 96)
    assert policy.eos_token_id == mean_field.eos_token_id == [1, 5]
    assert policy is model.backbone("policy").generation_config


def test_what_a_backbone_says_is_kept():
    backbone = tiny_backbone("llama")
    backbone.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, max_new_tokens=7)
    model = MFLLMForSimulation.from_backbones(backbone)
    for role in ("policy", "mean_field"):
        config = model.generation_config_of(role)
        assert (config.temperature, config.top_p, config.top_k, config.max_new_tokens) == (0.6, 0.9, None, 7)
        assert config.eos_token_id == backbone.config.eos_token_id


@pytest.mark.parametrize("mean_field", [None, "qwen2"])
def test_both_survive_saving(mean_field, tmp_path):
    other = tiny_backbone(mean_field) if mean_field else None
    model = MFLLMForSimulation.from_backbones(tiny_backbone("llama"), other)
    model.generation_config_of("policy").temperature = 0.33
    model.generation_config_of("mean_field").max_new_tokens = 12
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "policy_generation_config.json").read_text())["temperature"] == 0.33
    assert not (tmp_path / "generation_config.json").exists()
    loaded = MFLLMForSimulation.from_pretrained(tmp_path)
    for role in ("policy", "mean_field"):
        ours, theirs = (m.generation_config_of(role).to_dict() for m in (model, loaded))
        assert {k: v for k, v in ours.items() if v != theirs.get(k)} in ({}, {"transformers_version": None})
    (tmp_path / "policy_generation_config.json").unlink()
    (tmp_path / "model_checksums.json").unlink()
    assert MFLLMForSimulation.from_pretrained(tmp_path).generation_config_of("policy").temperature == 0.8
