"""Figures of forecasts: trajectories with bands, PIT histograms, and coverage."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.atomic_files import write_figure
from mf_llm.evaluation.plotting import (
    COLOURS,
    GREY,
    STYLE,
    drawable,
    locator,
    matplotlib_parts,
    percent,
    plain,
    warm_up_windows,
)
from mf_llm.forecasting.forecast import Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mf_llm.evaluation.protocol import WindowPlan

_WIDTH = 3.5
_SHADE = "#ececec"
_DPI = 300
# Of the share of a large crowd; and of the share among the people of a window, the sampling of people included.
_CROWD_LEVEL, _COUNT_LEVEL = 0.8, 0.95


def plot_forecast(
    forecast: Forecast, plan: WindowPlan | None = None, path: str | Path | None = None, *, title: str | None = None
) -> Figure:
    """Draws one forecast, one column wide, a strip per category: median, bands, and what people did.

    The darker band holds the share of a large crowd with 80 %, the lighter one the share among the people of a window
    with 95 %: it is the one that real shares (dots) are to lie in.

    Args:
        forecast: of windows or steps.
        plan: the windows that were forecast, for what people did. None: only the forecast is drawn.
        path: where to save the figure; both ``.png`` (300 dpi) and ``.pdf`` are written. None: it is not saved.
        title: title of the figure (default: the event's id, and what was simulated).

    Returns:
        The figure; not registered with pyplot, so there is nothing to close.

    Raises:
        InputError: matplotlib is missing.
    """
    figure_class, context = matplotlib_parts()
    n_categories = len(forecast.categories)
    with context(STYLE):
        figure = figure_class(figsize=(_WIDTH, 1.25 + 0.72 * n_categories), layout="constrained")
        figure.suptitle(_heading(forecast, title), x=0.015, ha="left", fontsize=8)
        strips = np.atleast_1d(figure.subplots(n_categories, 1, sharex=True))
        x, before = _places(forecast, plan)
        crowd, counted = forecast.bands([_CROWD_LEVEL]), forecast.predictive_bands([_COUNT_LEVEL])
        bands = (counted[_COUNT_LEVEL], crowd[_CROWD_LEVEL])
        tallest = max(bands[0][1].max(), bands[1][1].max(), 0 if plan is None else plan.truth.max())
        top = min(1.0, float(tallest))
        for k, (axes, category) in enumerate(zip(strips, forecast.categories, strict=True)):
            colour = COLOURS[k % len(COLOURS)]
            _draw_bands(axes, x, [(low[:, k], high[:, k]) for low, high in bands], forecast.median()[:, k], colour)
            if plan is not None:
                _draw_real(axes, x, before, plan, k, colour)
            axes.set_ylim(-0.05 * top, 1.1 * top)
            axes.yaxis.set_major_locator(locator(top))
            axes.yaxis.set_major_formatter(percent)
            axes.tick_params(axis="x", bottom=axes is strips[-1])
            axes.set_title(plain(category), loc="right", fontsize=7, fontweight="bold", color=colour, pad=2)
        _finish_axis(strips, forecast, plan, x, before)
        figure.supylabel("share of reactions", fontsize=STYLE["axes.labelsize"])
        figure.legend(handles=_band_handles(plan is not None), loc="outside lower center", ncols=2, frameon=False)
        _save(figure, path)
    return figure


def plot_pit(
    records: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str | Path | None = None, *, title: str = ""
) -> Figure:
    """Draws PIT histograms: a row per part of the data, a column per method.

    Bars have 95 % intervals over events. The grey band is where 95 % of bars would lie if all values were
    independent; they are not (categories and windows of one event go together), so the intervals are what counts: a
    forecast as sure as it may be has bars whose intervals hold the dashed line.

    Args:
        records: row -> method -> a record with "pit" (of `ForecastReport.summary`).
        path: as in `plot_forecast`.
        title: title of the figure; it should say what was simulated.

    Raises:
        InputError: matplotlib is missing.
    """
    figure_class, context = matplotlib_parts()
    methods = list(dict.fromkeys(method for row in records.values() for method in row))
    n_rows, n_columns = len(records), len(methods)
    with context(STYLE):
        size = (max(_WIDTH, 0.4 + 1.75 * n_columns), 0.95 + 1.35 * n_rows)
        figure = figure_class(figsize=size, layout="constrained")
        figure.suptitle(_wrapped(title, size[0]), x=0.015, ha="left", fontsize=8)
        grid = figure.subplots(n_rows, n_columns, sharex=True, sharey="row", squeeze=False)
        for i, (name, found) in enumerate(records.items()):
            for j, method in enumerate(methods):
                axes = grid[i, j]
                if method not in found:
                    axes.set_axis_off()
                    continue
                _draw_histogram(axes, found[method]["pit"], COLOURS[j % len(COLOURS)])
                if i == 0:
                    axes.set_title(method, fontsize=7.5, pad=12)
            n_events = next(iter(found.values()))["pit"]["n_events"]
            grid[i, 0].set_ylabel(f"{name}\n({n_events} events)")
        figure.supxlabel("PIT of the count of each category in each window", fontsize=STYLE["axes.labelsize"])
        _save(figure, path)
    return figure


def plot_coverage(
    methods: Mapping[str, Mapping[str, Any]], path: str | Path | None = None, *, title: str = ""
) -> Figure:
    """Draws how often real counts lay within central bands, against the bands' levels, with intervals over events.

    Args:
        methods: method -> a record with "covered" (of `ForecastReport.summary`).
        path: as in `plot_forecast`.
        title: as in `plot_pit`.

    Raises:
        InputError: matplotlib is missing.
    """
    figure_class, context = matplotlib_parts()
    with context(STYLE):
        figure = figure_class(figsize=(_WIDTH, 3.6), layout="constrained")
        figure.suptitle(_wrapped(title, _WIDTH), x=0.015, ha="left", fontsize=8)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=(0, (4, 3)), label="as sure as it may be", zorder=0)
        markers = "osD^vPX*"
        for number, (method, record) in enumerate(methods.items()):
            levels = np.asarray([float(level) for level in record["covered"]])
            found = list(record["covered"].values())
            values = np.asarray([entry["value"] for entry in found])
            # Side by side, so that intervals can be told apart.
            x = levels + 0.012 * (number - (len(methods) - 1) / 2)
            style = {"color": COLOURS[number % len(COLOURS)], "marker": markers[number % len(markers)], "ms": 3.5}
            if all(entry["low"] is not None for entry in found):
                low, high = (np.asarray([entry[side] for entry in found]) for side in ("low", "high"))
                errors = [np.maximum(values - low, 0), np.maximum(high - values, 0)]
                axes.errorbar(x, values, yerr=errors, lw=1.0, elinewidth=0.9, label=method, **style)
            else:
                axes.plot(x, values, lw=1.0, label=method, **style)
            axes.set_xticks(levels)
        axes.set(xlabel="level of the central band", ylabel="real counts within it", xlim=(0.4, 1.0), ylim=(0.0, 1.0))
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        _save(figure, path)
    return figure


def plot_calibration(summary: Mapping[str, Any], folder: str | Path, *, title: str = "") -> None:
    """Draws how sure forecasts were: ``pit``, ``pit_by_data_set`` where there are several, and ``coverage``.

    Args:
        summary: of a `ForecastReport`.
        folder: where the figures go.
        title: as in `plot_pit`.

    Raises:
        InputError: matplotlib is missing.
    """
    folder = Path(folder)
    parts = {name: record["methods"] for name, record in summary["data_sets"].items()}
    pooled = summary["overall"].get("methods")
    if pooled is None or len(parts) == 1:
        plot_pit(parts, folder / "pit", title=title)
    else:
        plot_pit({"all": pooled}, folder / "pit", title=title)
        plot_pit(parts, folder / "pit_by_data_set", title=title)
    plot_coverage(pooled or next(iter(parts.values())), folder / "coverage", title=title)


def _places(forecast: Forecast, plan: WindowPlan | None) -> tuple[np.ndarray, np.ndarray]:
    """Where the forecast and the windows of the warm-up are drawn: their middles, in people since the event began."""
    if plan is None or plan.windows.waves:
        n_before = 0 if plan is None else len(warm_up_windows(plan))
        return np.arange(len(forecast.names), dtype=float), np.arange(-n_before, 0, dtype=float)
    size, start = plan.windows.window, len(plan.warm_up)
    numbers = np.asarray([int(name) for name in plan.names])
    # A warm-up that is shorter than a window is drawn as one.
    before = start - min(size, start) * (np.arange(len(warm_up_windows(plan)))[::-1] + 0.5)
    return start + size * (numbers - 0.5), before


def _draw_bands(axes: Axes, x: np.ndarray, bands: list[Any], median: np.ndarray, colour: str) -> None:
    for (low, high), alpha in zip(bands, (0.18, 0.38), strict=True):
        if len(x) == 1:
            # A band of one step has no width: a bar stands for it.
            axes.bar(x, high - low, bottom=low, width=0.4, color=colour, alpha=alpha, lw=0)
        else:
            axes.fill_between(x, low, high, color=colour, alpha=alpha, lw=0)
    axes.plot(x, median, "--s", color=colour, lw=1.2, ms=2.6, mfc="white", mew=0.8)


def _draw_real(axes: Axes, x: np.ndarray, before: np.ndarray, plan: WindowPlan, k: int, colour: str) -> None:
    real = np.concatenate([warm_up_windows(plan)[:, k], plan.truth[:, k]])
    axes.plot(np.concatenate([before, x]), real, "-o", color=colour, lw=1.0, ms=2.4)


def _finish_axis(
    strips: np.ndarray, forecast: Forecast, plan: WindowPlan | None, x: np.ndarray, before: np.ndarray
) -> None:
    last = strips[-1]
    if plan is None or plan.windows.waves:
        names = [plan.event.turns[int(plan.latest[0])].wave or "" for _ in before] if plan is not None else []
        ticks = np.concatenate([before, x])
        kept = ticks if len(ticks) <= 12 else ticks[:: -(-len(ticks) // 8)]
        labels = dict(zip(ticks.tolist(), [*names, *forecast.names], strict=True))
        last.set_xticks(kept, [plain(labels[place]) for place in kept.tolist()])
        last.set_xlabel("wave" if plan is not None else forecast.unit)
        last.set_xlim(ticks[0] - 0.5, ticks[-1] + 0.5)
        return
    size, warm_up = plan.windows.window, len(plan.warm_up)
    last.set_xlim(0, x[-1] + size / 2)
    last.set_xlabel(f"reactions in order of time (windows of {size})")
    for axes in strips:
        axes.axvspan(0, warm_up, color=_SHADE, zorder=0, lw=0)
    if warm_up:
        strips[0].set_title("warm-up", loc="left", fontsize=7, color=GREY, pad=2)


def _band_handles(real: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=GREY, ls="--", marker="s", ms=2.8, mfc="white", label="simulated, median"),
        Patch(color=GREY, alpha=0.56, lw=0, label=f"{_CROWD_LEVEL:.0%} band, large crowd"),
        Patch(color=GREY, alpha=0.18, lw=0, label=f"{_COUNT_LEVEL:.0%} band, people counted"),
    ]
    return [Line2D([], [], color=GREY, marker="o", ms=2.6, label="real"), *handles] if real else handles


def _draw_histogram(axes: Axes, pit: Mapping[str, Any], colour: str) -> None:
    from matplotlib.ticker import MaxNLocator

    shares = np.asarray(pit["shares"], dtype=float)
    edges = np.linspace(0, 1, len(shares) + 1)
    middles, expected = (edges[1:] + edges[:-1]) / 2, 1 / len(shares)
    axes.axhspan(*pit["binomial"], color=_SHADE, lw=0, zorder=0)
    axes.axhline(expected, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.bar(middles, shares, width=0.9 / len(shares), color=colour, alpha=0.55, lw=0, zorder=2)
    if pit["low"] is not None:
        low, high = np.asarray(pit["low"], dtype=float), np.asarray(pit["high"], dtype=float)
        errors = [np.maximum(shares - low, 0), np.maximum(high - shares, 0)]
        axes.errorbar(middles, shares, yerr=errors, fmt="none", ecolor="black", elinewidth=0.7, zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))  # whole percents, as they are written
    axes.yaxis.set_major_formatter(percent)
    p_value = pit["p_value"]
    if p_value is not None:
        text = "uniform: p < .001" if p_value < 0.001 else f"uniform: p = {p_value:.3f}".replace("0.", ".")
        axes.annotate(
            text,
            (0.5, 1),
            xytext=(0, 2),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=GREY,
        )


def _heading(forecast: Forecast, title: str | None) -> str:
    """The title in at most three lines: of which event, and what is simulated."""
    n = len(forecast.shares)
    who = f"simulated: {n} rollout{'s' * (n > 1)}, {forecast.readout} readout" if forecast.seeds else forecast.readout
    kind = forecast.made_with.get("recalibration", "none")
    who += "" if kind == "none" else f", recalibrated ({kind})"
    text = " ".join((forecast.event_id if title is None else title).split())
    if not drawable(text):
        text = forecast.event_id
    return plain("\n".join([_wrapped(text, _WIDTH), who]))


def _wrapped(text: str, width: float) -> str:
    """At most two lines of a figure `width` inches wide."""
    return "\n".join(textwrap.wrap(text, int(54 * width / _WIDTH), max_lines=2, placeholder=" ..."))


def _save(figure: Figure, path: str | Path | None) -> None:
    if path is None:
        return
    path = Path(path)
    stem = path.with_suffix("") if path.suffix.lower() in (".png", ".pdf") else path
    for ending in (".png", ".pdf"):
        write_figure(stem.with_name(stem.name + ending), figure, dpi=_DPI)
