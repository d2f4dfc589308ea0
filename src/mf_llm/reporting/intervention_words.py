"""What was done, in words: a sentence for each intervention, whose texts stay data."""

from __future__ import annotations

from mf_llm.events.event import State
from mf_llm.interventions.intervention import (
    AddedAction,
    AddedActions,
    AmendedSignal,
    ChangedPeople,
    Intervention,
    ReplacedSignal,
    TopicLine,
)
from mf_llm.interventions.plan import InterventionPlan
from mf_llm.models.prompts import render_state
from mf_llm.reporting.blocks import Block, Points, Section, Text, listed, shortened

_TEXT, _PROFILE, _PROFILES = 600, 200, 6


def done_section(plan: InterventionPlan) -> Section:
    """What each candidate consists of."""
    blocks: list[Block] = [
        Text(
            text="Steps are counted from 0, those of the warm-up included, as in the plan. What stands in quotation "
            "marks is what the plan puts in; very long texts are cut."
        )
    ]
    for one in plan.candidates:
        kind = "A placebo, which should change nothing. " if one.placebo else ""
        blocks += [
            Text(heading=one.name, text=f"{kind}Cost: {one.cost:g}."),
            Points(points=[sentence for each in one.interventions for sentence in in_words(each)]),
        ]
    return Section(name="done", title="What was done", blocks=blocks)


def in_words(one: Intervention) -> list[str]:
    """An intervention in a sentence; one for each action that is added."""
    when = _when(one)
    if isinstance(one, TopicLine):
        return [f"{when}: the topic gets the line {_quoted(one.topic)}"]
    if isinstance(one, ReplacedSignal):
        return [f"{when}: in the place of the population signal people see {_quoted(one.signal)}"]
    if isinstance(one, AmendedSignal):
        return [f"{when}: below the population signal people see {_quoted(one.amend_signal)}"]
    if isinstance(one, AddedActions):
        return [f"{when}: {_action(action)}." for action in one.actions]
    if isinstance(one, ChangedPeople):
        profiles = listed((f"“{_profile(profile)}”" for profile in one.profiles), _PROFILES)
        if one.share is not None:
            return [f"{when}: {one.share:.0%} of the people of a step are replaced by others, drawn from {profiles}."]
        come = "one more person comes" if one.add == 1 else f"{one.add} more people come"
        return [f"{when}: {come} to each step, drawn from {profiles}."]
    return [f"{when}: {one.to_dict()}"]


def _when(one: Intervention) -> str:
    if one.last == one.step:
        return f"Step {one.step}"
    return f"From step {one.step} on" if one.until is None else f"Steps {one.step} to {one.until}"


def _action(action: AddedAction) -> str:
    who = f" ({_profile(action.who)})" if action.who else ""
    people = f"one more person{who} acts" if action.times == 1 else f"{action.times} more people{who} act"
    given = [f"the answer {_quoted(action.label)}"] if action.label is not None else []
    given += [f"the text {_quoted(action.text)}"] if action.text.strip() else []
    return f"{people}, with {listed(given)}; it is seen in the next signal, and shares leave it out"


def _profile(state: State) -> str:
    return shortened("; ".join(render_state(state)), _PROFILE) or "nothing known"


def _quoted(text: str) -> str:
    return f"“{shortened(text, _TEXT)}”"
