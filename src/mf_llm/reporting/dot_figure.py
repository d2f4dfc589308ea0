"""`draw_dots`: scores with their intervals as dots with whiskers, one row below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.evaluation.plotting import GREY
from mf_llm.reporting.blocks import ROUNDING, number
from mf_llm.reporting.drawing import BLUE, LIGHT, ORANGE, draw, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREY, "D"))
# Numbers stand in front of whiskers.
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
_STEP = 0.21  # inches between dots


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """One row.

    Attributes:
        name: what stands beside it.
        scores: series -> value with its interval.
        claimed: drawn in full; otherwise greyed.
        note: what stands in a row without scores.
    """

    name: str
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    claimed: bool = True
    note: str = "missing"


def draw_dots(rows: Sequence[DotRow], series: Sequence[str], axis: str) -> str:
    """Draws rows of scores around zero; a filled dot has an interval that does not contain zero.

    Few values far from all others would press the others together: they are drawn at the edge, as an arrow with its
    number.

    Args:
        rows: from top to bottom.
        series: names of the series, at most three, by which colours are chosen; of several there is a legend.
        axis: what the axis shows.

    Returns:
        The figure as a ``data:`` address.
    """
    used = [name for name in series if any(name in row.scores for row in rows)]
    together = max([1, *(len(row.scores) for row in rows)])
    height = 0.75 + _STEP * (0.4 + 0.6 * together) * len(rows) + (0.25 if len(used) > 1 else 0)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        low, high = _range([score for row in rows for score in row.scores.values()])
        axes.set_xlim(low, high)
        axes.axvline(0, color="black", lw=0.8, zorder=1)
        for place, row in enumerate(rows):
            if place % 2:
                axes.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", lw=0, zorder=0)
            if not row.scores:
                axes.text(low, place, f" {row.note}", color=GREY, va="center", fontsize=7.5)
            for position, (name, score) in enumerate(row.scores.items()):
                offset = (position - (len(row.scores) - 1) / 2) * 0.8 / max(1, len(row.scores))
                colour, marker = _LOOKS[list(series).index(name) % len(_LOOKS)]
                _dot(axes, place + offset, score, colour if row.claimed else LIGHT, marker)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        names = [label(row.name, f"row {place + 1}") for place, row in enumerate(rows)]
        axes.set_yticks(range(len(rows)), names)
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color("black" if row.claimed else GREY)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(axis)
        if len(used) > 1:
            _legend(figure, series, used)

    return draw(height, paint)


def _dot(axes: Axes, place: float, score: Mapping[str, Any], colour: str, marker: str) -> None:
    value, low, high = score["value"], score.get("low"), score.get("high")
    left, right = axes.get_xlim()
    if low is not None and high is not None:
        axes.plot([max(low, left), min(high, right)], [place, place], color=colour, lw=1.5, solid_capstyle="butt")
    if not left <= value <= right:
        edge, arrow, side = (left, "<", "left") if value < left else (right, ">", "right")
        axes.plot([edge], [place], marker=arrow, color=colour, ms=6.5, mew=0, clip_on=False)
        axes.annotate(
            number(value, 2),
            (edge, place),
            xytext=(6 if side == "left" else -6, 0),
            textcoords="offset points",
            color=colour,
            ha=side,
            va="center",
            fontsize=7.5,
            bbox=_BEHIND,
        )
        return
    clear = low is not None and high is not None and (low > ROUNDING or high < -ROUNDING)
    axes.plot([value], [place], marker=marker, color=colour, mfc=colour if clear else "white", ms=4.5, mew=1.2)


def _range(scores: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Limits that show what is near zero; what is much farther away on the left is cut off."""
    ends = [score[key] for score in scores for key in ("value", "low", "high") if score.get(key) is not None]
    if not ends:
        return -1.0, 1.0
    high = max(*ends, 0.0)
    away = [abs(score["value"]) for score in scores if abs(score["value"]) > ROUNDING]
    near = 1.5 * float(np.median(away)) if away else 0.0
    low = max(min(*ends, 0.0), -max(near, 3 * high, 0.01))
    margin = 0.06 * max(high - low, 1e-3)
    return low - margin, high + margin


def _legend(figure: Figure, series: Sequence[str], used: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for name in used:
        colour, marker = _LOOKS[list(series).index(name) % len(_LOOKS)]
        handles.append(Line2D([], [], color=colour, marker=marker, ms=4.5, lw=1.5, label=label(name, "series")))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles),
        frameon=False,
        handlelength=1.6,
        columnspacing=1.2,
    )
