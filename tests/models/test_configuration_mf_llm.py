"""The configuration of two roles."""

import json

import pytest
from transformers import AutoConfig

from mf_llm import InputError, MFLLMConfig, SimulationConfig
from mf_llm.models.tiny import tiny_backbone


def test_roundtrip(tmp_path):
    config = MFLLMConfig.from_backbone_configs(
        tiny_backbone("gemma3").config,
        tiny_backbone("gpt2").config,
        policy_base="someone/a",
        policy_revision="main",
        mean_field_base="someone/b",
        mean_field_revision="abc",
    )
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "mf_llm"
    assert stored["tie_backbones"] is False
    assert "auto_map" not in stored
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MFLLMConfig)
    for name in ("policy_base", "policy_revision", "mean_field_base", "mean_field_revision", "tie_backbones"):
        assert getattr(loaded, name) == getattr(config, name)
    assert loaded.prompt_version == config.prompt_version
    assert loaded.policy_config.model_type == "gemma3_text"
    assert loaded.policy_config.layer_types == config.policy_config.layer_types
    assert loaded.mean_field_config.n_embd == 32
    assert loaded.get_text_config() is loaded.policy_config
    assert loaded.backbone_config("mean_field") is loaded.mean_field_config
    assert loaded.to_diff_dict() == MFLLMConfig.from_dict(loaded.to_diff_dict()).to_diff_dict()


def test_tying_by_default():
    policy = tiny_backbone("llama").config
    alone = MFLLMConfig.from_backbone_configs(policy)
    assert alone.tie_backbones is True is alone.tie_word_embeddings
    assert alone.mean_field_config is not alone.policy_config
    assert alone.mean_field_config.vocab_size == policy.vocab_size
    assert MFLLMConfig.from_backbone_configs(policy, policy).tie_backbones is False
    assert MFLLMConfig.from_backbone_configs(policy, policy, tie_backbones=True).tie_backbones is True
    assert MFLLMConfig().tie_backbones is True


def test_errors():
    llama, gpt2 = tiny_backbone("llama").config, tiny_backbone("gpt2").config
    with pytest.raises(InputError, match="disagree in"):
        MFLLMConfig.from_backbone_configs(llama, gpt2, tie_backbones=True)
    with pytest.raises(InputError, match="`policy_config` must be a configuration"):
        MFLLMConfig.from_backbone_configs("llama")
    with pytest.raises(InputError, match="`mean_field_config` must be a configuration"):
        MFLLMConfig.from_backbone_configs(llama, "gpt2")
    with pytest.raises(InputError, match="`role` must be 'policy' or 'mean_field', got 'judge'"):
        MFLLMConfig().backbone_config("judge")
    with pytest.raises(Exception, match="prompt_version"):
        MFLLMConfig(prompt_version="one")


def test_how_it_was_trained_is_how_it_is_simulated(tmp_path):
    trained = {"signal": "both", "anchored": True, "signal_max_tokens": 48}
    MFLLMConfig(simulation=trained).save_pretrained(tmp_path)
    config = MFLLMConfig.from_pretrained(tmp_path)
    assert config.simulation == trained
    simulation = config.simulation_config(signal_max_tokens=32, seed=1)
    assert (simulation.signal, simulation.anchored) == ("both", True)
    assert (simulation.signal_max_tokens, simulation.seed) == (32, 1)
    plain = MFLLMConfig(simulation=trained | {"option_orders": 4}).simulation_config(anchored=False)
    assert (plain.anchored, plain.option_orders) == (False, SimulationConfig.option_orders)
    softened = MFLLMConfig(simulation={"choice_temperature": 2.0, "shown_answers": 32})
    assert softened.simulation_config().choice_temperature == 2
    anchored = softened.simulation_config(anchored=True)
    assert (anchored.choice_temperature, anchored.shown_answers) == (1, 32)
    # Checkpoints from before the field existed, and those that say nothing.
    record = json.loads((tmp_path / "config.json").read_text())
    del record["simulation"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    for silent in (MFLLMConfig.from_pretrained(tmp_path), MFLLMConfig()):
        assert silent.simulation is None and silent.simulation_config() == SimulationConfig()


def test_a_checkpoint_cannot_choose_what_belongs_to_a_run():
    with pytest.raises(InputError, match=r"`simulation` of a checkpoint may hold signal, .*, got seed, warm_up;"):
        MFLLMConfig(simulation={"warm_up": 8, "seed": 3}).simulation_config()
    with pytest.raises(InputError, match="`signal` must be one of"):
        MFLLMConfig(simulation={"signal": "loud"}).simulation_config()
    with pytest.raises(Exception, match="simulation"):
        MFLLMConfig(simulation="both")
