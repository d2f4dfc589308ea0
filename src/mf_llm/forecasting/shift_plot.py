"""Natural experiments as a picture: where shares were, where they went, and what was forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_figure
from mf_llm.evaluation.plotting import COLOURS, GREY, STYLE, matplotlib_parts

_ROW, _HEAD = 0.24, 0.75  # inches


def plot_shifts(rows: Sequence[Mapping[str, Any]], stem: Path) -> Path:
    """One panel per shift: the share before (dashed) and after (solid), and each forecast with its 80 and 95 % bands.

    Args:
        rows: of `mf_llm.forecasting.natural_experiments.judge_shift`.
        stem: path of the picture without ending; a PNG is written.

    Raises:
        InputError: matplotlib is missing.
    """
    figure_class, context = matplotlib_parts()
    shifts = list(dict.fromkeys(row["shift"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    members = {shift: [row for row in rows if row["shift"] == shift] for shift in shifts}
    heights = [_HEAD + _ROW * len(members[shift]) for shift in shifts]
    with context(STYLE):
        figure = figure_class(figsize=(5.4, sum(heights)), layout="constrained")
        axes = figure.subplots(len(shifts), 1, height_ratios=heights, squeeze=False)
        for axis, shift in zip(axes[:, 0], shifts, strict=True):
            own = members[shift]
            axis.axvline(own[0]["before"], color=GREY, ls="--", lw=1.2)
            axis.axvline(own[0]["after"], color="black", lw=1.4)
            for place, row in enumerate(own):
                colour = COLOURS[methods.index(row["method"]) % len(COLOURS)]
                axis.plot([row["low_95"], row["high_95"]], [place, place], color=colour, lw=1.2, alpha=0.6)
                axis.plot([row["low_80"], row["high_80"]], [place, place], color=colour, lw=4, alpha=0.4)
                face = "white" if row["news"] == "without" else colour
                axis.plot(row["forecast"], place, "o", color=colour, mfc=face, ms=5)
            axis.set_yticks(range(len(own)), [_name(row) for row in own])
            axis.set_ylim(len(own) - 0.5, -0.5)
            axis.set_xlim(0, 1)
            axis.tick_params(axis="y", length=0)
            title = f"{shift.replace('-', ' ')}: {own[0]['category']}"
            axis.set_title(title, loc="left", fontsize=8, pad=12)
            lines = sorted([(own[0]["before"], "before", GREY), (own[0]["after"], "after", "black")])
            for (share, word, colour), side in zip(lines, ("right", "left"), strict=True):
                # Away from each other: the two may stand close together.
                axis.annotate(
                    word, (share, 1), xycoords=("data", "axes fraction"), xytext=(2 if side == "left" else -2, 2),
                    textcoords="offset points", ha=side, fontsize=6.5, color=colour,
                )  # fmt: skip
        axes[-1, 0].set_xlabel("share (dots: means; bars: 80 and 95 %\nof what would be counted)")
        path = stem.with_suffix(".png")
        write_figure(path, figure, dpi=200)
    return path


def _name(row: Mapping[str, Any]) -> str:
    return row["method"] + (f", {row['news']} news" if row["news"] else "")
