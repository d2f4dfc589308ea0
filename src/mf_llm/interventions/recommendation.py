"""What a ranking says, in a sentence or two."""

from __future__ import annotations

from mf_llm.evaluation.intervals import Interval
from mf_llm.interventions.ranking import Ranking


def recommendation(ranking: Ranking) -> str:
    """Which candidate to take, if any, and what it cannot be told from.

    Only a candidate whose simultaneous interval lies on the goal's side of zero is recommended, and none at all if a
    placebo moves the target, too.
    """
    best = ranking.best
    if best is None:
        return "There are only placebos: nothing can be recommended."
    moved = moving_placebos(ranking)
    if moved:
        return (
            f"Nothing can be recommended: {_listed(moved)}, which should do nothing, moves the target, too. The model "
            "reacts to any change, and the effects of the others are not to be believed."
        )
    if ranking.recommended is None:
        why = "" if best.effect.low is not None else " With one seed no interval can be given."
        worth = ""
        if _beyond_zero(best.effect) and ranking.target.sign * best.effect.value > 0:
            worth = f" {best.name} has an effect ({points(best.effect)}), but not one that is worth its cost."
        return f"Nothing clearly does better than doing nothing to {ranking.target}.{worth}{why}"
    said = f"To {ranking.target}: {best.name}, {points(best.effect)}."
    if ranking.equals:
        said += f" It cannot be told from {_listed(ranking.equals)}."
    if best.dominated_by is not None:
        said += f" {best.dominated_by} costs no more and does no worse."
    return said


def moving_placebos(ranking: Ranking) -> list[str]:
    """Placebos whose interval does not contain zero."""
    return [one.name for one in ranking.ranked if one.placebo and _beyond_zero(one.effect)]


def points(effect: Interval) -> str:
    """An effect on a share in percentage points, with its interval."""
    text = f"{100 * effect.value:+.1f} points"
    if effect.low is not None and effect.high is not None:
        text += f" [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
    return text.replace("-", "\u2212")


def _beyond_zero(effect: Interval) -> bool:
    return effect.low is not None and effect.high is not None and not effect.low <= 0 <= effect.high


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
