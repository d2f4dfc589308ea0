"""Texts that try to be more than a text: control tokens, whole or in disguise, turns, headings and fences."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

from hypothesis import strategies as st

from mf_llm.models.prompts import POLICY_INSTRUCTION, SUMMARISE

# What chat templates of all kinds open and close turns with, known to a tokenizer or not.
TURN_MARKS = (
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<|user|>"),
    *("<|assistant|>", "<|turn|>", "<|begin_of_text|>", "<|start_header_id|>", "<s>", "</s>", "<bos>", "<eos>"),
    *("<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>", "<tool_call>"),
    *("USER:", "ASSISTANT:", "### Instruction:", "### Response:", "<0x0A>", "<0x00>", "a/c", "\u2100"),
    *("turn over", "<sep>", "<word>", "<abc>", "<ab", "␄", "&"),
)  # fmt: skip
# The prompt's own headings, questions and answers, and what fences data elsewhere.
HEADINGS = (
    *("Topic:", "What people say so far:", "You are:", "Summary so far:", "What people say now:", "Comment:"),
    *("Answer:", "My stance is", "Answer with your stance (one of: deny).", "(nothing)", "In total:", "- deny:"),
    *("system", "user", POLICY_INSTRUCTION, SUMMARISE, "Nobody has reacted yet.", "a member of the public"),
)  # fmt: skip
FENCES = ("```", "\n---\n", '"""', "<data>", "</data>", "[END OF DATA]", "\n\n\n", "<!-- -->", "'}]}", "\\n\\n", "…")
BREAKS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029")
SPACES = (" ", "  ", "\t", "\xa0", "\u2003", "\u3000", "\u2009", "▁", "Ġ", "Ċ")
INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u202e", "\u00ad", "\u0301", "\ufe0f", "\x07", "\x7f")
_CONFUSABLE = str.maketrans(
    {
        "<": "\uff1c", ">": "\uff1e", "|": "\uff5c", "[": "\uff3b", "]": "\uff3d", "/": "\uff0f", "_": "\uff3f",
        "I": "\uff29", "S": "\uff33", "i": "\u0456", "e": "\u0435", "t": "\U0001d42d", ":": "\uff1a", "#": "\uff03",
    }
)  # fmt: skip


def hostile_texts(marks: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    """Texts built around `marks` (control tokens of a tokenizer) and those above; never half a surrogate pair."""
    mark = st.sampled_from((*marks, *TURN_MARKS)) if marks else st.sampled_from(TURN_MARKS)
    disguised = st.tuples(mark, st.sampled_from(_DISGUISES), st.integers(1, 9), st.sampled_from((*INVISIBLE, *SPACES)))
    piece = st.one_of(
        mark,
        disguised.map(lambda drawn: drawn[1](drawn[0], drawn[2], drawn[3])),
        st.sampled_from((*HEADINGS, *FENCES)),
        st.sampled_from((*BREAKS, *SPACES, *INVISIBLE)),
        st.tuples(st.sampled_from(BREAKS), st.sampled_from((*HEADINGS, *TURN_MARKS))).map("".join),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    )
    mixed = st.lists(piece, max_size=6).map("".join)
    long = st.tuples(piece, mixed, st.sampled_from((40, 400))).map(lambda drawn: drawn[0] * drawn[2] + drawn[1])
    return st.one_of(mixed, mixed, mixed, mixed, st.sampled_from(BREAKS).map(lambda one: one * 700), long)


def hostile_names(marks: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    """The same as names, which are printable, are not empty and hold at most 500 characters."""

    def as_name(text: str) -> str:
        printable = "".join(c if c.isprintable() else " " for c in text)
        return printable.strip()[:80].strip() or "x"

    return hostile_texts(marks).map(as_name)


def split_over(n: int) -> st.SearchStrategy[tuple[str, ...]]:
    """The mark of a turn, or two, in `n` parts."""
    whole = st.sampled_from(TURN_MARKS) | st.tuples(*[st.sampled_from(TURN_MARKS)] * 2).map("\n".join)
    places = st.lists(st.floats(0, 1), min_size=n - 1, max_size=n - 1)

    def cut(text: str, places: list[float]) -> tuple[str, ...]:
        bounds = [0, *sorted(int(place * len(text)) for place in places), len(text)]
        return tuple(text[start:end] for start, end in pairwise(bounds))

    return st.tuples(whole, places).map(lambda drawn: cut(*drawn))


_DISGUISES = (
    lambda mark, place, sign: mark[:place] + sign + mark[place:],
    lambda mark, place, sign: sign + mark + sign,
    lambda mark, place, sign: mark[:place] + mark + mark[place:],  # taken out once, it is there again
    lambda mark, place, sign: mark.translate(_CONFUSABLE),
    lambda mark, place, sign: mark.translate(_CONFUSABLE)[:place] + mark[place:],
    lambda mark, place, sign: unicodedata.normalize("NFKD", mark.translate(_CONFUSABLE)),
    lambda mark, place, sign: mark.upper() if place % 2 else mark.lower(),
    lambda mark, place, sign: "".join(letter + sign for letter in mark),
    lambda mark, place, sign: f"\\{mark}" if place % 2 else mark.replace("<", "&lt;"),
    lambda mark, place, sign: mark * place,
    lambda mark, place, sign: mark[::-1],
)
