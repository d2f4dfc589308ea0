"""Figures of interventions: trajectories with and without, effects step by step, and the ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.atomic_files import write_figure
from mf_llm.evaluation.plotting import COLOURS, GREY, STYLE, matplotlib_parts, percent
from mf_llm.interventions.candidate_lines import (
    MARKERS,
    CandidateLine,
    candidate_lines,
    figure_label,
    mark_steps,
    seeds_of,
    wrapped,
)
from mf_llm.interventions.effects import Effects, paired_interval
from mf_llm.interventions.plan import InterventionPlan, Target
from mf_llm.interventions.ranking import Ranked, Ranking
from mf_llm.interventions.recommendation import points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CATEGORIES = 6

_WIDTH = 3.5
_SHADE = "#ececec"
_DPI = 300
_SPREAD = (0.1, 0.9)
_LINE: dict[str, Any] = {"lw": 1.2, "ms": 3.4, "mew": 0.9, "mfc": "white"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EffectFigure:
    """A figure that can be drawn into any empty one.

    Attributes:
        name: "trajectories", "steps" or "ranking".
        title: what is seen.
        note: how to read it.
        spoken: its numbers, for those who cannot see it.
        height: in inches, where it is `_WIDTH` or a little more wide.
        paint: draws it.
    """

    name: str
    title: str
    note: str
    spoken: str
    height: float
    paint: Callable[[Figure], None]


def plot_effects(
    effects: Effects, plan: InterventionPlan, stem: str | Path, *, ranking: Ranking | None = None
) -> list[Path]:
    """Draws and saves the figures of `effect_figures`, one column wide.

    Args:
        effects: of the candidates.
        plan: they are of.
        stem: start of the names: ``stem-trajectories.png`` (300 dpi) and ``.pdf``, and so on.
        ranking: of them, or None.

    Returns:
        The files.

    Raises:
        InputError: matplotlib is missing.
    """
    figure_class, context = matplotlib_parts()
    stem, found = Path(stem), []
    for one in effect_figures(effects, plan, ranking):
        title = wrapped(figure_label(one.title, f"{effects.event_id}: {one.name}"), 54, 3)
        with context(STYLE):
            size = (_WIDTH, one.height + 0.14 * (title.count("\n") + 1))
            figure = figure_class(figsize=size, layout="constrained")
            figure.suptitle(title, x=0.015, ha="left", fontsize=8)
            one.paint(figure)
            for ending in (".png", ".pdf"):
                found.append(stem.with_name(f"{stem.name}-{one.name}{ending}"))
                write_figure(found[-1], figure, dpi=_DPI)
    return found


def effect_figures(effects: Effects, plan: InterventionPlan, ranking: Ranking | None = None) -> list[EffectFigure]:
    """Trajectories, effects per step and, with a ranking, the candidates by their effect on the target.

    Args:
        effects: of the candidates.
        plan: they are of.
        ranking: of them; it gives the order, the best first. None: as in the plan.

    Raises:
        InputError: matplotlib is missing.
    """
    matplotlib_parts()  # its font says which names can be drawn
    order = [one.name for one in ranking.ranked] if ranking is not None else [one.name for one in plan.candidates]
    members = {one.name: one for one in plan.candidates if one.name in effects.seeds}
    lines = candidate_lines([members[name] for name in order if name in members])
    best = ranking.best.name if ranking is not None and ranking.best is not None else None
    drawn = [line for line in lines if line.drawn]
    left_out = f" Left out: {len(lines) - len(drawn)} more candidates." if len(lines) > len(drawn) else ""
    found = [_trajectories(effects, plan, drawn, left_out, best), _steps(effects, plan, drawn, left_out)]
    return found if ranking is None else [*found, _ranking(ranking, {line.name: line for line in lines})]


def _trajectories(
    effects: Effects, plan: InterventionPlan, lines: Sequence[CandidateLine], left_out: str, best: str | None
) -> EffectFigure:
    categories = _shown_categories(effects, plan)
    most = max(map(len, effects.seeds.values()))
    what = f"Simulated share of {categories[0]}" if plan.target is not None else "Simulated shares"
    banded = "" if best is None else f" and {best}"
    note = (
        f"Mean over {seeds_of(most)}; black: nothing is done. Bands hold the middle {_SPREAD[1] - _SPREAD[0]:.0%} of "
        f"the seeds (without{banded}). Lines leave where something is done (triangles). A candidate with "
        f"fewer seeds is drawn by what it changed in them.{left_out}"
    )
    if plan.target is None and len(categories) < len(effects.categories):
        note += f" Left out: {len(effects.categories) - len(categories)} more categories."
    rows = -(-(len(lines) + 1) // _legend_columns(lines))
    ends = [f"{line.name} {_end(effects, line.name, categories)}" for line in lines]
    return EffectFigure(
        name="trajectories",
        title=f"{what} with and without each candidate (mean of {seeds_of(most)})",
        note=note,
        spoken=f"{what} by step. At the last step, without: {_end(effects, None, categories)}; {'; '.join(ends)}.",
        height=(2.1 if len(categories) == 1 else 0.6 + 1.15 * len(categories)) + 0.16 * rows,
        paint=lambda figure: _paint_trajectories(figure, effects, plan.target, categories, lines, best),
    )


def _paint_trajectories(
    figure: Figure,
    effects: Effects,
    target: Target | None,
    categories: Sequence[str],
    lines: Sequence[CandidateLine],
    best: str | None,
) -> None:
    from matplotlib import rcParams
    from matplotlib.lines import Line2D

    panels = figure.subplots(len(categories), 1, sharex=True, squeeze=False)[:, 0]
    x = np.asarray(effects.steps)
    before = _without(effects)
    for number, (axes, category) in enumerate(zip(panels, categories, strict=True)):
        k = effects.categories.index(category)
        _shade(axes, target)
        _band(axes, x, before[:, :, k], "black")
        axes.plot(x, before[:, :, k].mean(axis=0), color="black", lw=1.5, marker=".", ms=4, zorder=3)
        for line in lines:
            shares = _changed(effects, line.name)[:, :, k]
            # The line leaves from the step before, which is the common past and gets no marker.
            done = int(np.searchsorted(x, line.steps[0]))
            first = max(0, done - 1)
            if line.name == best:
                _band(axes, x[first:], shares[:, first:], line.look["color"])
            look = _LINE | line.look | {"markevery": slice(done - first, None)}
            axes.plot(x[first:], shares.mean(axis=0)[first:], zorder=4, **look)
        room = mark_steps(axes, lines) if axes is panels[-1] else 0.0
        _frame(axes, effects.steps, room)
        axes.yaxis.set_major_formatter(percent)
        if len(categories) > 1:
            name = figure_label(category, f"category {number + 1}")
            axes.set_title(name, loc="right", fontweight="bold", pad=2, fontsize=rcParams["legend.fontsize"])
    if len(categories) == 1:
        panels[0].set_ylabel("simulated share")
    panels[-1].set_xlabel("step")
    handles = [Line2D([], [], color="black", lw=1.5, marker=".", ms=4, label="without")]
    handles += [Line2D([], [], label=wrapped(line.label, 44, 1), **_LINE, **line.look) for line in lines]
    columns = _legend_columns(lines)
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, labelspacing=0.3)


def _steps(effects: Effects, plan: InterventionPlan, lines: Sequence[CandidateLine], left_out: str) -> EffectFigure:
    categories = _shown_categories(effects, plan)
    rows = -(-len(lines) // _panel_columns(lines))
    what = f"the share of {categories[0]}" if plan.target is not None else "each share"
    target = "; the target's steps are shaded" if plan.target is not None else ""
    spoken = []
    for line in lines:
        last = effects.differences(line.name)[:, -1]
        told = [f"{name} {_points(last[:, effects.categories.index(name)])}" for name in categories]
        spoken.append(f"{line.name}: {', '.join(told)}")
    return EffectFigure(
        name="steps",
        title=f"What each candidate changes in {what}, step by step",
        note=f"Percentage points, with minus without, seed by seed; whiskers are paired 95 % intervals over seeds, of "
        f"each step by itself (very long ones are cut){target}. Triangles: something is done.{left_out}",
        spoken=f"Effect on {what} at the last step, in percentage points. {'; '.join(spoken)}.",
        height=0.55 + 1.25 * rows + (0.35 if len(categories) > 1 else 0),
        paint=lambda figure: _paint_steps(figure, effects, plan.target, categories, lines),
    )


def _paint_steps(
    figure: Figure, effects: Effects, target: Target | None, categories: Sequence[str], lines: Sequence[CandidateLine]
) -> None:
    from matplotlib import rcParams

    columns = _panel_columns(lines)
    grid = figure.subplots(-(-len(lines) // columns), columns, sharex=True, sharey=True, squeeze=False)
    x = np.asarray(effects.steps)
    reach = [0.5]
    for axes, line in zip(grid.flat, lines, strict=False):
        axes.axhline(0, color="black", lw=0.8, zorder=1)
        _shade(axes, target)
        shown = x >= line.steps[0]
        differences = 100 * effects.differences(line.name)[:, shown]
        for number, category in enumerate(categories):
            found = [paired_interval(one) for one in differences[:, :, effects.categories.index(category)].T]
            values = np.array([one.value for one in found])
            half = np.array([0.0 if one.high is None else one.high - one.value for one in found])
            look = {"color": line.look["color"], "marker": line.look["marker"], "ls": line.look.get("ls", "-")}
            if len(categories) > 1:
                look = {"color": COLOURS[number], "marker": MARKERS[number], "ls": "-"}
            shift = 0.12 * (number - (len(categories) - 1) / 2)
            axes.errorbar(x[shown] + shift, values, yerr=half, lw=1.0, elinewidth=1.0, ms=3, mfc="white", **look)
            reach += (np.abs(values) + _reach(values, half))[np.isfinite(values)].tolist()
        mark_steps(axes, [line])
        axes.set_title(wrapped(line.label, 24, 2), loc="left", pad=3, fontsize=rcParams["xtick.labelsize"])
        axes.annotate(
            seeds_of(len(effects.seeds[line.name])),
            (0, 1),
            xytext=(2, -2),
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            color=GREY,
            fontsize=rcParams["xtick.labelsize"],
        )
        _frame(axes, effects.steps)
    for axes in grid.flat[len(lines) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, len(lines) - columns) : len(lines)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("step")
    top = 1.25 * max(reach)
    grid[0, 0].set_ylim(-top, top)
    figure.supylabel("effect in percentage points", fontsize=grid[0, 0].xaxis.label.get_size())
    if len(categories) > 1:
        _category_legend(figure, categories)


def _ranking(ranking: Ranking, lines: dict[str, CandidateLine]) -> EffectFigure:
    target = ranking.target
    side = "right" if target.sign > 0 else "left"
    told = [f"{one.name} {points(one.effect)}, {seeds_of(one.n_seeds)}" for one in ranking.ranked]
    return EffectFigure(
        name="ranking",
        title=f"To {target}: what each candidate changes, the best first",
        note=f"{side.capitalize()} of zero is the goal. The whiskers are {100 * ranking.level:.0f} % intervals over "
        "seeds that hold for all candidates together (very long ones are cut); a filled dot has one without zero. "
        "Grey: a placebo.",
        spoken=f"Effect on the share of {target.category}. {'; '.join(told)}.",
        height=0.6 + 0.42 * len(ranking.ranked),
        paint=lambda figure: _paint_ranking(figure, ranking, lines),
    )


def _paint_ranking(figure: Figure, ranking: Ranking, lines: dict[str, CandidateLine]) -> None:
    axes = figure.subplots()
    axes.axvline(0, color="black", lw=0.8, zorder=1)
    labels, low, high = [], -0.5, 0.5
    for place, one in enumerate(ranking.ranked):
        line = lines[one.name]
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", lw=0, zorder=0)
        _dot(axes, place, one, line.look)
        labels.append(f"{wrapped(line.label, 24, 2)}\n{seeds_of(one.n_seeds)}")
        value = 100 * one.effect.value
        half = 0.0 if one.effect.high is None else 100 * one.effect.high - value
        reach = float(_reach(value, half))
        low, high = min(low, value - reach), max(high, value + reach)
    margin = 0.06 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(len(ranking.ranked) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)
    category = figure_label(ranking.target.category, "the target's category")
    size = axes.xaxis.label.get_fontsize()
    figure.supxlabel(f"effect on the share of {wrapped(category, 20, 1)} (percentage points)", fontsize=size)


def _dot(axes: Axes, place: int, one: Ranked, look: dict[str, Any]) -> None:
    low, high = one.effect.low, one.effect.high
    clear = False
    if low is not None and high is not None:
        axes.plot([100 * low, 100 * high], [place, place], color=look["color"], lw=1.6, solid_capstyle="butt")
        clear = low > 0 or high < 0
    marker = "D" if one.placebo else look["marker"]
    fill = look["color"] if clear else "white"
    axes.plot([100 * one.effect.value], [place], marker=marker, color=look["color"], mfc=fill, ms=5, mew=1.3)


def _shown_categories(effects: Effects, plan: InterventionPlan) -> tuple[str, ...]:
    return effects.categories[:MAX_CATEGORIES] if plan.target is None else (plan.target.category,)


def _without(effects: Effects) -> Floats:
    """Shares of the parents `[S, T, K]`, of the candidate with the most seeds."""
    return effects.without[max(effects.seeds, key=lambda name: len(effects.seeds[name]))]


def _changed(effects: Effects, name: str) -> Floats:
    """Shares of the branches `[S, T, K]`; where seeds are fewer, as far from all parents' mean as from their own."""
    return effects.changed[name] - effects.without[name].mean(axis=0) + _without(effects).mean(axis=0)


def _band(axes: Axes, x: NDArray[np.int64], shares: Floats, colour: str) -> None:
    low, high = np.quantile(shares, _SPREAD, axis=0)
    axes.fill_between(x, low, high, color=colour, alpha=0.1, lw=0, zorder=2)


def _reach(values: Floats | float, half: Floats | float) -> Floats | float:
    """How much of half an interval is shown: those of two or three seeds would press everything else flat."""
    return np.minimum(half, 3 * np.abs(values) + 1)


def _shade(axes: Axes, target: Target | None) -> None:
    if target is not None:
        axes.axvspan(target.first - 0.5, target.last + 0.5, color=_SHADE, lw=0, zorder=0)


def _frame(axes: Axes, steps: Sequence[int], room: float | None = None) -> None:
    """Whole steps and few ticks; with `room` an axis that holds the lines and leaves this share of it free below."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    if room is not None and np.isfinite(axes.dataLim.intervaly).all():
        low, high = axes.dataLim.intervaly
        # Less than 5 points would show rounding as if it were something.
        margin = 0.05 * (high - low) + max(0.0, 0.05 - (high - low)) / 2
        low, high = low - margin, high + margin
        axes.set_ylim(low - room / (1 - room) * (high - low), high)


def _category_legend(figure: Figure, categories: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[number],
            marker=MARKERS[number],
            ms=3.5,
            mfc="white",
            lw=1.0,
            label=wrapped(figure_label(category, f"category {number + 1}"), 20, 1),
        )
        for number, category in enumerate(categories)
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=min(3, len(handles)), frameon=False)


def _legend_columns(lines: Sequence[CandidateLine]) -> int:
    return 1 if any(len(line.label) > 20 for line in lines) else 2


def _panel_columns(lines: Sequence[CandidateLine]) -> int:
    return min(2, len(lines))


def _end(effects: Effects, name: str | None, categories: Sequence[str]) -> str:
    """The last shares, in words; of the parents without a name."""
    shares = (_without(effects) if name is None else _changed(effects, name))[:, -1].mean(axis=0)
    found = [(one, shares[effects.categories.index(one)]) for one in categories]
    return ", ".join(f"{one} {share:.1%}" if np.isfinite(share) else f"{one} unread" for one, share in found)


def _points(differences: Floats) -> str:
    return points(paired_interval(differences)).replace(" points", "") if np.isfinite(differences).all() else "unread"
