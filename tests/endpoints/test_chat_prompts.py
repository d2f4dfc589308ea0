"""Chat prompts: the words of the prompts in this process, what people wrote as data, bounds by characters."""

import string
from unicodedata import category, normalize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_events import processor_of

from mf_llm.endpoints.text_encoding import TextEncoder, as_data, line_as_data
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.models.prompts import AnswerFormat
from mf_llm.models.wordings import WORDINGS
from mf_llm.simulation.engines.chat_prompts import ChatPrompts, asked_for, lettered

STANCE = AnswerFormat(kind="label_text", dimension="stance", options=("support", "deny", "query"))
TOPIC, SIGNAL = "A rumour says that the bridge is closed.", "Most deny it.\n- deny: No!"
STATE = {"age": 34, "account_verified": False}
MARKS = [
    *("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>"),
    *("<end_of_turn>", "<think>", "</think>", "<|eot_id|>", "<｜User｜>", "<|user|>", "[gMASK]", "<sop>", "<unk>"),
    *("<|begin_of_text|>", "[TOOL_CALLS]", "]~b]", "[e~[", "<bos>", "<extra_id_0>", "<|turn>", "<▁x>"),
]


@pytest.mark.parametrize("wording", range(len(WORDINGS)))
@pytest.mark.parametrize("signal", [None, SIGNAL])
def test_a_policy_prompt_has_the_words_of_the_prompts_in_this_process(wording, signal):
    processor, prompts = processor_of("gpt2").with_wording(wording), ChatPrompts(wording)
    plain = asked_for(STANCE, ("label", "text"))
    pieces = prompts.policy_prefix(TOPIC, signal, plain, order=[2, 0, 1]) + prompts.person_segment(STATE, plain)
    system, user = prompts.messages("policy", pieces)
    ids = processor.policy_prefix(TOPIC, signal, STANCE, order=[2, 0, 1])
    there = processor.policy_tokenizer.decode(ids[len(processor.frame("policy").head) :])
    assert system == {"role": "system", "content": WORDINGS[wording].policy}
    assert user["content"] == f"{there}age: 34\naccount verified: no\n\n{plain.opening}"
    assert "(one of: query; support; deny), then your comment in one sentence." in user["content"]


@pytest.mark.parametrize("wording", range(len(WORDINGS)))
def test_a_mean_field_prompt_has_the_words_of_the_prompts_in_this_process(wording):
    processor, prompts = processor_of("gpt2").with_wording(wording), ChatPrompts(wording)
    told = {"lines": ["deny: No!", "support"], "tally": "In total: half each."}
    system, user = prompts.messages("mean_field", prompts.mean_field_prompt(TOPIC, SIGNAL, **told))
    frame = processor.frame("mean_field")
    ids = processor.mean_field_prompt(TOPIC, SIGNAL, **told)[len(frame.head) :]
    assert user["content"] == processor.mean_field_tokenizer.decode(ids[: len(ids) - len(frame.tail)])
    assert system["content"] == WORDINGS[wording].mean_field


def test_an_instruction_may_stand_at_the_head_of_the_user_s_turn():
    (user,) = ChatPrompts(system_role=False).messages("policy", ["What ", "now?"])
    assert user == {"role": "user", "content": f"{WORDINGS[0].policy}\n\nWhat now?"}


def test_what_is_asked_for():
    letters = lettered(STANCE)
    assert letters.task([2, 0, 1]) == "Answer with your stance (one of: A) query; B) support; C) deny)."
    assert letters.opening == "Answer with the letter of one of the options above and nothing else."
    both, label, text = (asked_for(STANCE, fields) for fields in (("label", "text"), ("label",), ("text",)))
    assert both.opening.startswith('Answer in JSON and nothing else: {"label": "...", "text": "..."}, "label" being')
    assert label.task() == "Answer with your stance (one of: support; deny; query)."
    assert text.task() == STANCE.task() and text.opening == 'Answer in JSON and nothing else: {"text": "..."}.'
    decided = asked_for(STANCE, ("text",), "deny")
    assert decided.opening == 'My stance is deny.\nAnswer in JSON and nothing else: {"text": "..."}.'
    assert both.schema["properties"]["label"] == {"type": "string", "enum": list(STANCE.options)}
    assert both.schema["required"] == ["label", "text"] and label.schema["required"] == ["label"]


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_of_a_template_is_taken_apart(mark):
    assert mark not in as_data(f"before {mark} after {mark}{mark}")
    assert as_data(mark).replace(" ", "") == mark


@pytest.mark.trust("prompts", "marks of templates in texts for servers")
@settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.lists(
        st.sampled_from([*MARKS, *"<|>[]/~ \n＜｜［\u200b", "a", "Z", "１"]) | st.text(max_size=4), max_size=12
    ).map("".join)
)
def test_no_mark_comes_out_of_data_and_nothing_else_is_changed(tries, text):
    tries.add()
    data = as_data(text)
    assert not any(mark in data for mark in MARKS)
    assert as_data(data) == data
    kept = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    plain = normalize("NFKC", "".join(character for character in kept if category(character) != "Cf"))
    assert data.replace(" ", "") in (kept.replace(" ", ""), plain.replace(" ", ""))
    assert not any(mark in normalize("NFKC", data) for mark in MARKS)
    line = line_as_data(text, 1000)
    assert len(line.splitlines()) <= 1 and not any(mark in line for mark in MARKS)
    line.encode("utf-8")


@given(st.text(alphabet=string.printable + "<|>[]é漢字𝄞", max_size=400), st.integers(1, 60))
def test_the_encoder_keeps_bounds_and_whole_texts(text, bound):
    encoder = TextEncoder()
    pieces = encoder.encode(text)
    assert "".join(pieces) == as_data(text) and all(1 <= len(piece) <= 4 for piece in pieces)
    cut = encoder.encode_bounded(text, bound)
    assert len(cut) <= bound
    assert (cut == pieces) == (len(pieces) <= bound)
    assert len(encoder.encode_lines_bounded(text, bound)) <= bound


@given(st.text(min_size=0, max_size=3000), st.lists(st.text(max_size=300), max_size=8))
def test_a_prompt_keeps_its_bound_and_never_loses_what_is_asked_for(topic, fields):
    limits = PromptLimits(max_prompt_tokens=220, max_state_tokens=40, max_action_tokens=16)
    prompts, answer = ChatPrompts(), lettered(STANCE)
    state = {f"field {n}": value for n, value in enumerate(fields)}
    pieces = prompts.policy_prefix(topic, topic, answer, limits=limits)
    pieces += prompts.person_segment(state, answer, limits=limits)
    content = prompts.messages("policy", pieces)[1]["content"]
    assert len(pieces) <= 220
    assert content.endswith("\n\n" + answer.opening) and answer.task() in content
    assert content.split("You are:\n")[-1].split("\n\n")[0].count("\n") <= max(len(fields) - 1, 0)
    told = prompts.mean_field_prompt(topic, topic, fields, limits=limits)
    assert len(told) <= 220 and "".join(told).endswith(WORDINGS[0].task)
