"""Effects and rankings as tables for a terminal."""

from __future__ import annotations

import textwrap

from mf_llm.evaluation.intervals import Interval
from mf_llm.evaluation.tables import render
from mf_llm.interventions.effects import Effects, paired_interval
from mf_llm.interventions.plan import InterventionPlan
from mf_llm.interventions.ranking import Ranking
from mf_llm.interventions.recommendation import points, recommendation


def ranking_table(ranking: Ranking, width: int) -> str:
    """The candidates, best first, and what follows.

    Args:
        ranking: of them.
        width: of the terminal, in columns.
    """
    rows = []
    for place, one in enumerate(ranking.ranked, 1):
        name = f"{place} {one.name}" + (" (placebo)" if one.placebo else "")
        behind = "" if one.behind is None else points(one.behind).replace(" points", "")
        rows.append([name, _bare(one.effect), behind, f"{one.cost:g}", str(one.n_seeds), one.dominated_by or ""])
    caption = (
        f"Percentage points of simulated people, and {100 * ranking.level:.0f} % intervals over seeds that hold for "
        "all candidates together; nothing of how far the model is from people is in them."
    )
    columns = ("candidate", "effect", "best is ahead by", "cost", "seeds", "dominated by")
    table = render(f"To {ranking.target}", columns, rows, width, "\n".join(textwrap.wrap(caption, width)))
    return f"{table}\n{textwrap.fill(recommendation(ranking), width)}"


def effects_table(effects: Effects, plan: InterventionPlan, width: int) -> str:
    """The effect on each category at the last step.

    Args:
        effects: of the candidates.
        plan: they are of.
        width: of the terminal, in columns.
    """
    rows = []
    for one in plan.candidates:
        differences = effects.differences(one.name)
        last = [_bare(paired_interval(differences[:, -1, k])) for k in range(len(effects.categories))]
        rows.append([one.name, *last, str(len(effects.seeds[one.name]))])
    title = f"Effects at step {effects.steps[-1]}, the last, in percentage points with 95 % intervals over seeds"
    return render(title, ("candidate", *effects.categories, "seeds"), rows, width)


def _bare(effect: Interval) -> str:
    return points(effect).replace(" points", "")
