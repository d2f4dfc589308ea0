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
    """KL and drift in each stretch of the horizon: a row of panels per data set, a line per method.

    A point is the mean over the events and training seeds that reach the stretch, which is named by its first action.

    Args:
        rows: of `horizon_rows`.
        path: where the picture goes (its ending, png or pdf, names the format).

    Raises:
        InputError: matplotlib is missing.
    """
    figure_class, context = matplotlib_parts()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    labels = list(dict.fromkeys(row["dataset"] for row in rows))
    with context(STYLE):
        figure = figure_class(figsize=(7.0, 2.4 * len(labels) + 0.6), layout="constrained")
        axes = figure.subplots(len(labels), len(_PANELS), squeeze=False)
        for line, label in zip(axes, labels, strict=True):
            chosen = [row for row in rows if row["dataset"] == label]
            starts = sorted({row["first_action"] for row in chosen})
            for axis, (column, name) in zip(line, _PANELS, strict=True):
                for number, method in enumerate(methods):
                    found = _means([row for row in chosen if row["method"] == method], starts, column)
                    style = _STYLES[number // len(COLOURS) % len(_STYLES)]
                    axis.plot(
                        found, style, color=COLOURS[number % len(COLOURS)], marker="o", ms=3, lw=1.2, label=method
                    )
                if column == "drift":
                    people = _means(chosen, starts, "real_drift")
                    axis.plot(people, color=GREY, lw=2.5, alpha=0.5, label="people", zorder=0)
                axis.set_xticks(range(len(starts)), [f"{start:,}" for start in starts])
                axis.set(xlabel="from this action after the warm-up", ylabel=name, title=label)
                axis.set_ylim(bottom=0)
        figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        write_figure(path, figure, dpi=200)
    return path


def _means(rows: Sequence[Mapping[str, Any]], starts: Sequence[int], column: str) -> list[float]:
    """The mean of a column in the stretches that begin at `starts`; nan where no row is."""
    found = [[row[column] for row in rows if row["first_action"] == start] for start in starts]
    return [float(np.mean(values)) if values else np.nan for values in found]
