"""Figures as they stand in a page: drawn to SVG with their letters as curves, the same bytes for the same numbers."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

from mf_llm.evaluation.plotting import COLOURS, STYLE, drawable, matplotlib_parts, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches. A phone shows a figure of this width nearly at its own size, so that its letters can be read there.
WIDTH = 4.3
BLUE, ORANGE = COLOURS[:2]
LIGHT = "#b4b4b4"

_STYLE = STYLE | {
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "mf_llm",
}
# Neither the time nor the version of the library: equal numbers give equal bytes.
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def draw(height: float, paint: Callable[[Figure], None]) -> str:
    """Draws a figure.

    Args:
        height: in inches.
        paint: draws into the empty figure.

    Returns:
        The figure as a ``data:`` address. As a picture its SVG can neither run nor load anything.
    """
    figure_class, context = matplotlib_parts()
    with context(_STYLE):
        figure = figure_class(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def label(text: str, otherwise: str) -> str:
    """A text as a figure can show it; something else where the font lacks its script."""
    return plain(text) if drawable(text) else plain(otherwise)
