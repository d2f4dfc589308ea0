"""`write_intervention_report`: what interventions changed in a simulation, as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import plain, write_bytes
from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import LEVEL
from mf_llm.interventions.effect_plots import effect_figures
from mf_llm.interventions.effects import Effects
from mf_llm.interventions.plan import Candidate, InterventionPlan
from mf_llm.interventions.ranking import Ranked, Ranking
from mf_llm.interventions.recommendation import moving_placebos, recommendation
from mf_llm.reporting.blocks import NONE, Block, Section, Table, Text, counted, listed, shortened
from mf_llm.reporting.branch_samples import branch_samples_section
from mf_llm.reporting.effect_sections import (
    bounds_of,
    effect_on,
    effects_section,
    points_of,
    ranking_section,
    shown_at,
)
from mf_llm.reporting.findings import Finding
from mf_llm.reporting.intervention_words import done_section
from mf_llm.reporting.page import TEMPLATE, environment
from mf_llm.reporting.trust_section import read_trust, trust_section
from mf_llm.simulation.rollout import Rollout

_NOT_MEASURED = "Effects are differences between simulations, not measured on people."


def write_intervention_report(
    output: str | Path,
    *,
    plan: InterventionPlan,
    effects: Effects,
    ranking: Ranking | None,
    parents: Sequence[Rollout],
    branches: Mapping[str, Sequence[Rollout]],
    command: str,
    comparison: str | Path | None = None,
) -> Path:
    """Writes the report of a plan that was simulated; the same results give the same bytes.

    Args:
        output: the page.
        plan: what was compared.
        effects: what it changed.
        ranking: of the candidates; None where the plan has no target.
        parents: the rollouts without interventions.
        branches: candidate -> its rollouts.
        command: what the page was made with.
        comparison: output folder of ``mf-llm compare``, which says how far the model was judged.

    Returns:
        The path of the page.

    Raises:
        InputError: there are no parents, the folder holds no comparison, or matplotlib or jinja2 is missing.
    """
    if not parents or not effects.seeds:
        raise InputError(
            "`parents` and `effects` must hold at least one rollout, got none; there is nothing to report."
        )
    trust = read_trust(parents[0], comparison)
    figures = {one.name: one for one in effect_figures(effects, plan, ranking)}
    sections = [
        *([ranking_section(ranking, len(parents), figures["ranking"])] if ranking is not None else []),
        effects_section(effects, plan, [figures["trajectories"], figures["steps"]]),
        done_section(plan),
        branch_samples_section(_shown(plan, ranking, branches), parents, branches),
        trust_section(trust, plan, effects, parents, branches),
        _record_section(plan, parents, branches, command),
    ]
    page = (
        environment()
        .get_template(TEMPLATE)
        .render(
            title=f"Interventions in event {parents[0].event_id}",
            compared=f"{counted(len(effects.seeds), 'candidate')}, {counted(len(parents), 'seed')}. "
            f"Topic: “{shortened(parents[0].topic, 400)}”",
            facts=_facts(plan, parents),
            findings=[*_findings(plan, effects, ranking), Finding(f"{_NOT_MEASURED} {trust.sentence}")],
            sections=sections,
            texts=True,
        )
    )
    path = Path(output)
    # A lone half of a character pair, which JSON can hold and a file cannot, becomes a question mark.
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


def _findings(plan: InterventionPlan, effects: Effects, ranking: Ranking | None) -> list[Finding]:
    """The recommendation, what it costs, the check by placebos, and who is dominated."""
    if ranking is None:
        text = "The plan has no target: effects were measured, and nothing is ranked or recommended."
        return [Finding(text), Finding(_checked(_placebos_without_target(plan, effects)))]
    found = [Finding(recommendation(ranking))]
    moved = moving_placebos(ranking)
    if ranking.recommended is not None and not moved:
        found.append(Finding(_cost(ranking.recommended, ranking)))
    placebos = {
        one.name: (one.name in moved, f"{points_of(one.effect.value)} points {bounds_of(one.effect)}".rstrip())
        for one in ranking.ranked
        if one.placebo
    }
    found.append(Finding(_checked(placebos)))
    dominated = [one.name for one in ranking.ranked if one.dominated_by is not None and not one.placebo]
    if dominated:
        found.append(
            Finding(f"Dominated by one that costs no more and does no worse on average: {listed(dominated)}.")
        )
    return found


def _cost(best: Ranked, ranking: Ranking) -> str:
    text = f"{best.name} costs {best.cost:g}."
    weight = ranking.target.cost_weight
    if weight > 0:
        text += (
            f" At {points_of(weight).lstrip('+')} points for each unit of cost, {points_of(best.net)} points are left "
            "(net)."
        )
    elif any(one.cost for one in ranking.ranked):
        text += " Costs do not count in the order (cost_weight: 0)."
    return text


def _checked(placebos: Mapping[str, tuple[bool, str]]) -> str:
    """What placebos say: name -> whether it moves something, and its effect in words."""
    if not placebos:
        return "No placebo is in the plan: whether the model reacts to any change at all was not checked."
    moving = [f"{name} {effect}" for name, (moves, effect) in placebos.items() if moves]
    if moving:
        return (
            f"Placebo check failed: {'; '.join(moving)}; the interval does not contain zero. The model reacts to "
            "anything, and the effects are not to be believed."
        )
    told = "; ".join(f"{name} {effect}" for name, (_, effect) in placebos.items())
    if not all("[" in effect for _, effect in placebos.values()):
        return f"Placebo check: {told}. With one seed there is no interval, and nothing is checked."
    return f"Placebo check: {told}; the interval contains zero, as it should. A small reaction can hide in it."


def _placebos_without_target(plan: InterventionPlan, effects: Effects) -> dict[str, tuple[bool, str]]:
    """Placebos at the last step, by the category that moves most; the intervals of all of them hold together."""
    names = [one.name for one in plan.candidates if one.placebo and one.name in effects.seeds]
    level = 1 - (1 - LEVEL) / max(1, len(names) * len(effects.categories))
    target, found = shown_at(plan, effects), {}
    for name in names:
        known = {
            category: effect
            for category in effects.categories
            if (effect := effect_on(effects, name, target, category, level)) is not None
        }
        moves = [one for one, effect in known.items() if not (effect.low or 0.0) <= 0 <= (effect.high or 0.0)]
        category = max(moves or known, key=lambda one, known=known: abs(known[one].value), default=None)
        if category is not None:
            words = f"{points_of(known[category].value)} points {bounds_of(known[category])}".rstrip()
            found[name] = (bool(moves), f"{words} on {category} at step {target.last}")
    return found


def _facts(plan: InterventionPlan, parents: Sequence[Rollout]) -> dict[str, str]:
    first = parents[0]
    model = first.versions.get("policy_base") or first.versions.get("model") or "not named"
    return {
        "event": first.event_id,
        "data set": first.data_set or "not named",
        "target": str(plan.target) if plan.target is not None else "none",
        "model": str(model),
        "readout": f"{first.config.get('readout')}{', anchored' if first.config.get('anchored') else ''}",
        "signal": str(first.config.get("signal")),
        "mf-llm": str(first.versions.get("mf_llm", "")),
    }


def _shown(
    plan: InterventionPlan, ranking: Ranking | None, branches: Mapping[str, Sequence[Rollout]]
) -> Candidate | None:
    """The best candidate; without a ranking the first one that is no placebo."""
    best = ranking.best if ranking is not None else None
    made = [one for one in plan.candidates if branches.get(one.name)]
    made.sort(key=lambda one: (best is None or one.name != best.name, one.placebo))
    return next(iter(made), None)


def _record_section(
    plan: InterventionPlan, parents: Sequence[Rollout], branches: Mapping[str, Sequence[Rollout]], command: str
) -> Section:
    from yaml import safe_dump

    first = parents[0]
    resolved = {f"{key} (resolved)": value for key, value in first.config.get("resolved", {}).items()}
    config = {key: value for key, value in first.config.items() if key not in ("seed", "resolved")} | resolved
    record = {
        "event": first.event_id,
        "event hash (SHA-256)": first.event_hash,
        "data set": first.data_set,
        "dimension": first.dimension,
        "categories": ", ".join(first.categories),
        "seeds": ", ".join(str(parent.seed) for parent in parents),
    }
    seeds = [[one.name, ", ".join(str(each.seed) for each in branches.get(one.name, ()))] for one in plan.candidates]
    blocks: list[Block] = [
        Text(heading="Command", text=command, code=True),
        _table("Event and seeds.", "what", record),
        _table("Model and versions.", "what", first.versions),
        Table(
            caption="Seeds of the branches.",
            head=["candidate", "seeds"],
            rows=[[name, found or NONE] for name, found in seeds],
            words=frozenset({1}),
            folded=True,
        ),
        _table("How the parents were simulated.", "option", config, folded=True),
        Text(heading="Plan", text=safe_dump(plain(plan.to_dict()), sort_keys=False, allow_unicode=True), code=True),
    ]
    return Section(name="record", title="How this was made", blocks=blocks)


def _table(caption: str, what: str, record: Mapping[str, Any], *, folded: bool = False) -> Table:
    rows = [[name, str(value)] for name, value in record.items() if value not in (None, "")]
    return Table(caption=caption, head=[what, "value"], rows=rows, words=frozenset({1}), folded=folded)
