"""`InterventionPlan`: candidates to be compared and what they are for, read from YAML or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mf_llm.argument_checks import is_finite, is_text, is_whole
from mf_llm.errors import InputError
from mf_llm.events.validation import path_part, show
from mf_llm.interventions.intervention import Intervention, intervention_from_dict
from mf_llm.yaml_files import read_yaml

GOALS = ("raise", "lower")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A share that is to rise or to fall.

    Attributes:
        category: whose share it is.
        step: index of the step at which it counts, or
        steps: first and last index of the steps over which its mean counts.
        goal: "raise" or "lower".
        cost_weight: what share a cost of 1 has to bring to be worth it; 0 ranks by the effect alone.
    """

    category: str
    step: int | None = None
    steps: tuple[int, int] | None = None
    goal: str = "raise"
    cost_weight: float = 0.0

    def __post_init__(self) -> None:
        if not is_text(self.category):
            raise InputError(f"`category` of the target must be text, got {show(self.category)}; put it in quotes.")
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps) if isinstance(self.steps, list | tuple) else ())
        given: tuple[Any, ...] = self.steps if self.steps is not None else (self.step, self.step)
        if (
            (self.step is None) == (self.steps is None)
            or len(given) != 2
            or not all(is_whole(i) and i >= 0 for i in given)
            or given[0] > given[1]
        ):
            raise InputError(
                f"the target must have `step`, an index, or `steps`, the first and the last, got {show(self.step)} "
                f"and {show(self.steps)}; write step: 9, or steps: [5, 9] for the mean over them."
            )
        if self.goal not in GOALS:
            raise InputError(f"`goal` of the target must be one of {', '.join(GOALS)}, got {show(self.goal)}.")
        _check_number("cost_weight", self.cost_weight)

    @property
    def first(self) -> int:
        """Index of its first step."""
        return self.steps[0] if self.steps is not None else int(self.step or 0)

    @property
    def last(self) -> int:
        """Index of its last step."""
        return self.steps[1] if self.steps is not None else int(self.step or 0)

    @property
    def sign(self) -> int:
        """1 where the share is to rise, -1 where it is to fall."""
        return 1 if self.goal == "raise" else -1

    def __str__(self) -> str:
        when = f"at step {self.first}" if self.first == self.last else f"in steps {self.first} to {self.last}"
        return f"{self.goal} the share of {self.category} {when}"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing that could be done.

    Attributes:
        name: what tables call it.
        interventions: what it consists of.
        cost: what it costs, in any unit.
        placebo: it should have no effect: an unrelated, neutral line. It is run to the end and never recommended.
    """

    name: str
    interventions: tuple[Intervention, ...]
    cost: float = 0.0
    placebo: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "interventions", tuple(self.interventions))
        if not is_text(self.name) or not self.name.strip():
            raise InputError(f"`name` of a candidate must be text, got {show(self.name)}; tables could not name it.")
        if not self.interventions:
            raise InputError(f"`interventions` of candidate {self.name!r} must hold at least one, got none.")
        if not isinstance(self.placebo, bool):
            raise InputError(f"`placebo` must be true or false, got {show(self.placebo)}.")
        _check_number("cost", self.cost)


@dataclass(frozen=True, kw_only=True)
class InterventionPlan:
    """What is to be compared.

    Attributes:
        candidates: things that could be done.
        target: what they are for; None: effects are measured, nothing is ranked.
        event: id of the event; may be left out where there is only one.
    """

    candidates: tuple[Candidate, ...]
    target: Target | None = None
    event: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        names = [one.name for one in self.candidates]
        if not names:
            raise InputError("`candidates` must hold at least one candidate, got none; there is nothing to compare.")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"`name` must differ among the candidates, got {twice!r} twice; rename one.")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a file."""
        candidates = [
            {"name": one.name, "cost": one.cost, "placebo": one.placebo}
            | {"interventions": [each.to_dict() for each in one.interventions]}
            for one in self.candidates
        ]
        record: dict[str, Any] = {"event": self.event, "candidates": candidates}
        if self.target is not None:
            own = {f.name: getattr(self.target, f.name) for f in fields(Target)}
            record["target"] = {name: value for name, value in own.items() if value is not None}
        return {key: value for key, value in record.items() if value is not None}


def load_plan(path: str | Path) -> InterventionPlan:
    """Reads a plan from a YAML or JSON file.

    It holds `candidates`, each with `name`, `interventions` and, where wanted, `cost` and `placebo`; or, for a single
    thing that is done, `interventions` alone. Beside them `target` and `event`, where wanted.

    Raises:
        InputError: with the file and the place in it.
    """
    record = read_yaml(Path(path), "plan")
    try:
        return plan_from_dict(record)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def plan_from_dict(record: Any) -> InterventionPlan:
    """Reads a plan (see `load_plan`).

    Raises:
        InputError: with the place.
    """
    if not isinstance(record, Mapping):
        raise InputError(
            f"a plan must be a mapping with `candidates` or `interventions`, got {type(record).__name__}."
        )
    _check_names(record, ("candidates", "interventions", "target", "event"), "a plan")
    if ("candidates" in record) == ("interventions" in record):
        raise InputError("a plan must have `candidates` or `interventions`, one of them; say what could be done.")
    found = record.get("candidates")
    if "interventions" in record:
        found = [{"name": "intervention", "interventions": record["interventions"]}]
    event = record.get("event")
    if event is not None and not isinstance(event, str):
        raise InputError(f"`event` must be the id of an event, got {show(event)}; put it in quotes.")
    target = record.get("target")
    if target is not None:
        _check_names(target, [f.name for f in fields(Target)], "`target`")
        if "category" not in target:
            raise InputError("`target` must have `category`, whose share is to change, got none.")
        target = Target(**{name: value for name, value in target.items() if value is not None})
    return InterventionPlan(candidates=_candidates(found), target=target, event=event)


def _candidates(found: Any) -> tuple[Candidate, ...]:
    if not isinstance(found, list | tuple):
        raise InputError(f"`candidates` must be a list, got {show(found)}.")
    made = []
    for number, one in enumerate(found, 1):
        name = one.get("name") if isinstance(one, Mapping) else None
        where = f"candidate {number}" + (f" ({name})" if name else "")
        try:
            _check_names(one, [f.name for f in fields(Candidate)], "a candidate")
            if not isinstance(one.get("interventions"), list | tuple):
                raise InputError(f"`interventions` must be a list, got {show(one.get('interventions'))}.")
            own = {key: value for key, value in one.items() if value is not None and key != "interventions"}
            made.append(Candidate(**({"name": ""} | own), interventions=_interventions(one["interventions"])))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return tuple(made)


def _interventions(found: list[Any]) -> tuple[Intervention, ...]:
    made = []
    for number, one in enumerate(found, 1):
        try:
            made.append(intervention_from_dict(one))
        except InputError as error:
            raise InputError(f"intervention {number}: {error}") from error
    return tuple(made)


def _check_names(record: Any, names: Any, what: str) -> None:
    if not isinstance(record, Mapping):
        raise InputError(f"{what} must be a mapping with {', '.join(names)}, got {show(record)}.")
    unknown = [path_part(name) for name in record if name not in names]
    if unknown:
        raise InputError(
            f"{what} must have only {', '.join(names)}, got {', '.join(unknown)}; it would be ignored; mend the name "
            "or take it out."
        )


def _check_number(name: str, value: Any) -> None:
    if not is_finite(value) or value < 0:
        raise InputError(f"`{name}` must be a number of at least 0, got {show(value)}.")
