"""The sections about what interventions changed: the ranking, effects per category, effects per step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mf_llm.evaluation.intervals import LEVEL, Interval
from mf_llm.interventions.effect_plots import EffectFigure
from mf_llm.interventions.effects import Effects, Floats, paired_interval
from mf_llm.interventions.plan import Candidate, InterventionPlan, Target
from mf_llm.interventions.ranking import Ranked, Ranking
from mf_llm.interventions.recommendation import moving_placebos
from mf_llm.reporting.blocks import MINUS, NONE, Block, Cell, Figure, Gallery, Section, Table, Text, listed, number
from mf_llm.reporting.drawing import WIDTH, draw

_PLOT_WIDTH = 3.5  # what the heights of the figures are meant for


def ranking_section(ranking: Ranking, n_seeds: int, figure: EffectFigure) -> Section:
    """The candidates, best first.

    Args:
        ranking: of them.
        n_seeds: how many seeds there are.
        figure: the ranking as dots.
    """
    target = ranking.target
    weighted = target.cost_weight > 0
    moved = moving_placebos(ranking)
    rows: list[list[Cell | str]] = [
        [
            Cell(text=one.name, detail=_fate(one, n_seeds)),
            _effect_cell(one.effect, mark=_mark(one, ranking, moved)),
            Cell(text=NONE, title="it is the best") if one.behind is None else _effect_cell(one.behind),
            f"{one.cost:g}",
            *([f"{points_of(one.net)}"] if weighted else []),
            str(one.n_seeds),
            one.dominated_by or NONE,
        ]
        for one in ranking.ranked
    ]
    caption = (
        f"To {target}: effects on its share in percentage points, with {100 * ranking.level:.0f} % intervals over "
        f"seeds that hold for all {ranking.n_intervals} effects looked at together; how far the best is ahead has "
        "such intervals, too. Dominated by: another that costs no more and does no worse on average."
    )
    if weighted:
        caption += (
            " Net: the effect towards the goal, less what it costs, at "
            f"{points_of(target.cost_weight).lstrip('+')} points for each unit; it gives the order."
        )
    head = ["candidate", "effect", "best is ahead by", "cost", *(["net"] if weighted else []), "seeds", "dominated by"]
    words = frozenset({len(head) - 1})
    table = Table(caption=caption, head=head, rows=rows, words=words)
    return Section(name="ranking", title="Candidates, the best first", blocks=[table, drawn(figure)])


def effects_section(effects: Effects, plan: InterventionPlan, figures: Sequence[EffectFigure]) -> Section:
    """What became of each category, at the target and step by step."""
    members = [one for one in plan.candidates if one.name in effects.seeds]
    blocks: list[Block] = [_at_target(effects, plan, members)]
    still = [one.name for one in members if not np.nan_to_num(effects.differences(one.name)).any()]
    if still:
        text = f"{listed(still)} changed nothing at all, in no seed and at no step: what was done reached nobody."
        blocks.append(Text(text=text))
    absent = [one.name for one in plan.candidates if one.name not in effects.seeds]
    if absent:
        blocks.append(Text(text=f"Not simulated: {listed(absent)}."))
    blocks.append(Gallery(figures=[drawn(figure) for figure in figures]))
    blocks += [_by_step(effects, category, members) for category in effects.categories]
    return Section(name="effects", title="What changed", blocks=blocks)


def drawn(figure: EffectFigure) -> Figure:
    """A figure as the page shows it; it is wider there, and so are its letters."""
    source = draw(figure.height * WIDTH / _PLOT_WIDTH, figure.paint)
    return Figure(source=source, alt=f"{figure.title}. {figure.spoken}", caption=f"{figure.title}. {figure.note}")


def points_of(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = number(100 * share, 1)
    return text if text == NONE or text.startswith(MINUS) or not float(text.replace(",", "")) else f"+{text}"


def bounds_of(effect: Interval) -> str:
    """Its interval in percentage points; empty where it has none."""
    if effect.low is None or effect.high is None:
        return ""
    return f"[{points_of(effect.low)}, {points_of(effect.high)}]"


def shown_at(plan: InterventionPlan, effects: Effects) -> Target:
    """The target; without one the last step (of any category)."""
    return plan.target or Target(category=effects.categories[0], step=effects.steps[-1])


def effect_on(effects: Effects, name: str, target: Target, category: str, level: float = LEVEL) -> Interval | None:
    """The effect on a category at the steps of a target; None where a step has no reading."""
    within = [place for place, step in enumerate(effects.steps) if target.first <= step <= target.last]
    found = effects.differences(name)[:, within, effects.categories.index(category)].mean(axis=1)
    return paired_interval(found, level) if np.isfinite(found).all() else None


def _at_target(effects: Effects, plan: InterventionPlan, members: Sequence[Candidate]) -> Table:
    target = shown_at(plan, effects)
    when = f"at step {target.first}" if target.first == target.last else f"in the mean of steps {target.first} to "
    when += "" if target.first == target.last else str(target.last)
    rows = [
        [
            Cell(text=one.name, detail="placebo" if one.placebo else ""),
            *(_found_cell(effect_on(effects, one.name, target, category)) for category in effects.categories),
        ]
        for one in members
    ]
    caption = (
        f"Effects on every category {when}, in percentage points, with paired 95 % intervals over seeds, each by "
        f"itself{' (those of the ranking are wider: they hold together)' if plan.target is not None else ''}."
    )
    return Table(caption=caption, head=["candidate", *effects.categories], rows=rows)


def _by_step(effects: Effects, category: str, members: Sequence[Candidate]) -> Table:
    most = max(effects.seeds, key=lambda name: len(effects.seeds[name]))
    k = effects.categories.index(category)
    rows: list[list[Cell | str]] = []
    for t, step in enumerate(effects.steps):
        cells = []
        for one in members:
            if step < min(each.step for each in one.interventions):
                cells.append(Cell(text=NONE, mark="missing", title="nothing was done yet"))
            else:
                values = effects.differences(one.name)[:, t, k]
                cells.append(_found_cell(paired_interval(values) if np.isfinite(values).all() else None))
        rows.append([f"step {step}", _share(effects.without[most][:, t, k]), *cells])
    caption = f"{category}, step by step: the share without (mean over seeds), and effects in percentage points."
    return Table(caption=caption, head=["step", "without", *(one.name for one in members)], rows=rows, folded=True)


def _share(values: Floats) -> str:
    mean = float(values.mean())
    return f"{mean:.1%}" if np.isfinite(mean) else NONE


def _effect_cell(effect: Interval, *, mark: str = "") -> Cell:
    detail = bounds_of(effect) or "no interval: one seed"
    return Cell(text=points_of(effect.value), detail=detail, mark=mark)


def _found_cell(effect: Interval | None) -> Cell:
    if effect is None:
        return Cell(text=NONE, mark="missing", title="no reading in some step")
    return _effect_cell(effect)


def _fate(one: Ranked, n_seeds: int) -> str:
    if one.placebo:
        return "placebo"
    return f"stopped after {one.n_seeds} of {n_seeds} seeds" if one.n_seeds < n_seeds else ""


def _mark(one: Ranked, ranking: Ranking, moved: Sequence[str]) -> str:
    if one.name in moved:
        return "less"
    return "best" if not moved and one is ranking.recommended else ""
