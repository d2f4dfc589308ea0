"""The words of an annotator's prompt, in the language of the dimension.

Order: instruction, question and definitions, topic, then the text, so that texts share what stands before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mf_llm.annotation.dimension_sets import Dimension, prompt_language
from mf_llm.models.encoding import one_line

ANNOTATION_PROMPT_VERSION = 1
# A text and a topic without content (Zhao et al. 2021, arXiv 2102.09690).
CONTENT_FREE = "N/A"


@dataclass(frozen=True)
class PromptWords:
    """The fixed words in one language."""

    instruction: str
    topic: str
    text: str
    opening: str
    before_option: str
    colon: str


WORDS = {
    "en": PromptWords(
        instruction="You sort what people write into categories. You answer with one category and nothing else.",
        topic="Topic:",
        text="Text:",
        opening="The {label} of this text is",
        before_option=" ",
        colon=": ",
    ),
    "zh": PromptWords(
        instruction="你把人们写的文字归入类别，只回答一个类别，不写别的。",
        topic="话题：",
        text="文字：",
        opening="这段文字的{label}是",
        before_option="",
        colon="：",
    ),
}


def words_of(dimension: Dimension) -> PromptWords:
    """The fixed words in the language of a dimension; English for languages without words of their own."""
    return WORDS[prompt_language(dimension.language)]


def definitions(dimension: Dimension, order: Sequence[int]) -> str:
    """The question and the categories, one per line, in this order."""
    colon = words_of(dimension).colon
    lines = [one_line(dimension.question)]
    for k in order:
        category = dimension.categories[k]
        lines.append(
            f"- {one_line(category.label)}" + (colon + one_line(category.definition)) * bool(category.definition)
        )
    return "\n".join(lines)


def opening(dimension: Dimension) -> str:
    """Half a sentence that the category completes: a small model is surer of that than of a form to fill in."""
    return words_of(dimension).opening.format(label=one_line(dimension.label))


def option_texts(dimension: Dimension) -> list[str]:
    """What follows the opening for each category."""
    return [words_of(dimension).before_option + one_line(label) for label in dimension.labels]
