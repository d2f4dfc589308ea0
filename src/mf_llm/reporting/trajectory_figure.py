"""`draw_trajectory`: an event's real shares beside those of several methods, one strip per category."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.evaluation.plotting import GREY, locator, percent, warm_up_windows
from mf_llm.reporting.drawing import BLUE, ORANGE, draw, label
from mf_llm.reporting.trajectories import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS: dict[str, dict[str, Any]] = {
    "tuned": {"color": BLUE, "ls": "--", "marker": "s"},
    "untuned": {"color": ORANGE, "ls": "-.", "marker": "^"},
    "reference": {"color": GREY, "ls": ":", "marker": "x"},
}
_REAL: dict[str, Any] = {"color": "black", "ls": "-", "marker": "o", "ms": 2.6, "lw": 1.5}
_SHADE = "#ececec"


def draw_trajectory(trajectory: Trajectory) -> str:
    """Draws one event; a survey as bars of its judged waves.

    Returns:
        The figure as a ``data:`` address.
    """
    plan, n_lines = trajectory.plan, len(trajectory.lines)
    legend = 0.2 * (n_lines + 1)
    if plan.windows.waves:
        height = 0.5 + legend + (0.12 * (n_lines + 2) + 0.12) * len(plan.categories) * plan.n_windows
        return draw(height, lambda figure: _survey(figure, trajectory))
    return draw(1.3 + legend + 0.72 * len(plan.categories), lambda figure: _event(figure, trajectory))


def _event(figure: Figure, trajectory: Trajectory) -> None:
    plan, size = trajectory.plan, trajectory.plan.windows.window
    n_categories, warm_up = len(plan.categories), len(plan.warm_up)
    strips = figure.subplots(n_categories + 1, 1, sharex=True, height_ratios=[1] * n_categories + [1.2])
    middles = warm_up + size * (np.arange(plan.n_windows) + 0.5)
    before = warm_up_windows(plan)
    times = np.concatenate([warm_up - size * (np.arange(len(before))[::-1] + 0.5), middles])
    real = np.concatenate([before, plan.truth])
    top = min(1.0, max(real.max(), *(line.shares.max() for line in trajectory.lines)))
    for number, category in enumerate(plan.categories):
        axes = strips[number]
        for line in trajectory.lines:
            look = _LOOKS[line.kind]
            axes.plot(middles[line.places], line.shares[:, number], **look, mfc="white", ms=3, mew=0.9, lw=1.3)
        axes.plot(times, real[:, number], **_REAL)
        axes.set_ylim(-0.05 * top, 1.12 * top)
        axes.yaxis.set_major_locator(locator(top))
        axes.yaxis.set_major_formatter(percent)
        axes.set_title(label(category, f"category {number + 1}"), fontsize=8.5, loc="right", pad=2, fontweight="bold")
    strips[0].set_title("warm-up (real)" if warm_up else "", fontsize=7.5, loc="left", pad=2, color=GREY)
    for line in trajectory.lines:
        strips[-1].plot(middles[line.places], line.kl, **_LOOKS[line.kind], mfc="white", ms=3, mew=0.9, lw=1.3)
    strips[-1].set_ylim(0, 1.1 * max(0.02, *(line.kl.max() for line in trajectory.lines)))
    strips[-1].set_title("KL in nats", fontsize=8.5, loc="right", pad=2, fontweight="bold")
    for axes in strips:
        axes.axvspan(0, warm_up, color=_SHADE, zorder=0, lw=0)
        axes.tick_params(axis="x", bottom=axes is strips[-1])
    strips[-1].set_xlim(0, warm_up + size * plan.n_windows)
    strips[-1].set_xlabel(f"reactions in order of time (windows of {size})")
    _legend(figure, trajectory)


def _legend(figure: Figure, trajectory: Trajectory) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_REAL, label="real people")]
    for line in trajectory.lines:
        text = f"{label(line.name, line.kind)}: KL {line.kl.mean():.3f}"
        handles.append(Line2D([], [], **_LOOKS[line.kind], mfc="white", ms=3.4, mew=0.9, lw=1.3, label=text))
    figure.legend(handles=handles, loc="outside upper left", frameon=False, handlelength=2.6, labelspacing=0.25)


def _survey(figure: Figure, trajectory: Trajectory) -> None:
    plan = trajectory.plan
    positions = np.arange(len(plan.categories))
    panels = figure.subplots(plan.n_windows, 1, sharex=True, squeeze=False)[:, 0]
    handles = []
    for wave, axes in enumerate(panels):
        bars = [("real people, wave before", shares, {"color": "#c8c8c8"}) for shares in warm_up_windows(plan)[-1:]]
        for line in trajectory.lines:
            here = np.flatnonzero(line.places == wave)
            if len(here):
                colour = _LOOKS[line.kind]["color"]
                look = {"color": "white", "edgecolor": colour, "hatch": "//////"} if line.kind == "reference" else {}
                text = f"{label(line.name, line.kind)}: KL {line.kl[here[0]]:.3f}"
                bars.append((text, line.shares[here[0]], look or {"color": colour}))
        bars.append(
            (f"real people, wave {label(plan.names[wave], str(wave + 1))}", plan.truth[wave], {"color": "black"})
        )
        height = 0.84 / len(bars)
        for place, (text, shares, look) in enumerate(bars):
            offset = (place - (len(bars) - 1) / 2) * height
            handle = axes.barh(positions + offset, shares, height=height * 0.9, label=text, lw=0.6, **look)
            handles += [handle] if wave == 0 else []
        names = [label(category, f"category {number + 1}") for number, category in enumerate(plan.categories)]
        axes.set_yticks(positions, names)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
    panels[-1].xaxis.set_major_formatter(percent)
    panels[-1].set_xlabel("share of people")
    figure.legend(handles=handles, loc="outside upper left", frameon=False, labelspacing=0.25)
