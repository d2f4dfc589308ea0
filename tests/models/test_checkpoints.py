"""Finding a checkpoint by name, and saying where it was looked for."""

import socket
import time

import pytest
import torch
from huggingface_hub import constants
from model_inputs import assert_same_logits, both_logits

from mf_llm import InputError, MFLLMForSimulation
from mf_llm.models import checkpoints, hub_files, load_model
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone


@pytest.fixture
def model():
    return MFLLMForSimulation.from_backbones(tiny_backbone("llama"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def no_hub(monkeypatch):
    """Offline: nothing is waited for, no connection is tried."""

    def refused(*args):
        raise AssertionError("this needs no Hub")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(time, "sleep", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    hub_files.hub_is_reachable.cache_clear()
    yield
    hub_files.hub_is_reachable.cache_clear()


def put_into_cache(model, cache, name="someone/crowd", commit="a" * 40):
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    model.save_pretrained(repository / "snapshots" / commit)
    return repository / "snapshots" / commit


def test_a_local_folder_comes_first(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("someone/crowd")
    assert checkpoints.find_checkpoint("someone/crowd").resolve() == tmp_path / "someone/crowd"
    loaded = MFLLMForSimulation.from_pretrained("someone/crowd")
    assert_same_logits(both_logits(loaded), both_logits(model))
    assert loaded.name_or_path == "someone/crowd"


def test_a_packaged_checkpoint(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_packaged_folder", lambda: tmp_path)
    model.save_pretrained(tmp_path / "crowd-small")
    (tmp_path / "notes").mkdir()
    assert checkpoints.packaged_checkpoints() == ("crowd-small",)
    assert_same_logits(both_logits(MFLLMForSimulation.from_pretrained("crowd-small")), both_logits(model))
    with pytest.raises(InputError, match="packaged checkpoints: crowd-small"):
        MFLLMForSimulation.from_pretrained("crowd-large")


def test_the_cache_serves_when_there_is_no_hub(model, cache, no_hub):
    put_into_cache(model, cache)
    loaded = MFLLMForSimulation.from_pretrained("someone/crowd", cache_dir=cache)
    assert_same_logits(both_logits(loaded), both_logits(model))
    with pytest.raises(InputError, match="Hugging Face cache: not there"):
        MFLLMForSimulation.from_pretrained("someone/crowd", cache_dir=cache, revision="v2")


@pytest.mark.parametrize("name", ["nobody/nothing", "nothing", "a/b/c", "nobody--x/y", "what is this?", "no/../where"])
def test_an_unknown_name_fails_fast_and_lists_what_was_tried(name, cache, no_hub):
    with pytest.raises(InputError) as error:
        MFLLMForSimulation.from_pretrained(name)
    for place in ("local folder", "packaged checkpoints", "Hugging Face cache", "the Hub"):
        assert place in str(error.value)


@pytest.mark.parametrize("name", ["./here", "/nowhere/at/all", "~/nothing-of-that-name"])
def test_a_path_is_not_looked_up_elsewhere(name):
    with pytest.raises(InputError, match="there is no such folder"):
        MFLLMForSimulation.from_pretrained(name)


def test_folders_that_are_no_checkpoints(tmp_path):
    with pytest.raises(InputError, match=r"must hold a config\.json"):
        MFLLMForSimulation.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="empty name"):
        MFLLMForSimulation.from_pretrained("")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="readable JSON"):
        MFLLMForSimulation.from_pretrained(tmp_path)
    folder = save_tiny_backbone(tmp_path / "plain", "llama")
    with pytest.raises(InputError, match="from_backbones"):
        MFLLMForSimulation.from_pretrained(folder)


def test_load_model_takes_checkpoints_and_plain_language_models(model, tmp_path, cache, no_hub):
    model.save_pretrained(tmp_path / "ours")
    assert_same_logits(both_logits(load_model(tmp_path / "ours")), both_logits(model))
    plain = save_tiny_backbone(tmp_path / "plain", "llama")
    loaded = load_model(plain, dtype=torch.float32)
    assert loaded.config.policy_base == str(plain)
    assert_same_logits(both_logits(loaded), both_logits(model))
    with pytest.raises(InputError, match="was not found"):
        load_model("nobody/nothing")


def test_names_that_can_be_hub_ids():
    yes = ["owner/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b_c.d"]
    no = ["name", "a/b/c", "/a/b", "a b/c", "../x", "a--b/c", "x/y.git", "-a/b", ""]
    assert all(hub_files.looks_like_repo_id(name) for name in yes)
    assert not any(hub_files.looks_like_repo_id(name) for name in no)


def test_the_files_of_a_checkpoint(model, tmp_path):
    model.save_pretrained(tmp_path)
    own = set(map(str, checkpoints.checkpoint_files(tmp_path)))
    assert own == {
        "config.json",
        "model.safetensors",
        "policy_generation_config.json",
        "mean_field_generation_config.json",
        "model_checksums.json",
    }
    (tmp_path / "README.md").write_text(
        "# Card\n![curve](curve.png) ![else](https://example.org/x.png) ![gone](no.png)\n"
    )
    for name in ("curve.png", "other.png", "training_args.bin", "optimizer.pt", "training_log.csv", "runs/events.1",
                 "checkpoint-1/config.json", "policy_tokenizer/tokenizer.json", "processor_config.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    more = {"README.md", "curve.png", "policy_tokenizer/tokenizer.json", "processor_config.json"}
    assert set(map(str, checkpoints.checkpoint_files(tmp_path))) == own | more


def test_how_a_checkpoint_was_trained_is_known_before_it_is_loaded(model, tmp_path, cache, no_hub, monkeypatch):
    monkeypatch.setattr(checkpoints, "_packaged_folder", lambda: tmp_path / "packaged")
    model.save_pretrained(tmp_path / "silent")
    model.config.simulation = {"signal_max_tokens": 48, "signal": "both"}
    model.save_pretrained(tmp_path / "packaged" / "crowd-small")
    put_into_cache(model, cache)
    for name in (tmp_path / "packaged" / "crowd-small", "crowd-small", "someone/crowd"):
        assert checkpoints.trained_options(name) == {"signal": "both", "signal_max_tokens": 48}
    assert list(checkpoints.trained_options("crowd-small")) == ["signal", "signal_max_tokens"]
    for name in (
        tmp_path / "silent",
        tmp_path,
        save_tiny_backbone(tmp_path / "plain", "llama"),
        "nobody/nothing",
        "x",
    ):
        assert checkpoints.trained_options(name) == {}
    assert all(checkpoints.trained_options(name) == {} for name in checkpoints.WHEEL_BACKBONES)
