"""Tokenizers with chat templates of many styles: what a prompt must stay whole in, whatever people write."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mf_llm.models.backbones import DEFAULT_BACKBONE
from mf_llm.models.tiny import TINY_FAMILIES, tiny_tokenizer
from mf_llm.models.tiny_templates import CORPUS
from mf_llm.models.wheel_backbones import WHEEL_BACKBONES

_DATE = "{{- bos_token + 'Today is ' + strftime_now('%d %b %Y') + '\\n' }}"
_CLOSED = "{%- if add_generation_prompt %}{{- OPENING }}{%- endif %}"


def _turns(before: str, after: str, opening: str, end: str = "") -> str:
    """A template of turns ``before + content + after``; `before` and `opening` are expressions of Jinja."""
    return (
        (
            "{%- for m in messages %}{%- if m['role'] == 'assistant' and END %}{{- OPENING + m['content'] + END }}"
            "{%- else %}{{- BEFORE + m['content'] + AFTER }}{%- endif %}{%- endfor %}" + _CLOSED
        )
        .replace("BEFORE", before)
        .replace("AFTER", after)
        .replace("OPENING", opening)
        .replace("END", end or after)
    )


_NO_SYSTEM = "{%- if messages[0]['role'] == 'system' %}{{- raise_exception('no system') }}{%- endif %}"
_LLAMA_2 = (
    "{%- set s = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{%- set s = s if messages[0]['role'] == 'system' else '' %}"
    "{%- for m in messages if m['role'] != 'system' %}{%- if m['role'] == 'user' %}"
    "{{- bos_token + '[INST] ' + s + m['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m['content'] + ' ' + eos_token }}{%- endif %}{%- endfor %}"
)
_DEEPSEEK = "{{- bos_token }}" + _turns(
    "('' if m['role'] == 'system' else '<｜User｜>')", "''", "'<｜Assistant｜></think>'", "'<｜end▁of▁sentence｜>'"
)
_PHI_3 = _turns("'<|' + m['role'] + '|>\\n'", "'<|end|>\\n'", "'<|assistant|>\\n'")
_PHI_4 = _turns("'<|im_start|>' + m['role'] + '<|im_sep|>'", "'<|im_end|>'", "'<|im_start|>assistant<|im_sep|>'")
_ZEPHYR = _turns("'<|' + m['role'] + '|>\\n'", "eos_token + '\\n'", "'<|assistant|>\\n'")
_VICUNA = _turns("'' if m['role'] == 'system' else 'USER: '", "' '", "'ASSISTANT: '", "eos_token")
_ALPACA = _turns(
    "'' if m['role'] == 'system' else '### Instruction:\\n'", "'\\n\\n'", "'### Response:\\n'", "eos_token"
)


def _changed(family: str, template: str | None, tokens: tuple[AddedToken | str, ...] = (), **named: str) -> Any:
    tokenizer = tiny_tokenizer(family)
    added = [token if isinstance(token, AddedToken) else _control(token) for token in tokens]
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_tokens([token for token in added if token.special], special_tokens=True)
    for name, token in named.items():
        setattr(tokenizer, name, token)
    tokenizer.chat_template = template
    return tokenizer


def _control(content: str, **habits: bool) -> AddedToken:
    return AddedToken(content, **{"special": True, "normalized": False} | habits)


def _normalising() -> PreTrainedTokenizerBase:
    """Unigram over NFKC without invisible characters: signs that look alike become those of its marks."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex("[\u200b-\u200f\u2060\ufeff]"), ""), normalizers.NFKC()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted({*map(chr, range(33, 127)), *"é你好，。\n"})
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=4096
    )
    made.add_tokens(
        [_control("<think>", special=False, normalized=True), _control("a/c", special=False, normalized=True)]
    )
    made.add_tokens([_control("<|turn|>", normalized=True)], special_tokens=True)
    made.chat_template = _turns("'<|turn|>' + m['role'] + '\\n[INST]'", "'[/INST]</s>'", "'<|turn|>assistant\\n'")
    return made


# Control tokens of one character have no other spelling: they are left out of texts.
ONE_CHARACTER = ("␄", "&")
# Control tokens with habits: they take spaces along, stand in words alone, begin others, are one character.
_ODD = (
    _control("<sep>", lstrip=True, rstrip=True),
    _control("<word>", single_word=True, special=False),
    _control("<ab", special=False),
    _control("<abc>", special=False),
    *(_control(sign, special=False) for sign in ONE_CHARACTER),
    _control("turn over", special=False),
    _control("<tool_call>", special=False, normalized=True),
)
_BARS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
_THINKING = (_control("<think>", special=False), _control("</think>", special=False))
_PHI_TOKENS = tuple(_control(f"<|{name}|>", rstrip=True) for name in ("system", "user", "assistant", "end"))

STYLES: dict[str, Any] = {
    "qwen2": None,  # ChatML
    "qwen3": None,  # ChatML with thinking
    "llama": None,  # headers, and a date that may be given
    "gemma3": None,  # start_of_turn, no system role
    "mistral": None,  # [INST] as a token, no system role
    "gpt2": None,  # no template
    "llama-2": lambda: _changed("mistral", _LLAMA_2),
    "llama-2 in ordinary tokens": lambda: _changed("gpt2", _LLAMA_2),
    "phi-3": lambda: _changed("mistral", _PHI_3, _PHI_TOKENS, eos_token="<|end|>"),
    "phi-4": lambda: _changed("qwen2", _PHI_4, ("<|im_sep|>",)),
    "deepseek": lambda: _changed(
        "gpt2", _DEEPSEEK, (*map(_control, _BARS), *_THINKING), bos_token=_BARS[0], eos_token=_BARS[1]
    ),
    "a date from the clock": lambda: _changed("llama", _DATE + _PHI_3, ("<|end|>",), eos_token="<|end|>"),
    "zephyr": lambda: _changed("mistral", _ZEPHYR),
    "vicuna": lambda: _changed("mistral", _NO_SYSTEM + _VICUNA),
    "alpaca": lambda: _changed("gpt2", _ALPACA),
    "a base model with a first token": lambda: _changed("gemma3", None),
    "normalising": _normalising,
    "odd tokens": lambda: _changed("qwen3", _PHI_4, ("<|im_sep|>", *_ODD)),
}
# Turn marks that a template spells in ordinary tokens of its tokenizer.
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
ORDINARY_MARKS = {
    "llama-2": ("<<SYS>>", "<</SYS>>"),
    "llama-2 in ordinary tokens": ("<<SYS>>", "<</SYS>>", "[INST]", "[/INST]"),
    "a date from the clock": _ROLES,
    "zephyr": _ROLES,
    "vicuna": ("USER:", "ASSISTANT:"),
    "alpaca": ("### Instruction:", "### Response:"),
    "normalising": ("[INST]", "[/INST]"),
}


def has_default_backbone() -> bool:
    """Whether the real default backbone's tokenizer is here."""
    return WHEEL_BACKBONES[DEFAULT_BACKBONE].converted_folder() is not None


@cache
def tokenizer_of(style: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a style; not to be changed."""
    if style == DEFAULT_BACKBONE:
        return AutoTokenizer.from_pretrained(WHEEL_BACKBONES[DEFAULT_BACKBONE].converted_folder())
    return tiny_tokenizer(style) if style in TINY_FAMILIES else STYLES[style]()
