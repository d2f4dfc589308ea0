"""Option probabilities out of letters, and what is read out of replies."""

import json
import math

import numpy as np
import pytest

from mf_llm.endpoints.chat import ChatReply, TokenLogprob
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation.engines.chat_answers import matching_option, read_json, read_text
from mf_llm.simulation.engines.chat_prompts import asked_for
from mf_llm.simulation.engines.letters import option_probabilities

STANCE = AnswerFormat(kind="label_text", dimension="stance", options=("support", "deny", "query"))


def token(text, **top) -> TokenLogprob:
    return TokenLogprob(text, tuple((name, math.log(p)) for name, p in (top or {text: 1.0}).items()))


def test_letters_in_the_order_of_the_list_become_options_in_their_own():
    p, mass = option_probabilities([token("A", A=0.6, B=0.2, C=0.1, The=0.05)], [2, 0, 1])
    assert p == pytest.approx(np.array([0.2, 0.1, 0.6]) / 0.9) and mass == pytest.approx(0.9)


def test_spellings_of_one_letter_count_together_and_other_words_do_not():
    first = TokenLogprob("A", tuple((t, math.log(v)) for t, v in [("A", 0.4), (" A", 0.1), ("B)", 0.2), ("a", 0.2)]))
    p, mass = option_probabilities([first], [0, 1])
    assert p == pytest.approx([0.5 / 0.7, 0.2 / 0.7]) and mass == pytest.approx(0.7)


def test_a_letter_that_is_not_told_gets_the_bound():
    p, mass = option_probabilities([token("A", A=0.9, x=0.04, y=0.02)], [0, 1, 2])
    assert p == pytest.approx(np.array([0.9, 0.02, 0.02]) / 0.94) and mass == pytest.approx(0.9)


def test_no_letter_is_no_reading():
    assert option_probabilities([token("The", The=0.9, I=0.1)], [0, 1]) == (None, 0.0)
    assert option_probabilities([token("D", D=0.9)], [0, 1]) == (None, 0.0)
    assert option_probabilities([token("\n")], [0, 1]) == (None, 0.0)


def test_blanks_and_reasoning_in_front_are_skipped():
    tokens = [token("<think>"), token("A", A=1.0), token("</"), token("think"), token(">"), token("\n\n")]
    p, mass = option_probabilities([*tokens, token("B", A=0.25, B=0.75)], [0, 1])
    assert p == pytest.approx([0.25, 0.75]) and mass == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("content", "cut", "expected"),
    [
        ('{"label": "deny", "text": "No."}', False, ({"label": "deny", "text": "No."}, None)),
        ('{"label": "Deny", "text": " No\\nway "}', False, ({"label": "deny", "text": "No way"}, None)),
        ('Sure: ```json\n{"text": "No.", "label": "deny"}\n```', True, ({"label": "deny", "text": "No."}, None)),
        (
            '<think>{"label": "query", "text": "x"}</think>{"label": "deny", "text": ""}',
            False,
            ({"label": "deny", "text": ""}, None),
        ),
        ('{"label": "deny"}', False, (None, "invalid_answer")),
        ('{"label": 1, "text": "No."}', False, (None, "invalid_answer")),
        ('{"label": "maybe", "text": "No."}', False, (None, "invalid_option")),
        ('{"label": "deny", "text": "No', False, (None, "invalid_answer")),
        ('{"label": "deny", "text": "No', True, (None, "truncated")),
        ("<think>so long", True, (None, "truncated")),
        ("deny: No.", False, (None, "invalid_answer")),
        ("  ", False, (None, "empty_answer")),
    ],
)
def test_a_label_with_a_text(content, cut, expected):
    assert read_json(asked_for(STANCE, ("label", "text")), ChatReply(content=content, cut=cut)) == expected


@pytest.mark.parametrize(
    ("fields", "content", "cut", "expected"),
    [
        (("text",), "It is closed again.", False, ({"text": "It is closed again."}, None)),
        (("text",), "It is closed aga", True, (None, "truncated")),
        (("text",), '{"text": "It is clo', False, (None, "invalid_answer")),
        (("label",), " Deny\n", False, ({"label": "deny"}, None)),
        (("label",), "I deny and support it.", False, (None, "invalid_option")),
    ],
)
def test_one_thing_without_json(fields, content, cut, expected):
    assert read_json(asked_for(STANCE, fields), ChatReply(content=content, cut=cut)) == expected


def test_free_text_without_words_is_none_and_a_signal_may_be_cut():
    text = asked_for(AnswerFormat(kind="text"), ("text",))
    assert read_json(text, ChatReply(content=json.dumps({"text": " "}), cut=False)) == (None, "empty_text")
    assert read_text(ChatReply(content="Most deny\nit and", cut=True)) == ({"text": "Most deny it and"}, None)
    assert read_text(ChatReply(content="<think>Most deny", cut=True)) == (None, "truncated")
    assert read_text(ChatReply(content="", cut=False)) == (None, "empty_text")


def test_an_option_is_meant_by_one_spelling_only():
    assert matching_option("Not_Sure", ("not sure", "sure")) == "not sure"
    assert matching_option("a-b", ("a b", "a_b")) is None and matching_option("a_b", ("a b", "a_b")) == "a_b"
