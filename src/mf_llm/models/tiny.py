"""Tiny random backbones with tokenizers of their own, for tests and dry runs.

A tiny backbone has two layers, a hidden size of 32 and random weights: it writes nonsense, in milliseconds, and needs
no download. What it shares with the real family is everything that breaks programs: the architecture, the control
tokens and which of them are declared special, where the tokenizer adds tokens by itself, and what the chat template
accepts (`mf_llm.models.tiny_templates`). Each family brings one habit of its own:

======= ============================================================================================================
family  habit
======= ============================================================================================================
qwen2   ChatML; the template adds a default system message; pad differs from eos; embeddings are not tied
qwen3   ChatML with ``enable_thinking``; ``<think>`` and ``</think>`` are added tokens with ``special=False``
llama   headers; the tokenizer adds a first token by itself; the template asks for a date; there is no pad token
gemma3  no system role (folded into the user's turn); a local and a global layer, window 16; the tokenizer's eos is not
        the end of a turn (the generation config names both)
mistral ``[INST]``; roles must alternate and a system message is refused; window 32; a space is put before each text
gpt2    a base model: no chat template, no pad token
======= ============================================================================================================

The weights are drawn with a standard deviation of 0.25 instead of 0.02, so that the next-token distributions are
neither flat nor certain and a wrong mask or position shows in the logits.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.errors import InputError
from mf_llm.models.tiny_templates import CHAT_TEMPLATES, CORPUS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY_FAMILIES = ("qwen2", "qwen3", "llama", "gemma3", "mistral", "gpt2")

_CONTEXT = 4096
_VOCABULARY = 480
_STANDARD_DEVIATION = 0.25

# Control tokens in the order of their ids; the real families keep them at the end, which no code should rely on.
_SPECIAL_TOKENS = {
    "qwen2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "qwen3": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "llama": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    ),
    "gemma3": ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    "mistral": ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
    "gpt2": ("<|endoftext|>",),
}
_ADDED_TOKENS_NOT_SPECIAL = {"qwen3": ("<think>", "</think>", "<tool_call>", "</tool_call>")}
_NAMED_TOKENS = {
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "qwen3": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "gemma3": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
}

# How Qwen and Llama 3 cut text into words. It has to be the real expression: AutoTokenizer builds some families'
# tokenizers with their own normaliser and words, whatever the saved file says.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiny_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """A small tokenizer in the style of a family; any text survives encoding and decoding.

    Args:
        family: one of `TINY_FAMILIES`.

    Returns:
        A new tokenizer of about 500 tokens, the same one every time. GPT-2, Llama and Qwen are byte-level BPE, Gemma
        and Mistral BPE over characters that falls back to bytes, as their real counterparts are.

    Raises:
        InputError: the family is not one of `TINY_FAMILIES`.
    """
    _check_family(family)
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer(family)),
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=False,
        **_NAMED_TOKENS[family],
    )
    not_special = _ADDED_TOKENS_NOT_SPECIAL.get(family, ())
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in not_special])
    tokenizer.chat_template = CHAT_TEMPLATES[family]
    return tokenizer


def tiny_backbone(family: str, seed: int = 0) -> PreTrainedModel:
    """A random two-layer causal language model of a family, in float32 and in evaluation mode.

    Args:
        family: one of `TINY_FAMILIES`.
        seed: the weights follow from the family and the seed alone; torch's global generator is left as it was.

    Raises:
        InputError: the family is not one of `TINY_FAMILIES`.
    """
    _check_family(family)
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    tokenizer = tiny_tokenizer(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_tiny_config(family, len(tokenizer)), dtype=torch.float32)
    end: Any = tokenizer.eos_token_id
    if family == "gemma3":
        end = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval()


def save_tiny_backbone(folder: str | Path, family: str, seed: int = 0) -> Path:
    """Writes a tiny backbone and its tokenizer as an ordinary checkpoint, usable wherever a backbone is named."""
    folder = Path(folder)
    tiny_backbone(family, seed).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    return folder


def _check_family(family: str) -> None:
    if family not in TINY_FAMILIES:
        raise InputError(f"`family` must be one of {', '.join(TINY_FAMILIES)}, got {family!r}.")


def _tiny_config(family: str, vocabulary: int) -> Any:
    from transformers import AutoConfig

    tokenizer = tiny_tokenizer(family)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "gpt2":
        size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": _CONTEXT}
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return AutoConfig.for_model(
            "gpt2", vocab_size=vocabulary, initializer_range=_STANDARD_DEVIATION, **size, **no_dropout, **ids
        )
    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": _CONTEXT,
    }
    habits: dict[str, dict[str, Any]] = {
        "qwen2": {"tie_word_embeddings": False},
        "qwen3": {"tie_word_embeddings": True, "head_dim": 8},
        "llama": {"tie_word_embeddings": True},
        "gemma3": {
            "tie_word_embeddings": True,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "mistral": {"tie_word_embeddings": False, "sliding_window": 32},
    }
    return AutoConfig.for_model(
        "gemma3_text" if family == "gemma3" else family,
        vocab_size=vocabulary,
        initializer_range=_STANDARD_DEVIATION,
        **size,
        **habits[family],
        **ids,
    )


@cache
def _trained_tokenizer(family: str) -> str:
    """The tokenizer of a family as JSON; training takes some milliseconds and is done once per process."""
    return (_sentencepiece_style if family in ("gemma3", "mistral") else _byte_level)(family).to_str()


def _byte_level(family: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    if family == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        words = pre_tokenizers.Split(Regex(_WORDS.replace("DIGITS", "{1,3}" if family == "llama" else "")), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    if family in ("qwen2", "qwen3"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL_TOKENS[family]),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if family == "llama":
        first = "<|begin_of_text|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    return tokenizer


def _sentencepiece_style(family: str) -> Any:
    import json

    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    control = list(_SPECIAL_TOKENS[family])
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    spaces = normalizers.Replace(" ", "▁")
    prefix_space = family == "mistral"

    draft = Tokenizer(models.BPE())
    draft.normalizer = spaces
    draft.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    draft.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=_VOCABULARY - 256, show_progress=False))
    learned = json.loads(draft.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)

    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate([*control, *byte_tokens, *pieces])},
            merges=[tuple(merge) for merge in learned["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix_space else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix_space else steps)
    first = "<s>" if family == "mistral" else "<bos>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, tokenizer.token_to_id(first))]
    )
    return tokenizer
