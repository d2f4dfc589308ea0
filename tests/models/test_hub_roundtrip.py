"""Pushing a checkpoint to a Hub and loading it in a fresh process, over HTTP on the loopback interface."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_server import HubServer

PUSH = """
import torch
from mf_llm import MFLLMForSimulation
from mf_llm.models.tiny import tiny_backbone
model = MFLLMForSimulation.from_backbones(tiny_backbone("llama"), {mean_field})
model.generation_config_of("policy").temperature = 0.33
model.push_to_hub("tester/crowd", private=True)
"""
PULL = """
import torch
from mf_llm import InputError, MFLLMForSimulation
from mf_llm.models.tiny import tiny_backbone
from transformers import AutoConfig, AutoModel
ids = torch.arange(9, 60)[None]
expected = MFLLMForSimulation.from_backbones(tiny_backbone("llama"), {mean_field})(ids, mean_field_input_ids=ids)
for cls in (MFLLMForSimulation, AutoModel):
    model = cls.from_pretrained("tester/crowd")
    assert type(model) is MFLLMForSimulation
    output = model(ids, mean_field_input_ids=ids)
    assert torch.equal(output.policy_logits, expected.policy_logits)
    assert torch.equal(output.mean_field_logits, expected.mean_field_logits)
    assert model.generation_config_of("policy").temperature == 0.33
    assert model.config.tie_backbones is {tied}
assert AutoConfig.from_pretrained("tester/crowd").model_type == "mf_llm"
try:
    MFLLMForSimulation.from_pretrained("tester/nothing")
except InputError as error:
    assert "no such repository" in str(error), error
else:
    raise AssertionError("found what is not there")
"""
OFFLINE = """
from mf_llm import MFLLMForSimulation
assert MFLLMForSimulation.from_pretrained("tester/crowd").generation_config_of("policy").temperature == 0.33
"""


def run(code: str, environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


ADAPTERS = """
import torch
from mf_llm import MFLLMForSimulation
from mf_llm.models.tiny import tiny_backbone, tiny_tokenizer
from peft import LoraConfig, get_peft_model
tiny_backbone("llama").push_to_hub("tester/base")
model = MFLLMForSimulation.from_backbones("tester/base", dtype="float32")
assert len(model.config.policy_revision) == 40
config = LoraConfig(r=2, target_modules=r"(policy|mean_field)\\..*\\.q_proj", init_lora_weights=False)
model = get_peft_model(model, config).get_base_model().eval()
model.push_to_hub("tester/tuned")
tiny_backbone("llama", seed=1).push_to_hub("tester/base")
ids = torch.arange(9, 60)[None]
torch.save(tuple(model(ids, mean_field_input_ids=ids).values()), {path!r})
"""
LOAD_ADAPTERS = """
import torch
from mf_llm import MFLLMForSimulation
model = MFLLMForSimulation.from_pretrained("tester/tuned")
assert type(model) is MFLLMForSimulation and model.has_adapters("mean_field")
ids = torch.arange(9, 60)[None]
output = model(ids, mean_field_input_ids=ids)
expected = torch.load({path!r})
assert torch.equal(output.policy_logits, expected[0]) and torch.equal(output.mean_field_logits, expected[1])
"""


@pytest.fixture
def hub(tmp_path):
    with HubServer() as server:
        yield server


@pytest.fixture
def environment(hub, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_of_nobody",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    return environment


def test_adapters_are_loaded_on_the_revision_of_the_base_they_were_trained_on(hub, environment, tmp_path):
    pytest.importorskip("peft")
    path = str(tmp_path / "expected.pt")
    run(ADAPTERS.format(path=path), environment)
    assert set(hub.repositories["tester/tuned"].files) >= {"adapter_model.safetensors", "config.json"}
    assert "model.safetensors" not in hub.repositories["tester/tuned"].files
    run(LOAD_ADAPTERS.format(path=path), environment | {"HF_HOME": str(tmp_path / "elsewhere")})


@pytest.mark.parametrize("mean_field", ["None", "tiny_backbone('gpt2')"])
def test_a_pushed_checkpoint_loads_in_a_fresh_process(mean_field, hub, environment, tmp_path):
    run(PUSH.format(mean_field=mean_field), environment)
    repository = hub.repositories["tester/crowd"]
    assert repository.private
    assert set(repository.files) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "policy_generation_config.json",
        "mean_field_generation_config.json",
        "model_checksums.json",
    }
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)
    assert not list(tmp_path.rglob("*.safetensors"))
    run(PULL.format(mean_field=mean_field, tied=mean_field == "None"), environment)
    missing = [request for request in hub.requests if "tester/nothing" in request]
    assert 1 <= len(missing) == len(set(missing)), missing  # what is not there is not asked for again and again
    run(OFFLINE, environment | {"HF_HUB_OFFLINE": "1"})
    run(OFFLINE, environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
