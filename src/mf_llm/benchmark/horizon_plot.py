"""What becomes of forecasts far from their warm-up, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mf_llm.atomic_files import write_figure
from mf_llm.evaluation.plotting import COLOURS, GREY, STYLE, matplotlib_parts

_STYLES = ("-", "--", ":", "-.")
_PANELS = (("kl", "KL of people to forecast (nats)"), ("drift", "drift from the first window (nats)"))


def plot_horizon(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """KL and drift by the number of actions since the warm-up, one line per method, mean over events and seeds.

    Args:
        rows: of `horizon_rows`.
        path: where the picture goes (its ending, png or pdf, names the format).

    Raises:
        InputError: matplotlib is missing.
    """
    figure_class, context = matplotlib_parts()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    with context(STYLE):
        figure = figure_class(figsize=(7.0, 3.0), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, (column, label) in zip(axes, _PANELS, strict=True):
            for number, method in enumerate(methods):
                x, y = _line([row for row in rows if row["method"] == method], column)
                style = _STYLES[number // len(COLOURS) % len(_STYLES)]
                axis.plot(x, y, style, color=COLOURS[number % len(COLOURS)], marker="o", ms=3, lw=1.2, label=method)
            if column == "drift":
                x, y = _line(rows, "real_drift")
                axis.plot(x, y, color=GREY, lw=2.5, alpha=0.5, label="people", zorder=0)
            axis.set_xscale("log", base=2)
            axis.set_xticks(x, [f"{value:,}" for value in x])
            axis.set(xlabel="actions after the warm-up", ylabel=label)
            axis.set_ylim(bottom=0)
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        write_figure(path, figure, dpi=200)
    return path


def _line(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[list[int], list[float]]:
    """Ends of the stretches, and the mean of a column in each; events that end earlier count where they reach."""
    ends = sorted({row["last_action"] for row in rows})
    return ends, [float(np.mean([row[column] for row in rows if row["last_action"] == end])) for end in ends]
