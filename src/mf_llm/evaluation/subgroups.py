"""Subgroups of survey respondents, read from their states: party, age, or any other field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.evaluation.forecasters import Training, method_name
from mf_llm.evaluation.judged_event import JudgedEvent, judge_forecast
from mf_llm.evaluation.method_table import Cell
from mf_llm.evaluation.paired import Resampling, mean_of_seeds
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.evaluation.scoring import Replicated, readout, survey_score

SUBGROUPS = ("party", "age")
MIN_PEOPLE = 50
# A subgroup is judged with this many simulated people: with fewer, resamples without any of them would occur.
MIN_SIMULATED = 20
_AGE_BANDS = ((18, "18-29"), (30, "30-44"), (45, "45-64"), (65, "65+"))


def subgroup_of(field: str, value: Any) -> str | None:
    """The subgroup a value belongs to; None where it is missing.

    Ages become the four bands that pollsters use, whether they come as a number ("34") or as a band ("30-34"). In
    a party, people who lean to one are counted with it ("Lean Democrat" with "Strong Democrat"). Other fields keep
    their values.
    """
    if value is None or value == "":
        return None
    text = str(value)
    if field == "age":
        match = re.match(r"\s*(\d+)", text)
        bands = [name for lowest, name in _AGE_BANDS if match and int(match.group(1)) >= lowest]
        return bands[-1] if bands else None
    if field == "party":
        for party in ("Democrat", "Republican", "Independent"):
            if party.lower() in text.lower():
                return party
    return text


def subgroup_plans(
    plan: WindowPlan, fields: Sequence[str] = SUBGROUPS, min_people: int = MIN_PEOPLE
) -> Iterator[tuple[str, str, NDArray[np.bool_], WindowPlan]]:
    """The subgroups of an event with at least `min_people` people in each judged wave and one in the warm-up.

    Yields:
        Field, value, mask over the turns of the event, and the plan restricted to these people.
    """
    for field in fields:
        values = [
            subgroup_of(field, turn.state.get(field)) if not isinstance(turn.state, str) else None
            for turn in plan.event.turns
        ]
        for value in sorted({value for value in values if value is not None}):
            members = np.asarray([entry == value for entry in values])
            part = plan.restricted(members)
            enough = part.n_windows == plan.n_windows and all(len(window) >= min_people for window in part.judged)
            if enough and len(part.latest):
                yield field, value, members, part


@dataclass(frozen=True, kw_only=True)
class SurveyPart:
    """A survey's respondents, or a subgroup of them, and the KL of each method.

    Attributes:
        field, value: the subgroup; None for all respondents.
        n_people: those of the judged waves.
        sampling_alone: KL expected from sampling them.
        reference: KL of the reference.
        scores: method -> KL, mean over training seeds; without methods that simulated too few of these people.
    """

    field: str | None
    value: str | None
    n_people: int
    sampling_alone: float
    reference: Replicated
    scores: dict[str, Replicated]


def subgroup_scores(
    plan: WindowPlan,
    place: int,
    methods: Sequence[Any],
    cells: Mapping[str, Cell],
    training: Training,
    *,
    label: str,
    resampling: Resampling,
    fields: Sequence[str] = SUBGROUPS,
) -> list[SurveyPart]:
    """All respondents of a survey event, then its subgroups.

    Args:
        plan: the event.
        place: its place among the events of the cells.
        methods: forecasters (asked anew for each part) and simulated methods (whose people are filtered).
        cells: method -> its judged events.
        training: for the forecasters.
        label: of the task.
        resampling: draws of respondents and training seeds, shared by all.
        fields: fields of the states.
    """
    whole = np.ones(len(plan.event.turns), dtype=bool)
    draws, parts = resampling.of_respondents(label, plan), []
    for field, value, members, part in [(None, None, whole, plan), *subgroup_plans(plan, fields)]:
        scores, least = {}, MIN_SIMULATED if field else 1
        for method in methods:
            cell = cells[method_name(method)]
            if cell.scores is None:
                continue
            if hasattr(method, "judge"):
                seeds = cell.scores.seeds
                of_seeds = [_people_score(plan, one[place], draws, members, least) for one in seeds.values()]
                known = [one for one in of_seeds if one is not None]
                if len(known) == len(of_seeds):
                    scores[method_name(method)] = mean_of_seeds(known, resampling.of_seeds(tuple(seeds)))
            else:
                q = judge_forecast(part, method, training).q
                scores[method_name(method)] = survey_score(plan, q, draws, members=members)
        q = judge_forecast(part, training.reference, training).q
        parts.append(
            SurveyPart(
                field=field,
                value=value,
                n_people=sum(len(window) for window in part.judged),
                sampling_alone=part.sampling_alone(),
                reference=survey_score(plan, q, draws, members=members),
                scores=scores,
            )
        )
    return parts


def _people_score(
    plan: WindowPlan,
    judged: JudgedEvent,
    draws: Sequence[NDArray[np.float64]],
    members: NDArray[np.bool_],
    least: int,
) -> Replicated | None:
    """KL of some simulated people; None where they are fewer than `least`."""
    q = []
    for window, answers in zip(plan.judged, judged.answers or (), strict=True):
        inside = members[window]
        if (answers[inside].sum(axis=1) > 0).sum() < least:
            return None
        weights = plan.weights[window[inside]]
        q.append(readout((weights / weights.mean()) @ answers[inside], judged.sampled))
    return survey_score(plan, np.stack(q), draws, answers=judged.answers, sampled=judged.sampled, members=members)
