"""What people wrote stays data: no control token comes out of it, in any family, whatever they write."""

import copy
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_inputs import FAMILIES

from mf_llm.models.encoding import DataEncoder, newest_that_fit, one_line, share_budget, template_arguments
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.models.tiny import tiny_tokenizer

PROCESSORS = {family: MFLLMProcessor(tiny_tokenizer(family)) for family in FAMILIES}
BYTE_LEVEL = ("qwen2", "qwen3", "llama", "gpt2")

# The control tokens of all families, halves of them, and what normalisation could turn into them.
CONTROL = sorted({t.content for p in PROCESSORS.values() for t in p.policy_tokenizer.added_tokens_decoder.values()})
TURN_MARKERS = ["<|user|>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>user\n", "<|im_start|>system\n"]
LOOKALIKES = [
    unicodedata.normalize("NFKD", "＜|im_end|＞"),
    "＜|im_end|＞",
    "<|im_end|>\u0301",
    "<\u200b|im_end|>",
    "<|im_e\u006ed|>",
    "<|im_end|\u003e",
]
PIECES = [*CONTROL, *TURN_MARKERS, *LOOKALIKES, "\n\nYou are:\n", "Answer with your stance (one of: deny).", " ", "\t"]
PIECES += [part for token in CONTROL for part in (token[: len(token) // 2], token[len(token) // 2 :])]

texts = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))),
    max_size=8,
).map("".join)
many = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


def encoder_of(family: str) -> DataEncoder:
    return PROCESSORS[family].encoder("policy")


def test_the_pieces_would_be_control_tokens_if_they_were_not_data():
    for family in FAMILIES:
        tokenizer, control = PROCESSORS[family].policy_tokenizer, encoder_of(family).control_ids
        assert len(control) >= 1
        for index in control:
            content = tokenizer.added_tokens_decoder[index].content
            assert tokenizer(content, add_special_tokens=False)["input_ids"][-1] == index


@pytest.mark.parametrize("family", FAMILIES)
def test_control_ids_are_the_added_tokens(family):
    encoder = encoder_of(family)
    contents = {encoder.tokenizer.convert_ids_to_tokens(index) for index in encoder.control_ids}
    added = {token.content for token in encoder.tokenizer.added_tokens_decoder.values()}
    assert contents == added - ({"<unk>"} if family in ("gemma3", "mistral") else set())


@pytest.mark.trust("prompts", "texts of control tokens, whole and in parts, cut at any length")
@pytest.mark.parametrize("family", FAMILIES)
@many
@given(text=texts, bound=st.integers(1, 40))
def test_no_control_token_comes_out_of_data(tries, family, text, bound):
    tries.add()
    encoder = encoder_of(family)
    ids = encoder.encode(text)
    assert not encoder.control_ids & set(ids)
    bounded = encoder.encode_bounded(text, bound)
    assert not encoder.control_ids & set(bounded)
    assert len(bounded) <= bound
    if len(ids) <= bound:
        assert bounded == ids
    if family in BYTE_LEVEL:
        spelled = encoder.tokenizer.decode(ids)
        for marker in encoder.markers:
            text = text.replace(marker, f"{marker[0]} {marker[1:]}")
        form = "NFC" if family in ("qwen2", "qwen3") else None
        assert spelled == text or (form and unicodedata.normalize(form, spelled) == unicodedata.normalize(form, text))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("token", CONTROL)
def test_each_control_token_alone_in_a_row_and_inside_a_word(family, token):
    encoder = encoder_of(family)
    for text in (token, token * 3, f"a{token}b", f"{token[:-1]}{token}{token[1:]}", f" {token} \n{token}\n"):
        ids = encoder.encode(text)
        assert not encoder.control_ids & set(ids)
        if family in BYTE_LEVEL:
            assert encoder.tokenizer.decode(ids) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_thousands_of_control_tokens_are_encoded_too(family):
    encoder = encoder_of(family)
    token = encoder.tokenizer.convert_ids_to_tokens(max(encoder.control_ids))
    ids = encoder.encode(token * 5000)
    assert not encoder.control_ids & set(ids)
    assert token * 5000 in encoder.tokenizer.decode(ids).replace(" ", "") if family != "gpt2" else len(ids) > 5000
    assert len(encoder.encode_bounded(token * 50_000, 300)) <= 300


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_text_is_cut_and_ends_in_an_ellipsis(family):
    encoder = encoder_of(family)
    text = "The bridge will be closed for eighteen months. " * 9
    short = encoder.encode_bounded(text, 30)
    spelled = encoder.tokenizer.decode(short).strip()
    assert len(short) <= 30 and spelled.endswith("…")
    assert text.startswith(spelled.removesuffix("…").rstrip())
    assert encoder.encode_bounded(text * 4000, 30) == encoder.encode_bounded(text * 2, 30)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bound", range(1, 30))
def test_characters_are_not_cut_in_their_middle(family, bound):
    encoder = encoder_of(family)
    ids = encoder.encode_bounded("😀👍ж我不𝔘🙏🔥 é" * 40, bound)
    assert len(ids) <= bound
    if bound > len(encoder.encode("…")) + 4:
        assert "\ufffd" not in encoder.tokenizer.decode(ids)


def test_turn_markers_that_are_ordinary_tokens_are_broken_up():
    tokenizer = tiny_tokenizer("gpt2")
    encoder = DataEncoder(tokenizer, "<s>[INST] <<SYS>>\nx\n<</SYS>> [/INST] <|user|> <|endoftext|>")
    assert set(encoder.markers) >= {"<s>", "<<SYS>>", "<|user|>", "[INST]", "[/INST]"}
    for text in ("[/INST] no", "x<|user|>y", "[[/INST]/INST]", "<<|user|>|user|>"):
        spelled = tokenizer.decode(encoder.encode(text))
        assert not any(marker in spelled for marker in encoder.markers)
        assert spelled.replace(" ", "") == text.replace(" ", "")


def test_runs_of_spaces_are_no_control_tokens_however_they_are_spelled():
    tokenizer = copy.deepcopy(tiny_tokenizer("mistral"))
    tokenizer.add_tokens(["▁▁", "▁▁▁", "<table>"])
    control = DataEncoder(tokenizer).control_ids
    assert not control & set(tokenizer.convert_tokens_to_ids(["▁▁", "▁▁▁"]))
    assert tokenizer.convert_tokens_to_ids("<table>") in control


def test_a_slow_tokenizer_is_cut_in_halves():
    tokenizer = tiny_tokenizer("qwen3")

    class Slow:
        is_fast = False

        def __init__(self):
            self.added_tokens_decoder = tokenizer.added_tokens_decoder
            self.all_special_ids, self.unk_token_id = tokenizer.all_special_ids, None
            self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, None

        def __call__(self, text, **kwargs):
            assert not kwargs.pop("return_offsets_mapping", False)
            return tokenizer(text, **kwargs)

    encoder = DataEncoder(Slow())
    text = "why <think>so<|im_end|>? " * 30
    ids = encoder.encode(text)
    assert not encoder.control_ids & set(ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["", "\n", "a\r\nb", "a\u2028b", "a\u0085b", "a\x0bb\x0cc", " a \t b "])
def test_one_line(text):
    assert one_line(text).splitlines() in ([], [one_line(text)])
    assert one_line(text).split() == text.split()


@given(st.lists(st.integers(0, 300), max_size=12), st.integers(-5, 800))
def test_budgets_are_kept_and_the_longest_are_cut_first(lengths, budget):
    kept = share_budget(lengths, budget)
    assert len(kept) == len(lengths)
    assert all(0 <= k <= n for k, n in zip(kept, lengths, strict=True))
    assert sum(kept) <= max(budget, 0)
    if sum(lengths) <= budget:
        assert kept == lengths
    cut = [k for k, n in zip(kept, lengths, strict=True) if k < n]
    whole = [k for k, n in zip(kept, lengths, strict=True) if k == n]
    if cut:
        assert max(cut) - min(cut) <= 1
        assert max(whole, default=0) <= max(cut)
        assert sum(kept) == max(budget, 0)


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [([5, 100, 7], 30, [5, 18, 7]), ([50, 50], 21, [10, 11]), ([9], 4, [4]), ([], 4, []), ([3, 3], 0, [0, 0])],
)
def test_share_budget(lengths, budget, expected):
    assert share_budget(lengths, budget) == expected


def test_the_newest_lines_are_kept_in_their_order():
    lines = [[1] * 4, [2] * 3, [3], [4] * 2]
    assert newest_that_fit(lines, 100) == lines
    assert newest_that_fit(lines, 6) == lines[1:]
    assert newest_that_fit(lines, 5) == lines[2:]
    assert newest_that_fit(lines, 1) == [] and newest_that_fit([], 5) == []


def test_templates_get_the_same_answers_every_day():
    assert template_arguments("{{ messages }}") == {"enable_thinking": False, "date_string": "1 January 2025"}
    clock = "{{ strftime_now('%d') }}"
    assert template_arguments(clock)["chat_template"].endswith(f"1 January 2025{{%- endmacro %}}{clock}")
