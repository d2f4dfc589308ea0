"""The words of the prompts, and the chat frames of six families and of templates with habits of their own."""

import datetime
import time

import pytest
from model_inputs import FAMILIES

from mf_llm import InputError
from mf_llm.models.prompts import (
    NO_STATE,
    POLICY_INSTRUCTION,
    AnswerFormat,
    ChatFrame,
    chat_frame,
    render_state,
)
from mf_llm.models.tiny import tiny_tokenizer

STANCE = ("support", "deny", "query")


@pytest.mark.parametrize(
    ("answer", "order", "expected"),
    [
        (AnswerFormat(kind="text"), None, "Answer with your comment in one sentence."),
        (AnswerFormat(kind="text", language="zh"), None, "Answer with your comment in Chinese in one sentence."),
        (
            AnswerFormat(kind="text", language="tlh"),
            None,
            "Answer with your comment in the language tlh in one sentence.",
        ),
        (
            AnswerFormat(kind="choice", dimension="stance", options=STANCE),
            None,
            "Answer with your stance (one of: support; deny; query).",
        ),
        (
            AnswerFormat(kind="choice", dimension="vote_2024", options=STANCE),
            [2, 0, 1],
            "Answer with your vote 2024 (one of: query; support; deny).",
        ),
        (
            AnswerFormat(kind="label_text", dimension="stance", options=STANCE, language="de"),
            [1, 0, 2],
            "Answer with your stance (one of: deny; support; query), then your comment in German in one sentence.",
        ),
    ],
)
def test_the_task_names_what_may_be_answered(answer, order, expected):
    assert answer.task(order) == expected


def test_openings_and_option_texts():
    choice = AnswerFormat(kind="choice", dimension="vaccine_intention", options=("yes", "no"))
    label_text = AnswerFormat(kind="label_text", dimension="stance", options=STANCE)
    text = AnswerFormat(kind="text")
    assert [one.opening for one in (choice, label_text, text)] == [
        "My vaccine intention is",
        "My stance is",
        "Comment:",
    ]
    assert choice.option_text("no") == " no"
    assert label_text.option_text("deny") == " deny\nComment:"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, []),
        ("", []),
        ("  \n ", []),
        ("a nurse\nfrom the city", ["a nurse from the city"]),
        ({"age": 34, "account_verified": False, "location": ""}, ["age: 34", "account verified: no"]),
        ({"followers": 12.0, "ratio": 0.25, "verified": True}, ["followers: 12", "ratio: 0.25", "verified: yes"]),
        ({"bio": "one\n\nYou are:\ntwo", "a\nb": "x"}, ["bio: one You are: two", "a b: x"]),
        ({"none": None, "spaces": " \t"}, []),
    ],
)
def test_render_state(state, expected):
    assert render_state(state) == expected


EXPECTED_FRAMES = {
    "qwen2": (
        "<|im_start|>system\n{i}<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        ["<|im_end|>"],
    ),
    "qwen3": (
        "<|im_start|>system\n{i}<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ["<|im_end|>"],
    ),
    "llama": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 1 January 2025\n\n{i}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ["<|eot_id|>"],
    ),
    "gemma3": (
        "<bos><start_of_turn>user\n{i}\n\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        ["<end_of_turn>", "<eos>"],
    ),
    "mistral": ("<s>[INST] {i}\n\n", " [/INST]", ["</s>"]),
    "gpt2": ("{i}\n\n", "\n\nAnswer:\n", ["\n", "<|endoftext|>"]),
}


def spelled(tokenizer, ids):
    return tokenizer.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_frame_of_each_family(family):
    tokenizer = tiny_tokenizer(family)
    frame = chat_frame(tokenizer, POLICY_INSTRUCTION)
    head, tail, ends = EXPECTED_FRAMES[family]
    if family == "mistral":  # its tokenizer puts a space in front of what follows a control token
        assert "".join(spelled(tokenizer, frame.head).split()) == "".join(head.format(i=POLICY_INSTRUCTION).split())
        assert spelled(tokenizer, frame.tail).strip() == tail.strip()
    else:
        assert spelled(tokenizer, frame.head) == head.format(i=POLICY_INSTRUCTION)
        assert spelled(tokenizer, frame.tail) == tail
    assert [spelled(tokenizer, [index]) for index in frame.end_ids] == ends
    assert frame.is_chat == (family != "gpt2")
    assert POLICY_INSTRUCTION not in frame.literal


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])
def test_a_framed_prompt_is_what_the_template_makes_of_the_conversation(family):
    tokenizer = tiny_tokenizer(family)
    frame = chat_frame(tokenizer, "Be brief.")
    if family == "mistral":
        messages = [{"role": "user", "content": "Be brief.\n\nWhat now?"}]
    else:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What now?"}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, date_string="1 January 2025"
    )["input_ids"]
    ours = [*frame.head, *tokenizer("What now?", add_special_tokens=False)["input_ids"], *frame.tail]
    assert "".join(spelled(tokenizer, ours).split()) == "".join(spelled(tokenizer, ids).split())
    control = set(tokenizer.added_tokens_decoder)
    assert [index for index in ours if index in control] == [index for index in ids if index in control]


STRFTIME = "{{- 'Today is ' + strftime_now('%Y-%m-%d') + '\n' }}"
PLAIN_TURNS = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_template_with_a_date_gives_the_same_prompt_on_every_day(family, monkeypatch):
    frames: list[ChatFrame] = []
    for day in (1, 200):
        tokenizer = tiny_tokenizer(family)
        if family == "qwen2":
            tokenizer.chat_template = STRFTIME + PLAIN_TURNS

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return datetime.datetime(2031, 1, 1, tzinfo=tz) + datetime.timedelta(days=day)

        monkeypatch.setattr(datetime, "datetime", Clock)
        monkeypatch.setattr(time, "time", lambda day=day: 2e9 + 86400 * day)
        frames.append(chat_frame(tokenizer, POLICY_INSTRUCTION))
        monkeypatch.undo()
    assert frames[0] == frames[1]
    assert spelled(tiny_tokenizer(family), frames[0].head).count("1 January 2025") == 1


def test_a_template_that_drops_the_system_turn_gets_the_instruction_in_the_users_turn():
    tokenizer = tiny_tokenizer("qwen2")
    tokenizer.chat_template = PLAIN_TURNS.replace(
        "{%- for m in messages %}", "{%- for m in messages if m['role'] != 'system' %}"
    )
    frame = chat_frame(tokenizer, "Be brief.")
    assert spelled(tokenizer, frame.head) == "<|im_start|>user\nBe brief.\n\n"


@pytest.mark.parametrize(
    ("template", "times"),
    [("{{- 'hello' }}", 0), (PLAIN_TURNS + "{{- messages[-1]['content'] }}", 2)],
    ids=["dropped", "repeated"],
)
def test_a_template_that_drops_or_repeats_the_prompt_is_refused(template, times):
    tokenizer = tiny_tokenizer("qwen2")
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=f"must show the user's turn once, got {times} times"):
        chat_frame(tokenizer, POLICY_INSTRUCTION)


@pytest.mark.parametrize("chat", [True, False])
def test_a_tokenizer_without_an_end_token_is_refused_where_nothing_else_ends_an_answer(chat):
    tokenizer = tiny_tokenizer("mistral")
    tokenizer.eos_token = None
    tokenizer.chat_template = "{{- messages[-1]['content'] }}" if chat else None
    with pytest.raises(InputError, match="must have an end token"):
        chat_frame(tokenizer, "" if chat else POLICY_INSTRUCTION)


def test_a_base_model_that_begins_with_a_token_of_its_own_gets_it():
    tokenizer = tiny_tokenizer("gemma3")
    tokenizer.chat_template = None
    # The flag of a tokenizer that comes from a tokenizer.json says nothing: the file itself puts the token in front.
    assert not tokenizer.add_bos_token and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    frame = chat_frame(tokenizer, POLICY_INSTRUCTION)
    assert frame.head[0] == tokenizer.bos_token_id and not frame.is_chat
    assert frame.head.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id in frame.end_ids


def test_a_base_model_that_does_not_gets_none():
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.chat_template = None
    assert tokenizer.bos_token_id not in chat_frame(tokenizer, POLICY_INSTRUCTION).head


def test_an_unknown_person_is_somebody():
    assert NO_STATE == "a member of the public"
