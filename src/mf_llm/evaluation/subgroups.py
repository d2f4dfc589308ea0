"""Subgroups of survey respondents, read from their states: party, age, or any other field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.evaluation.protocol import WindowPlan

SUBGROUPS = ("party", "age")
MIN_PEOPLE = 50
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
