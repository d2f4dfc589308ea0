"""What a language model behind a server is asked for one text, and how its answer is read."""

from __future__ import annotations

from typing import Any

from mf_llm.annotation.annotation_prompts import CONTENT_FREE, words_of
from mf_llm.annotation.dimension_sets import Dimension, name_key, prompt_language
from mf_llm.endpoints.json_answers import json_objects, without_reasoning
from mf_llm.endpoints.text_encoding import line_as_data
from mf_llm.models.encoding import one_line

ENDPOINT_PROMPT_VERSION = 1

EMPTY_ANSWER = "empty_answer"
INVALID_JSON = "invalid_json"
INVALID_SCHEMA = "invalid_schema"
WRONG_CATEGORY = "wrong_category"

_FIELD = "category"
_MAX_CHARACTERS = 4000

_ASK = {
    "en": 'Answer in JSON and nothing else: {"category": "..."} with one of the categories above, spelled as there.',
    "zh": '只用 JSON 回答，不写别的：{"category": "..."}，取上面的类别之一，写法与上面相同。',
}


def answer_schema(dimension: Dimension) -> dict[str, Any]:
    """The JSON schema of an answer."""
    field = {"type": "string", "enum": list(dimension.ids)}
    return {"type": "object", "properties": {_FIELD: field}, "required": [_FIELD], "additionalProperties": False}


def messages(dimension: Dimension, topic: str, text: str) -> list[dict[str, str]]:
    """The chat that asks about one text."""
    words = words_of(dimension)
    lines = [one_line(dimension.question)]
    for category in dimension.categories:
        label = "" if name_key(category.label) == name_key(category.id) else f" ({one_line(category.label)})"
        definition = words.colon + one_line(category.definition) if category.definition else ""
        lines.append(f"- {one_line(category.id)}{label}{definition}")
    ask = _ASK[prompt_language(dimension.language)]
    parts = [
        "\n".join(lines),
        f"{words.topic}\n{as_data(topic) or CONTENT_FREE}",
        f"{words.text}\n{as_data(text)}",
        ask,
    ]
    return [{"role": "system", "content": words.instruction}, {"role": "user", "content": "\n\n".join(parts)}]


def as_data(text: str) -> str:
    """A text of others on one line, without anything a chat template could take for one of its marks."""
    return line_as_data(text, _MAX_CHARACTERS)


def read_answer(content: str | None, dimension: Dimension) -> tuple[int | None, str | None]:
    """Place of the category an answer names, or the reason why it names none.

    Reasoning blocks, code fences and words around the JSON object are left aside. Ids and labels count as names;
    capitals, ``_`` and ``-`` do not matter.
    """
    text = without_reasoning(content or "")
    if not text.strip():
        return None, EMPTY_ANSWER
    objects = json_objects(text)
    if not objects:
        return None, INVALID_JSON
    answers = [found[_FIELD] for found in objects if isinstance(found.get(_FIELD), str)]
    if not answers:
        return None, INVALID_SCHEMA
    for words in (dimension.ids, dimension.labels):
        keys = [name_key(word) for word in words]
        if name_key(answers[0]) in keys:
            return keys.index(name_key(answers[0])), None
    return None, WRONG_CATEGORY
