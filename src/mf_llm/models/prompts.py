"""The words of the prompts, and the chat frame a tokenizer puts around them.

Order of a policy prompt: instruction, topic, signal, what may be answered, *then* the person, so that everybody in a
step shares one prefix. Every line that carries what people wrote is one line of the prompt and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mf_llm.errors import InputError
from mf_llm.models.encoding import one_line, template_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_VERSION = 1

# Kept short and concrete: a small backbone copies long instructions into its answers.
POLICY_INSTRUCTION = "You are a member of the public. You react to a topic as the person described would."
MEAN_FIELD_INSTRUCTION = "You summarise how people react to a topic. You use only what is given."
SUMMARISE = "Summarise in two short sentences what people think about the topic and how opinion is moving."
NO_SIGNAL_YET = "Nobody has reacted yet."
NO_STATE = "a member of the public"
TEXT_OPENING = "Comment:"

_LANGUAGES = {"zh": "Chinese", "es": "Spanish", "fr": "French", "de": "German", "pt": "Portuguese", "ja": "Japanese"}


@dataclass(frozen=True, kw_only=True)
class AnswerFormat:
    """What a person's action looks like.

    Attributes:
        kind: "text" (free text), "choice" (one of the options) or "label_text" (one of the options on the first
            line, then free text).
        dimension: name of the dimension the options belong to, or None for free text.
        options: its K categories (empty for free text).
        language: language code of what people write.
    """

    kind: str
    dimension: str | None = None
    options: tuple[str, ...] = ()
    language: str = "en"

    def task(self, order: Sequence[int] | None = None) -> str:
        """The part of the prompt that says what to answer.

        Examples:
            >>> AnswerFormat(kind="choice", dimension="vote", options=("yes", "no")).task(order=[1, 0])
            'Answer with your vote (one of: no; yes).'

        Args:
            order: the order in which the options are listed (a permutation of ``range(K)``).
        """
        if self.language in ("en", "", None):
            language = ""
        else:
            language = f" in {_LANGUAGES.get(self.language, 'the language ' + self.language)}"
        if self.kind == "text":
            return f"Answer with your comment{language} in one sentence."
        listed = "; ".join(self.options[i] for i in (order or range(len(self.options))))
        head = f"Answer with your {self.name} (one of: {listed})"
        return f"{head}." if self.kind == "choice" else f"{head}, then your comment{language} in one sentence."

    @property
    def name(self) -> str:
        """The dimension in words ("vaccine intention")."""
        return one_line(str(self.dimension).replace("_", " "))

    @property
    def opening(self) -> str:
        """The words every answer begins with; the option, or the text, follows."""
        # Half a sentence that the option completes: a small backbone is surer of that than of a form to fill in.
        return TEXT_OPENING if self.kind == "text" else f"My {self.name} is"

    def option_text(self, option: str) -> str:
        """What follows the opening when this option is answered, up to where the text begins."""
        return f" {option}\n{TEXT_OPENING}" if self.kind == "label_text" else f" {option}"


def render_state(state: Mapping[str, Any] | str) -> list[str]:
    """The profile as lines of text, one per field; empty fields are left out.

    Examples:
        >>> render_state({"age": 34, "account_verified": False, "location": ""})
        ['age: 34', 'account verified: no']
    """
    if isinstance(state, str):
        return [one_line(state)] if state.strip() else []
    lines = []
    for key, value in state.items():
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        text = one_line(str(value)) if value is not None else ""
        if text:
            lines.append(f"{one_line(str(key).replace('_', ' '))}: {text}")
    return lines


@dataclass(frozen=True)
class ChatFrame:
    """What stands before and after the content of the user's turn.

    Attributes:
        head: token ids up to the content (begin token, instruction, opening of the user's turn).
        tail: token ids after it, up to where the answer begins.
        end_ids: tokens at which an answer ends.
        literal: the template's own text, for `DataEncoder`.
        is_chat: False for a base model without a chat template.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    end_ids: tuple[int, ...]
    literal: str
    is_chat: bool


_CONTENT = "CONTENT-OF-THE-USER-TURN"
_ANSWER = "ANSWER-OF-THE-ASSISTANT"


def chat_frame(tokenizer: PreTrainedTokenizerBase, instruction: str) -> ChatFrame:
    """The frame that `tokenizer` puts around a prompt with this instruction.

    A template that refuses a system turn gets the instruction at the head of the user's turn. Without a chat
    template the prompt is plain text and the answer ends at the end of its line.

    Raises:
        InputError: if the template drops or repeats the content of the user's turn.
    """
    if not tokenizer.chat_template:
        return _plain_frame(tokenizer, instruction)
    rendered = _render(tokenizer, instruction, add_generation_prompt=True)
    if rendered.count(_CONTENT) != 1:
        raise InputError(
            f"The chat template of {tokenizer.name_or_path!r} must show the user's turn once, got "
            f"{rendered.count(_CONTENT)} times; prompts cannot be built with it; set another `chat_template`."
        )
    head, tail = rendered.split(_CONTENT)
    answered = _render(tokenizer, instruction, answer=True)
    after_answer = answered.split(_ANSWER)[-1] if _ANSWER in answered else ""
    closing = _ids(tokenizer, after_answer.lstrip())
    ends = dict.fromkeys(closing[:1] if closing and closing[0] in tokenizer.added_tokens_decoder else [])
    ends |= dict.fromkeys(index for index in [tokenizer.eos_token_id] if index is not None)
    if not ends:
        raise InputError(
            f"The tokenizer {tokenizer.name_or_path!r} must have an end token, got none; answers would never end; set "
            "`eos_token`."
        )
    literal = head.replace(instruction, "") + tail + after_answer
    return ChatFrame(tuple(_ids(tokenizer, head)), tuple(_ids(tokenizer, tail)), tuple(ends), literal, True)


def _plain_frame(tokenizer: PreTrainedTokenizerBase, instruction: str) -> ChatFrame:
    # What the tokenizer does, not its flag: one loaded from a tokenizer.json says False and puts the token in front.
    begin = [index for index in tokenizer("")["input_ids"] if index == tokenizer.bos_token_id]
    newline = _ids(tokenizer, "\n")
    ends = dict.fromkeys(index for index in [tokenizer.eos_token_id] if index is not None)
    if len(newline) == 1:
        ends = dict.fromkeys(newline) | ends
    if not ends:
        raise InputError(
            f"The tokenizer {tokenizer.name_or_path!r} must have an end token, got none; answers would never end; set "
            "`eos_token`."
        )
    head = (*begin, *_ids(tokenizer, instruction + "\n\n"))
    return ChatFrame(head, tuple(_ids(tokenizer, "\n\nAnswer:\n")), tuple(ends), "", False)


def _render(tokenizer: PreTrainedTokenizerBase, instruction: str, *, answer: bool = False, **kwargs: Any) -> str:
    from jinja2.exceptions import TemplateError

    closing = [{"role": "assistant", "content": _ANSWER}] if answer else []
    with_system = [{"role": "system", "content": instruction}, {"role": "user", "content": _CONTENT}]
    folded = [{"role": "user", "content": f"{instruction}\n\n{_CONTENT}"}]
    arguments = {"tokenize": False} | template_arguments(tokenizer.get_chat_template()) | kwargs
    try:
        rendered = str(tokenizer.apply_chat_template(with_system + closing, **arguments))
    except TemplateError:
        rendered = ""
    # Some templates drop a system turn instead of refusing it.
    if instruction not in rendered:
        rendered = str(tokenizer.apply_chat_template(folded + closing, **arguments))
    return rendered


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
