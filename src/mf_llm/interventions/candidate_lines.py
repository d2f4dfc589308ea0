"""How candidates look in figures: one colour, line and marker in all of them, triangles where something is done."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mf_llm.evaluation.plotting import COLOURS, GREY, drawable, plain
from mf_llm.interventions.plan import Candidate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More lines than this cannot be told apart on a phone.
MAX_CANDIDATES = 6
MARKERS = "osD^vP"
_OTHER = "#404040"


@dataclass(frozen=True, kw_only=True)
class CandidateLine:
    """A candidate and how it looks, in every figure alike.

    Attributes:
        name, label: its name, and how figures write it.
        steps: the steps at which something new is done.
        drawn: whether it is in the figures of steps.
        look: colour, line and marker.
    """

    name: str
    label: str
    steps: tuple[int, ...]
    drawn: bool
    look: dict[str, Any]


def candidate_lines(candidates: Sequence[Candidate]) -> list[CandidateLine]:
    """The candidates in their order; one placebo is drawn in any case."""
    rivals = [one.name for one in candidates if not one.placebo]
    placebos = [one.name for one in candidates if one.placebo]
    kept = rivals[: MAX_CANDIDATES - len(placebos[:1])]
    kept += placebos[: MAX_CANDIDATES - len(kept)]
    found = []
    for number, one in enumerate(candidates, 1):
        place = kept.index(one.name) if one.name in kept else None
        look: dict[str, Any] = {"color": _OTHER, "marker": "o"}
        if one.placebo:
            look = {"color": GREY, "marker": "x", "ls": (0, (4, 2))}
        elif place is not None:
            look = {"color": COLOURS[place], "marker": MARKERS[place]}
        label = figure_label(one.name, f"candidate {number}") + (" (placebo)" if one.placebo else "")
        steps = tuple(sorted({each.step for each in one.interventions}))
        found.append(CandidateLine(name=one.name, label=label, steps=steps, drawn=one.name in kept, look=look))
    return found


def mark_steps(axes: Axes, lines: Sequence[CandidateLine]) -> float:
    """A triangle where something is done; several at one step stand side by side.

    Returns:
        The share of the axes' height that they take.
    """
    for line in lines:
        for step in line.steps:
            together = [one.name for one in lines if step in one.steps]
            shift = 0.13 * (together.index(line.name) - (len(together) - 1) / 2)
            axes.plot(
                [step + shift],
                [0.035],
                marker="^",
                ms=4,
                mew=0,
                color=line.look["color"],
                transform=axes.get_xaxis_transform(),
                zorder=5,
            )
    return 0.08


def seeds_of(count: int) -> str:
    """ "1 seed", "2 seeds"."""
    return f"{count} seed{'s' * (count != 1)}"


def figure_label(text: str, otherwise: str) -> str:
    """A text as a figure can show it; something else where the font lacks its script."""
    text = " ".join(text.split())
    return plain(text if drawable(text) else otherwise)


def wrapped(text: str, width: int, lines: int) -> str:
    """At most so many lines of so many letters."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
