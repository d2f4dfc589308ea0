"""The tiny backbones stand for real families: these tests hold them to what they promise."""

import pytest
import torch
from model_inputs import FAMILIES, token_ids
from transformers import AutoModelForCausalLM, AutoTokenizer

from mf_llm import InputError
from mf_llm.models.tiny import TINY_FAMILIES, save_tiny_backbone, tiny_backbone, tiny_tokenizer

TEXTS = [
    "Hello  world\n\n1234 it's",
    " 我不相信这个消息。龘",
    "😀👩‍👩‍👧 né\t\tx",
    "  a\n b <think>|im_start|",
    "ᚠ Ελλάδα עברית",
    "",
]


def test_there_are_six_families():
    assert TINY_FAMILIES == FAMILIES
    for make in (tiny_backbone, tiny_tokenizer):
        with pytest.raises(InputError, match="must be one of qwen2"):
            make("bert")


@pytest.mark.parametrize("family", FAMILIES)
def test_any_text_survives_the_tokenizer(family):
    tokenizer = tiny_tokenizer(family)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_weights(family):
    state = torch.random.get_rng_state()
    one, same, other = tiny_backbone(family, 3), tiny_backbone(family, 3), tiny_backbone(family, 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    ids = token_ids()
    assert torch.equal(one(ids).logits, same(ids).logits)
    assert not torch.equal(one(ids).logits, other(ids).logits)
    assert tiny_tokenizer(family).get_vocab() == tiny_tokenizer(family).get_vocab()


@pytest.mark.parametrize("family", FAMILIES)
def test_distributions_are_neither_flat_nor_certain(family):
    model = tiny_backbone(family)
    with torch.no_grad():
        scores = model(token_ids()).logits.log_softmax(-1)
    entropy = -(scores.exp() * scores).sum(-1)
    assert model.config.vocab_size == len(tiny_tokenizer(family))
    assert 2 < entropy.mean() < 0.95 * torch.tensor(float(model.config.vocab_size)).log()
    assert not model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_as_an_ordinary_checkpoint(family, tmp_path):
    folder = save_tiny_backbone(tmp_path / family, family, seed=2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert torch.equal(model(token_ids()).logits, tiny_backbone(family, 2)(token_ids()).logits)
    ours = tiny_tokenizer(family)
    for text in [*TEXTS, "<|im_end|><think><end_of_turn>[INST] x</s>"]:
        for split in (False, True):
            ids = tokenizer(text, split_special_tokens=split)["input_ids"]
            assert ids == ours(text, split_special_tokens=split)["input_ids"]
    assert (tokenizer.chat_template or None) == (ours.chat_template or None)
    assert (tokenizer.eos_token, tokenizer.pad_token) == (ours.eos_token, ours.pad_token)


CHATS = {
    "qwen2": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen3": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "llama": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 1 Jan 2025\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma3": "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "<s>[INST] Hi [/INST]",
}


@pytest.mark.parametrize("family", CHATS)
def test_chat_templates(family):
    text = tiny_tokenizer(family).apply_chat_template(
        [{"role": "user", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string="1 Jan 2025",
    )
    assert text == CHATS[family]


def test_system_messages():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    rendered = tiny_tokenizer("gemma3").apply_chat_template(messages, tokenize=False)
    assert rendered == "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
    with pytest.raises(Exception, match="must alternate"):
        tiny_tokenizer("mistral").apply_chat_template(messages, tokenize=False)


def test_habits_of_the_families():
    thinking = tiny_tokenizer("qwen3").added_tokens_decoder
    assert {token.content: token.special for token in thinking.values()}["<think>"] is False
    assert tiny_tokenizer("llama").pad_token is None
    assert tiny_tokenizer("llama")("a")["input_ids"][0] == tiny_tokenizer("llama").bos_token_id
    assert tiny_tokenizer("gpt2").chat_template is None
    gemma = tiny_backbone("gemma3")
    assert len(gemma.generation_config.eos_token_id) == 2
    assert gemma.config.layer_types == ["sliding_attention", "full_attention"]
    assert tiny_backbone("mistral").config.sliding_window == 32


@pytest.mark.parametrize(("family", "window"), [("gemma3", 16), ("mistral", 32)])
def test_sliding_windows_hide_what_is_far(family, window):
    model = tiny_backbone(family)
    ids = token_ids(2 * window + 5, batch=1)
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 400
    with torch.no_grad():
        last = [model(x, output_hidden_states=True).hidden_states[1][0, -1] for x in (ids, changed)]
        near = [model(x, output_hidden_states=True).hidden_states[1][0, window - 1] for x in (ids, changed)]
    assert torch.equal(*last)
    assert not torch.equal(*near)
