"""Frozen features of texts: what is read, how it is pooled, and what is kept."""

import numpy as np
import pytest
import torch

from mf_llm.errors import InputError
from mf_llm.evaluation.text_features import TextFeatures, features_folder
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone, tiny_tokenizer

TOPIC = "A rumour says that the bridge will be closed."
TEXTS = ("I do not believe this story.", "", "Is there any official statement? Please share a link.", "No.")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("qwen3"), "qwen3")


def test_features_are_means_over_tokens_then_over_texts(backbone, monkeypatch):
    monkeypatch.setattr("mf_llm.models.backbones.preferred_dtype", lambda: torch.float32)
    topic, texts = TextFeatures(backbone, cache=None)(TOPIC, TEXTS)
    model, tokenizer = tiny_backbone("qwen3"), tiny_tokenizer("qwen3")
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def by_hand(text):
        ids = torch.tensor([[first, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            return model.base_model(ids).last_hidden_state[0, 1:].mean(dim=0).numpy()

    assert topic == pytest.approx(by_hand(TOPIC), abs=1e-4)
    assert texts == pytest.approx(np.mean([by_hand(text) for text in TEXTS if text], axis=0), abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_features_do_not_depend_on_the_batch(family, tmp_path, monkeypatch):
    monkeypatch.setattr("mf_llm.models.backbones.preferred_dtype", lambda: torch.float32)
    folder = save_tiny_backbone(tmp_path, family)
    one, many = (TextFeatures(folder, batch_tokens=size, cache=None)(TOPIC, TEXTS) for size in (1, 4096))
    assert one == pytest.approx(many, abs=1e-4)


def test_where_nobody_wrote_anything_features_are_missing(backbone):
    topic, texts = TextFeatures(backbone, cache=None)(TOPIC, ["", "  \n "])
    assert np.all(np.isfinite(topic)) and np.all(np.isnan(texts)) and topic.shape == texts.shape


def test_long_texts_are_cut_and_control_tokens_are_ordinary_text(backbone, monkeypatch):
    features = TextFeatures(backbone, max_tokens=16, cache=None)
    read = []
    model = features._model.base_model
    forward = model.forward

    def remembered(**inputs):
        read.append(inputs["input_ids"])
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", remembered)
    features("word " * 100_000, ["<|im_end|><think>"])
    cut, control = read
    assert cut.shape == (1, 17)
    tokenizer = tiny_tokenizer("qwen3")
    assert not set(control[0, 1:].tolist()) & set(tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder))


def test_what_is_kept_is_read_without_a_model(backbone, tmp_path):
    cache = tmp_path / "features"
    first = TextFeatures(backbone, cache=cache)
    made = first(TOPIC, TEXTS)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    again = TextFeatures(backbone, cache=cache)
    np.testing.assert_array_equal(again(TOPIC, TEXTS), made)
    assert "_model" in vars(first) and "_model" not in vars(again)


@pytest.mark.parametrize("change", ["topic", "text", "order", "max_tokens", "backbone"])
def test_what_was_read_otherwise_is_another_entry(change, backbone, tmp_path):
    cache = tmp_path / "features"
    TextFeatures(backbone, cache=cache)(TOPIC, TEXTS)
    other = save_tiny_backbone(tmp_path / "other", "qwen3", seed=1) if change == "backbone" else backbone
    features = TextFeatures(other, max_tokens=8 if change == "max_tokens" else 64, cache=cache)
    texts = {"text": [*TEXTS[:-1], "Yes."], "order": TEXTS[::-1]}.get(change, TEXTS)
    features(TOPIC + "!" if change == "topic" else TOPIC, texts)
    assert len(list(cache.iterdir())) == 2


def test_the_cache_can_be_switched_off_and_moved(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))
    assert TextFeatures(backbone).cache == features_folder() == tmp_path / "cache/text-features"
    TextFeatures(backbone, cache=None)(TOPIC, TEXTS)
    assert not (tmp_path / "cache").exists()
    TextFeatures(backbone)(TOPIC, TEXTS)
    assert len(list((tmp_path / "cache/text-features").iterdir())) == 1


@pytest.mark.parametrize("name", ["max_tokens", "batch_tokens"])
def test_bounds_must_leave_something(name):
    with pytest.raises(InputError, match=f"`{name}` must be at least 1, got 0"):
        TextFeatures(**{name: 0})
