"""The prompts of both roles as chat messages, in the words of the prompts in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mf_llm.endpoints.text_encoding import TextEncoder
from mf_llm.models.prompt_building import PromptBuilder
from mf_llm.models.prompts import AnswerFormat, ChatFrame
from mf_llm.models.wordings import WORDINGS

# Raise it when words change: answers that are kept, and rollouts, are told apart by it.
CHAT_PROMPT_VERSION = 1
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_FRAME = ChatFrame(head=(), tail=("\n\n",), end_ids=(), literal="", is_chat=True)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class LetterAnswer(AnswerFormat):
    """One of the options, by its letter: what the exact readout asks for.

    Examples:
        >>> LetterAnswer(kind="choice", dimension="vote", options=("yes", "no")).task(order=[1, 0])
        'Answer with your vote (one of: A) no; B) yes).'
    """

    def task(self, order: Sequence[int] | None = None) -> str:
        """The options with letters, in the order of the list."""
        listed = [self.options[k] for k in (order or range(len(self.options)))]
        lettered = tuple(f"{letter}) {option}" for letter, option in zip(LETTERS, listed, strict=False))
        return AnswerFormat(kind="choice", dimension=self.dimension, options=lettered, language=self.language).task()

    @property
    def opening(self) -> str:
        """What stands at the end of the prompt."""
        return "Answer with the letter of one of the options above and nothing else."


@dataclass(frozen=True, kw_only=True)
class JsonAnswer(AnswerFormat):
    """A JSON object.

    Attributes:
        fields: "label", "text", or both.
        decided: the option that is decided already, where the text behind it is asked for.
    """

    fields: tuple[str, ...] = ("text",)
    decided: str | None = None

    def task(self, order: Sequence[int] | None = None) -> str:
        """What to answer, as in this process; without a text where none is asked for."""
        kind = "choice" if "text" not in self.fields else self.kind
        return AnswerFormat(kind=kind, dimension=self.dimension, options=self.options, language=self.language).task(
            order
        )

    @property
    def opening(self) -> str:
        """What stands at the end of the prompt."""
        decided = "" if self.decided is None else f"{super().opening} {self.decided}.\n"
        shape = json.dumps(dict.fromkeys(self.fields, "..."))
        label = f', "label" being your {self.name}, spelled as above' if "label" in self.fields else ""
        return f"{decided}Answer in JSON and nothing else: {shape}{label}."

    @property
    def schema(self) -> dict[str, object]:
        """The JSON schema of an answer."""
        kinds: dict[str, dict[str, object]] = {
            "label": {"type": "string", "enum": list(self.options)},
            "text": {"type": "string"},
        }
        properties = {name: kinds[name] for name in self.fields}
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.fields),
            "additionalProperties": False,
        }


def asked_for(answer: AnswerFormat, fields: tuple[str, ...], decided: str | None = None) -> JsonAnswer:
    """The same answer as a JSON object; see `JsonAnswer`."""
    settings = {name: getattr(answer, name) for name in ("kind", "dimension", "options", "language")}
    return JsonAnswer(**settings, fields=fields, decided=decided)


def lettered(answer: AnswerFormat) -> LetterAnswer:
    """The same answer by letters."""
    return LetterAnswer(kind=answer.kind, dimension=answer.dimension, options=answer.options, language=answer.language)


class ChatPrompts(PromptBuilder):
    """Builds prompts as text: the parts, their order and their bounds are those of `MFLLMProcessor`.

    Tokens are pieces of text here (`TextEncoder`), so that bounds are kept approximately.

    Args:
        wording: index into `WORDINGS`.
        system_role: instructions are a turn of the system, not the head of the user's.
    """

    def __init__(self, wording: int = 0, *, system_role: bool = True) -> None:
        self._words, self._encoder, self._system_role = WORDINGS[wording], TextEncoder(), system_role

    def frame(self, role: str) -> ChatFrame:
        """An empty line between the person and what is asked for."""
        return _FRAME if role == "policy" else replace(_FRAME, tail=())

    def encoder(self, role: str) -> TextEncoder:
        """One for both roles."""
        return self._encoder

    def messages(self, role: str, pieces: Sequence[Any]) -> list[dict[str, str]]:
        """The chat: the role's instruction, and a prompt."""
        instruction, content = getattr(self._words, role), "".join(pieces)
        if not self._system_role:
            return [{"role": "user", "content": f"{instruction}\n\n{content}"}]
        return [{"role": "system", "content": instruction}, {"role": "user", "content": content}]
