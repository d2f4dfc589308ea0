"""`Dimension` and `DimensionSet`: what is read out of a text, in the words an annotator is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import first_dimension
from mf_llm.events.event import Event
from mf_llm.yaml_files import parse_yaml

DIMENSION_SET_VERSION = 1
PACKAGED = ("en", "zh")

_FORMAT = (
    "write `version: 1`, `language: en` and under `dimensions:` for each name a `question` and `categories` (id: "
    "definition)"
)


@dataclass(frozen=True, kw_only=True)
class Category:
    """One answer.

    Attributes:
        id: the name in event files, the same in every language ("deny").
        label: the word for it in the language of the annotator's prompt ("否认"); the id by default.
        definition: one sentence; empty where the name must speak for itself.
    """

    id: str
    label: str = ""
    definition: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "label", "definition"):
            value = getattr(self, name)
            if not isinstance(value, str) or (name == "id" and not value.strip()):
                raise InputError(
                    f"`{name}` of a category must be text, got {value!r}; answers could not be matched with it; put "
                    "quotes around words that YAML reads as something else (yes, no, null, numbers)."
                )
        if not self.label:
            object.__setattr__(self, "label", self.id.replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A categorical reading of a text.

    Attributes:
        name: its name in event files ("stance").
        categories: its K answers, in order.
        question: the question an annotator answers.
        label: the name in the language of the prompt; `name` by default.
        language: language of question, labels and definitions.
    """

    name: str
    categories: tuple[Category, ...]
    question: str = ""
    label: str = ""
    language: str = "en"

    def __post_init__(self) -> None:
        for name in ("name", "question", "label", "language"):
            value = getattr(self, name)
            if not isinstance(value, str) or (name == "name" and not value.strip()):
                raise InputError(f"`{name}` of a dimension must be text, got {value!r}; nothing can be asked with it.")
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " "))
        if not self.question:
            object.__setattr__(self, "question", _DEFAULT_QUESTION[prompt_language(self.language)] % self.label)
        object.__setattr__(self, "categories", tuple(self.categories))
        for what, words in (("id", self.ids), ("label", self.labels)):
            if len(words) < 2 or len({word.casefold() for word in words}) < len(words):
                raise InputError(
                    f"`categories` of dimension {self.name!r} must be at least two with different {what}s, got "
                    f"{list(words)}; answers could not be told apart; rename or add one."
                )

    @property
    def ids(self) -> tuple[str, ...]:
        """The K category ids, in order."""
        return tuple(category.id for category in self.categories)

    @property
    def labels(self) -> tuple[str, ...]:
        """The K words for the categories in the language of the prompt."""
        return tuple(category.label for category in self.categories)

    def index(self, category: str) -> int:
        """Place of a category id.

        Raises:
            InputError: there is no such category.
        """
        if category not in self.ids:
            raise InputError(
                f"`category` must be one of {list(self.ids)} of dimension {self.name!r}, got {category!r}; it has no "
                "place in the shares; correct the name."
            )
        return self.ids.index(category)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "name": self.name,
            "label": self.label,
            "language": self.language,
            "question": self.question,
            "categories": [vars(category) for category in self.categories],
        }


@dataclass(frozen=True, kw_only=True)
class DimensionSet:
    """Dimensions in one language, by name.

    Attributes:
        language: language of all their words.
        dimensions: name -> dimension.
    """

    language: str
    dimensions: Mapping[str, Dimension]

    def __getitem__(self, name: str) -> Dimension:
        if name not in self.dimensions:
            raise InputError(
                f"`name` must be one of {list(self.dimensions)}, got {name!r}; the dimension is not defined; add it "
                "to a file of your own and load that."
            )
        return self.dimensions[name]

    def described(self, name: str, categories: Sequence[str]) -> Dimension:
        """The dimension `name` with exactly these categories, in their order.

        Question, labels and definitions are those of the set where names match (capitals, ``_`` and ``-`` do not
        matter); a category or dimension the set does not know stands with its bare name.
        """
        known = {name_key(one): dimension for one, dimension in self.dimensions.items()}.get(name_key(name))
        words = {} if known is None else {name_key(category.id): category for category in known.categories}
        own = []
        for category in categories:
            match = words.get(name_key(category))
            own.append(Category(id=category, **({} if match is None else _words(match))))
        shared = {} if known is None else {"question": known.question, "label": known.label}
        return Dimension(name=name, categories=tuple(own), language=self.language, **shared)


def load_dimensions(source: str | os.PathLike = "en") -> DimensionSet:
    """The dimensions that ship with the package, or those of a YAML file.

    Args:
        source: "en", "zh", or the path of a file in the format of ``mf_llm/data/dimensions/en.yaml``.

    Raises:
        InputError: there is no such file, or it is not valid; the message names the place in it.
    """
    name = os.fspath(source)
    if name in PACKAGED:
        return _packaged(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(
            f"`source` must be one of {', '.join(PACKAGED)} or a YAML file, got {name!r}, which is neither; no "
            "dimension is defined; correct the path."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be readable text in UTF-8: {error}; no dimension is defined.") from error
    return read_dimensions(text, str(path))


def read_dimensions(text: str, place: str) -> DimensionSet:
    """Parses a dimension file; `place` is what errors call it."""
    record = parse_yaml(text, place)
    if not isinstance(record, Mapping) or record.get("version") != DIMENSION_SET_VERSION:
        raise InputError(f"{place} must be a mapping with version {DIMENSION_SET_VERSION}; {_FORMAT}.")
    language = record.get("language")
    entries = record.get("dimensions")
    unknown = sorted(map(str, set(record) - {"version", "language", "dimensions"}))
    if unknown or not isinstance(language, str) or not isinstance(entries, Mapping) or not entries:
        raise InputError(
            f"{place} must hold a language and dimensions, and nothing else"
            + (f", got also {', '.join(unknown)}" if unknown else "")
            + f"; {_FORMAT}."
        )
    try:
        dimensions = {name: _read_dimension(name, entry, language) for name, entry in entries.items()}
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return DimensionSet(language=language, dimensions=dimensions)


def event_dimension(event: Event, name: str | None = None, dimensions: DimensionSet | None = None) -> Dimension:
    """An event's own dimension, in the words of a dimension set.

    Args:
        event: the event; ``event.dimensions`` gives the categories and their order.
        name: which of its dimensions (default: the first).
        dimensions: where definitions come from (default: the packaged set of the event's language, else English).

    Raises:
        InputError: the event does not have the dimension.
    """
    name = first_dimension([event]) if name is None else name
    if name not in event.dimensions:
        raise InputError(
            f"`name` must be one of {list(event.dimensions)} of event {event.event_id!r}, got {name!r}; its texts "
            "were not labelled on it; choose one of them."
        )
    dimensions = load_dimensions(prompt_language(event.language)) if dimensions is None else dimensions
    return dimensions.described(name, event.dimensions[name])


_DEFAULT_QUESTION = {"en": "What is the %s of the text?", "zh": "这段文字的%s是什么？"}


def prompt_language(language: str | None) -> str:
    """The language annotators are asked in about texts of `language`: Chinese, else English."""
    return "zh" if (language or "").lower().startswith("zh") else "en"


def name_key(name: str) -> str:
    """Equal for names that differ in capitals, ``_`` and ``-`` alone."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _words(category: Category) -> dict[str, str]:
    return {"label": category.label, "definition": category.definition}


@cache
def _packaged(name: str) -> DimensionSet:
    file = resources.files("mf_llm") / "data" / "dimensions" / f"{name}.yaml"
    return read_dimensions(file.read_text(encoding="utf-8"), f"dimensions {name!r}")


def _read_dimension(name: Any, entry: Any, language: str) -> Dimension:
    where = f"dimension {name!r}"
    known = {"question", "label", "categories"}
    if not isinstance(entry, Mapping) or not set(entry) <= known or not isinstance(entry.get("categories"), Mapping):
        raise InputError(f"{where} must hold question, categories and at most a label, got {entry!r}; {_FORMAT}.")
    categories = []
    for category, words in entry["categories"].items():
        words = {"definition": words} if isinstance(words, str) else words
        if not isinstance(words, Mapping) or not set(words) <= {"label", "definition"}:
            raise InputError(
                f"category {category!r} of {where} must be a definition, or a mapping of label and definition, got "
                f"{words!r}; {_FORMAT}."
            )
        categories.append(Category(id=category, **words))
    rest = {key: value for key, value in entry.items() if key != "categories"}
    return Dimension(name=name, categories=tuple(categories), language=language, **rest)
