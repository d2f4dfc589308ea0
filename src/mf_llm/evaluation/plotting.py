"""`plot_trajectory`: what people did and what simulated people did, over time, with the KL of every window below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.atomic_files import write_figure
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import clamp, kl_divergence, normalise
from mf_llm.evaluation.forecasters import Training, forecast, full_name
from mf_llm.evaluation.matching import match
from mf_llm.evaluation.protocol import WindowPlan, Windows, choose_windows, plan_event
from mf_llm.evaluation.readouts import end_of_warm_up, read_answers
from mf_llm.events.event import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mf_llm.simulation import Rollout

# Okabe and Ito (2008), for all kinds of colour vision; yellow comes last, it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
GREY, _SHADE = "#6b6b6b", "#ececec"
_WIDTH = 3.5
STYLE = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}

Floats = NDArray[np.float64]


def plot_trajectory(
    rollouts: Sequence[Rollout],
    event: Event,
    path: str | Path | None = None,
    *,
    events: Sequence[Event] = (),
    windows: Windows | None = None,
    title: str | None = None,
) -> Figure:
    """Draws one event, one column wide: real shares (solid), simulated shares (dashed), and KL against the reference.

    Each category has a strip and a colour of its own; the warm-up is shaded. A survey is drawn as bars of its judged
    wave: the wave before, the reference forecast, simulated people and real people side by side.

    Args:
        rollouts: rollouts of this event by one method; seeds are pooled.
        event: the event.
        path: where to save the figure; both ``.png`` (300 dpi) and ``.pdf`` are written. None: it is not saved.
        events: events of the same data set: train and validation events give the reference its prior and alpha.
        windows: how the event is cut (default: `choose_windows` of `events`, or of the event).
        title: title of the figure (default: the topic, shortened).

    Returns:
        The figure; not registered with pyplot, so there is nothing to close.

    Raises:
        InputError: matplotlib is missing, the rollouts do not belong to the event, or hold nothing to draw.
    """
    figure_class, context = matplotlib_parts()
    picture = _Picture(rollouts, event, events, windows)
    with context(STYLE):
        n_categories, survey = len(picture.plan.categories), picture.plan.windows.waves
        height = 1.0 + 0.4 * n_categories * picture.plan.n_windows if survey else 1.7 + 0.62 * n_categories
        figure = figure_class(figsize=(_WIDTH, height), layout="constrained")
        figure.suptitle(_heading(event, title), x=0.015, ha="left", fontsize=8)
        (_draw_survey if survey else _draw_event)(figure, picture)
        if path is not None:
            path = Path(path)
            stem = path.with_suffix("") if path.suffix.lower() in (".png", ".pdf") else path
            write_figure(stem.with_name(stem.name + ".png"), figure, dpi=300)
            write_figure(stem.with_name(stem.name + ".pdf"), figure)
    return figure


class _Picture:
    """The numbers of a figure."""

    def __init__(
        self, rollouts: Sequence[Rollout], event: Event, events: Sequence[Event], windows: Windows | None
    ) -> None:
        rollouts = [rollout for rollout in rollouts if rollout.event_id == event.event_id]
        if not rollouts or rollouts[0].dimension is None or end_of_warm_up(rollouts[0]) is None:
            raise InputError(
                f"`rollouts` must hold simulated turns of event {event.event_id!r} on a dimension, got none; there is "
                "nothing to draw; give rollouts of this event."
            )
        match(rollouts, {"events": [event]})
        dimension, start = rollouts[0].dimension, end_of_warm_up(rollouts[0])
        windows = choose_windows(list(events) or [event], dimension) if windows is None else windows
        self.plan = plan_event(event, windows, dimension, start=start)
        answers = read_answers(event, rollouts, len(self.plan.categories))
        covered = answers.covered(self.plan)
        if not any(covered):
            raise InputError(
                f"`rollouts` must simulate a whole window ({windows}) of event {event.event_id!r} in which people "
                f"have labels, got none of {len(covered)}; there is nothing to draw; simulate more of the event, or "
                "give smaller `windows`."
            )
        self.places = np.flatnonzero(covered)
        self.plan = self.plan.selected(covered)
        self.simulated = answers.windows(self.plan)
        training = Training(list(events), windows, dimension, self.plan.categories)
        self.reference = clamp(forecast(training.reference, self.plan, training))
        self.reference_name = full_name(training.reference, training)
        self.kl = kl_divergence(self.plan.truth, self.simulated)
        self.reference_kl = kl_divergence(self.plan.truth, self.reference)
        self.warm_up = warm_up_windows(self.plan)


def warm_up_windows(plan: WindowPlan) -> Floats:
    """Real shares `[n, K]` of the warm-up in windows of the same size, counted back from its end."""
    if not len(plan.warm_up):
        return np.empty((0, len(plan.categories)))
    if plan.windows.waves:
        return normalise(plan.counts(plan.latest))[None]
    size, length = plan.windows.window, len(plan.warm_up)
    firsts = range(length % size, length - size + 1, size) if length >= size else [0]
    return np.stack([normalise(plan.counts(plan.warm_up[first : first + size])) for first in firsts])


def _draw_event(figure: Figure, picture: _Picture) -> None:
    """One strip per category, named in its colour, and the KL strip below; all share the axis of people in time."""
    plan, size = picture.plan, picture.plan.windows.window
    n_categories, warm_up = len(plan.categories), len(plan.warm_up)
    strips = figure.subplots(n_categories + 1, 1, sharex=True, height_ratios=[1] * n_categories + [1.25])
    # A window is drawn at its middle.
    middles = warm_up + size * (picture.places + 0.5)
    before = warm_up - size * (np.arange(len(picture.warm_up))[::-1] + 0.5)
    real = np.concatenate([picture.warm_up, plan.truth])
    top = min(1.0, max(real.max(), picture.simulated.max()))
    for number, category in enumerate(plan.categories):
        axes, colour = strips[number], COLOURS[number % len(COLOURS)]
        axes.plot(np.concatenate([before, middles]), real[:, number], "-o", color=colour, lw=1.2, ms=2.2)
        axes.plot(middles, picture.simulated[:, number], "--s", color=colour, lw=1.2, ms=2.6, mfc="white", mew=0.8)
        axes.set_ylim(-0.05 * top, 1.12 * top)
        axes.yaxis.set_major_locator(locator(top))
        axes.yaxis.set_major_formatter(percent)
        axes.annotate(
            plain(category),
            (1, 1),
            xytext=(-2, 1),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )
    for axes in strips:
        if warm_up:
            axes.axvspan(0, warm_up, color=_SHADE, zorder=0, lw=0)
        axes.tick_params(axis="x", bottom=axes is strips[-1])
    strips[0].annotate(
        "warm-up" if warm_up else "",
        (0, 1),
        xytext=(1, 1),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        color=GREY,
        annotation_clip=False,
    )
    figure.supylabel("share of reactions", fontsize=STYLE["axes.labelsize"], y=0.62)
    _draw_kl(strips[-1], picture, middles)
    strips[-1].set_xlim(0, warm_up + size * (picture.places[-1] + 1))
    strips[-1].set_xlabel(f"reactions in order of time (windows of {size})")
    _legend(strips[0])


def _draw_kl(axes: Axes, picture: _Picture, middles: NDArray[np.floating]) -> None:
    simulated = f"simulated, mean {picture.kl.mean():.3f}"
    reference = f"{picture.reference_name}, mean {picture.reference_kl.mean():.3f}"
    axes.plot(middles, picture.reference_kl, ":", color=GREY, lw=1.4, marker="x", ms=3, label=reference)
    axes.plot(middles, picture.kl, "--s", color="black", lw=1.2, ms=2.6, mfc="white", mew=0.8, label=simulated)
    axes.set_ylim(0, 1.15 * max(picture.kl.max(), picture.reference_kl.max(), 0.02))
    axes.set_ylabel("KL (nats)")
    axes.legend(
        *(entries[::-1] for entries in axes.get_legend_handles_labels()),
        loc="lower right",
        bbox_to_anchor=(1.02, 0.94),
        frameon=False,
        ncols=2,
        fontsize=6,
        handlelength=2.2,
        columnspacing=0.8,
        borderpad=0.1,
    )


def _legend(axes: Axes) -> None:
    """What solid and dashed mean, once; the categories are named where they are drawn."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=GREY, ls="-", marker="o", ms=2.6, label="real"),
        Line2D([], [], color=GREY, ls="--", marker="s", ms=2.8, mfc="white", label="simulated"),
    ]
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.45, 0.95),
        ncols=2,
        frameon=False,
        borderpad=0.1,
        columnspacing=1.0,
    )


def _draw_survey(figure: Figure, picture: _Picture) -> None:
    plan = picture.plan
    positions = np.arange(len(plan.categories))
    panels = figure.subplots(plan.n_windows, 1, sharex=True, squeeze=False)[:, 0]
    for number, axes in enumerate(panels):
        bars: list[tuple[str, Floats, dict[str, Any]]] = [
            *(("real, wave before", shares, {"color": "#c8c8c8"}) for shares in picture.warm_up[-1:]),
            (
                f"{picture.reference_name}, KL {picture.reference_kl[number]:.3f}",
                picture.reference[number],
                {"color": "white", "edgecolor": GREY, "hatch": "//////", "lw": 0.6},
            ),
            (f"simulated, KL {picture.kl[number]:.3f}", picture.simulated[number], {"color": COLOURS[1]}),
            (f"real, wave {plan.names[number]}", plan.truth[number], {"color": COLOURS[0]}),
        ]
        height = 0.82 / len(bars)
        for place, (label, shares, style) in enumerate(bars):
            offset = (place - (len(bars) - 1) / 2) * height
            axes.barh(positions + offset, shares, height=height * 0.9, label=plain(label), **style)
        axes.set_yticks(positions, [plain(category) for category in plan.categories])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, columnspacing=1.0, fontsize=6.5
        )
    panels[-1].xaxis.set_major_formatter(percent)
    panels[-1].set_xlabel("share of people")


def percent(value: float, _: float) -> str:
    """How shares are written beside an axis."""
    return f"{value:.0%}"


def locator(top: float) -> Any:
    """Two or three ticks: the strips are low."""
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(
        next(step for step in (0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01) if 1.6 * step <= max(top, 0.016))
    )


def plain(text: str) -> str:
    """A dollar sign would start mathematics."""
    return text.replace("$", r"\$")


def _heading(event: Event, title: str | None) -> str:
    """The title in at most two lines; the event's id where the font lacks the script of the topic."""
    text = " ".join((event.topic if title is None else title).split())
    if not drawable(text):
        text = event.event_id
    return plain("\n".join(textwrap.wrap(text, 54, max_lines=2, placeholder=" ...")))


def drawable(text: str) -> bool:
    """Whether the font of the figures has all letters of a text."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return all(font.get_char_index(ord(character)) for character in text)


def matplotlib_parts() -> tuple[Any, Any]:
    """The figure class and ``rc_context``, without pyplot and whatever display it would look for."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputError(
            "the package `matplotlib` is not installed; figures are drawn with it; install it with: "
            "pip install 'mf-llm[plot]'"
        ) from error
    return Figure, rc_context
