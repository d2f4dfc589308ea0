"""What a report is made of: sections of paragraphs, lists, tables and figures. The template draws them, escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

MINUS, NONE = "−", "–"
# Differences this near to zero are rounding: a method that is the reference gains nothing.
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what stands in it.
        detail: a second, smaller line.
        mark: "best", "clear", "missing", "real", "simulated", "less" or "more", which the page shows by a colour.
        title: what is told where somebody points at it.
    """

    text: str
    detail: str = ""
    mark: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        caption: what it shows.
        head: the columns.
        rows: cells or texts.
        words: the columns (by place) that hold running text and not numbers.
        folded: it is shown when somebody opens it.
        stacked: on narrow screens the cells of a row stand below each other.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    words: frozenset[int] = frozenset()
    folded: bool = False
    stacked: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, all of cells."""
        return [[cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure.

    Attributes:
        source: the picture itself, as a ``data:`` address.
        alt: what it shows, for those who cannot see it.
        caption: what stands below it.
    """

    kind: ClassVar[str] = "figure"
    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Figures side by side where there is room."""

    kind: ClassVar[str] = "gallery"
    figures: Sequence[Figure]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; a `heading` before it, or `code`, which is shown as it stands."""

    kind: ClassVar[str] = "text"
    text: str
    heading: str = ""
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Points:
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    points: Sequence[str]


Block = Table | Figure | Gallery | Text | Points


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        name: what links call it.
        title: its heading.
        blocks: what it holds.
    """

    name: str
    title: str
    blocks: Sequence[Block]


def number(value: float | None, digits: int = 3) -> str:
    """A number with a real minus sign; a dash where there is none. What rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:,.{digits}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def bounds(record: Mapping[str, Any], digits: int = 3) -> str:
    """The interval of a score; empty where it has none."""
    if record.get("low") is None or record.get("high") is None:
        return ""
    return f"[{number(record['low'], digits)}, {number(record['high'], digits)}]"


def with_bounds(record: Mapping[str, Any], digits: int = 3) -> str:
    """A score and its interval on one line."""
    return f"{number(record['value'], digits)} {bounds(record, digits)}".rstrip()


def score_cell(record: Mapping[str, Any] | None, digits: int = 3, *, mark: str = "", missing: str = "") -> Cell:
    """A score with its interval below; a dash, with the reason, where there is none."""
    if record is None:
        return Cell(text=NONE, mark="missing", title=missing)
    return Cell(text=number(record["value"], digits), detail=bounds(record, digits), mark=mark)


def listed(names: Iterable[str], at_most: int = 6) -> str:
    """Names in a sentence; of many the first."""
    names = list(names)
    if len(names) > at_most:
        return ", ".join(names[:at_most]) + f" and {len(names) - at_most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def shortened(text: str, length: int) -> str:
    """A text on one line of at most `length` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def counted(count: int, noun: str) -> str:
    """ "1 event", "2 events"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
