"""Figures of the IB curve: rate against relevance, and both while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mf_llm.evaluation.plotting import COLOURS, GREY, STYLE

SMOOTHED = 6  # steps that are averaged in a learning curve
Row = Mapping[str, Any]


def plot_ib_curve(rows: Sequence[Row], path: Path) -> None:
    """Draws every point with its intervals: rate against relevance, and against what the past adds to relevance.

    Args:
        rows: rows of ``ib_curve.csv``.
        path: PNG file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    over = "over_prior" if all(row["over_prior"] is not None for row in rows) else "over_untuned"
    panels = [("relevance", "relevance (nats per person)")]
    if all(row[over] is not None for row in rows):
        other = over.removeprefix("over_")
        panels.append((over, f"relevance over that of “{other}”\n(nats per person, paired)"))
    with rc_context(STYLE):
        figure = Figure(figsize=(3.5 * len(panels), 3.0), layout="constrained")
        for axes, (measure, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_points(axes, rows, measure)
            axes.set_xlabel("rate (nats per signal)")
            axes.set_ylabel(label)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, columnspacing=1.2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=300)


def _draw_points(axes: Any, rows: Sequence[Row], measure: str) -> None:
    betas = sorted((row for row in rows if row["beta"] is not None), key=lambda row: row["beta"])
    axes.plot([row["rate"] for row in betas], [row[measure] for row in betas], "-", color=GREY, lw=0.7, zorder=1)
    for row in rows:
        if row["point"] == "none":
            axes.axhline(row[measure], color=GREY, ls=":", lw=1.0, label="no signal", zorder=0)
            continue
        colour, marker, label = _look(row, betas)
        axes.errorbar(
            row["rate"],
            row[measure],
            xerr=_arms(row, "rate"),
            yerr=_arms(row, measure),
            fmt=marker,
            color=colour,
            mfc="white" if row["beta"] is None else colour,
            ms=4.5,
            lw=0.9,
            mew=0.9,
            label=label,
            zorder=2,
        )
    if measure != "relevance":
        axes.axhline(0, color=GREY, lw=0.5, zorder=0)


def _look(row: Row, betas: Sequence[Row]) -> tuple[str, str, str]:
    if row["beta"] is None:
        marker, label = {"prior": ("D", "topic alone (prior)"), "untuned": ("s", "untuned")}[row["point"]]
        return "black", marker, label
    return COLOURS[betas.index(row) % len(COLOURS)], "o", f"β = {row['beta']:g}"


def _arms(row: Row, name: str) -> list[list[float]] | None:
    """Lengths of the error bars; a percentile interval need not hold its own value."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return None
    return [[max(row[name] - low, 0.0)], [max(high - row[name], 0.0)]]


def plot_learning_curve(rows: Sequence[Row], path: Path) -> None:
    """Draws rate, relevance and length of the signals at every step: single steps pale, trailing means on top.

    Args:
        rows: rows of ``learning_curve.csv``.
        path: PNG file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    labels = {
        "rate": "rate (nats per signal)",
        "relevance": "relevance (nats per person)",
        "signal_tokens": "tokens per signal",
    }
    betas = sorted({row["beta"] for row in rows})
    with rc_context(STYLE):
        figure = Figure(figsize=(7.0, 2.6), layout="constrained")
        for axes, (name, label) in zip(figure.subplots(1, len(labels)), labels.items(), strict=True):
            for number, beta in enumerate(betas):
                mine = sorted((row for row in rows if row["beta"] == beta), key=lambda row: row["step"])
                steps = [row["step"] for row in mine]
                values = np.array([np.nan if row[name] is None else row[name] for row in mine], dtype=np.float64)
                colour = COLOURS[number % len(COLOURS)]
                axes.plot(steps, values, color=colour, lw=0.6, alpha=0.3)
                axes.plot(steps, trailing_means(values), color=colour, lw=1.3, label=f"β = {beta:g}")
            axes.set_xlabel("optimiser step")
            axes.set_ylabel(label)
            axes.xaxis.get_major_locator().set_params(integer=True)
        handles, names = figure.axes[0].get_legend_handles_labels()
        title = f"same transitions at the same step; bold: mean of the last {SMOOTHED} steps"
        figure.legend(
            handles, names, title=title, title_fontsize=7, loc="outside lower center", ncols=len(names), frameon=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=300)


def trailing_means(values: np.ndarray) -> np.ndarray:
    """Mean of each value and up to `SMOOTHED` - 1 before it."""
    return np.array([values[max(0, i + 1 - SMOOTHED) : i + 1].mean() for i in range(len(values))])
