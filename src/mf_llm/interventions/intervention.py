"""`Intervention`: something done to a population at a step of a simulation, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.events.event import State
from mf_llm.events.validation import check_state, check_text, path_part, show
from mf_llm.events.values import plain_mapping


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """What is done from step `step` to step `until`.

    Attributes:
        step: index of the first step it acts on, as in the rollout's table of steps (the warm-up's are counted, too).
            The people of this step are the first who can react.
        until: index of the last one. By default the rest of the event, or (`momentary`) that step alone.
    """

    momentary: ClassVar[bool] = False

    step: int
    until: int | None = None

    def __post_init__(self) -> None:
        check_whole("step", self.step, minimum=0)
        if self.until is not None:
            check_whole("until", self.until, minimum=self.step, why=" (the first step)")
        for f in fields(self):
            if f.type == "str":
                _check_text(f.name, getattr(self, f.name))

    @property
    def last(self) -> float:
        """Index of the last step it acts on; infinite for the rest of the event."""
        if self.until is not None:
            return self.until
        return self.step if self.momentary else float("inf")

    def acts_on(self, step: int) -> bool:
        """Whether it acts on the step with this index."""
        return self.step <= step <= self.last

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a plan (see `from_dict`): `step`, `until` where given, and one key that says what."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("step", "until")}
        record: dict[str, Any] = {"step": self.step}
        if self.until is not None:
            record["until"] = self.until
        return record | self._said(own)

    def _said(self, own: dict[str, Any]) -> dict[str, Any]:
        return own


@dataclass(frozen=True, kw_only=True)
class TopicLine(Intervention):
    """News: a sentence is added to the topic, for the people and for the mean-field model.

    Attributes:
        topic: the sentence.
    """

    topic: str


@dataclass(frozen=True, kw_only=True)
class ReplacedSignal(Intervention):
    """People see this instead of the population signal; the mean-field model goes on from it.

    Attributes:
        signal: what they see.
    """

    momentary: ClassVar[bool] = True

    signal: str


@dataclass(frozen=True, kw_only=True)
class AmendedSignal(Intervention):
    """A line below the population signal; the mean-field model goes on from both.

    Attributes:
        amend_signal: the line.
    """

    momentary: ClassVar[bool] = True

    amend_signal: str


@dataclass(frozen=True, kw_only=True)
class AddedAction:
    """What a described person does.

    Attributes:
        text: what they write; may be empty beside a label.
        label: category of the simulated dimension, or None where there is none or they only write.
        who: their profile, as an event has it.
        times: how many such people there are.
    """

    text: str = ""
    label: str | None = None
    who: State = field(default_factory=dict)
    times: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "who", plain_mapping(self.who))
        if not isinstance(self.text, str) or not (self.label is None or isinstance(self.label, str)):
            raise InputError(
                f"`text` and `label` of an added action must be text, got {show(self.text)} and {show(self.label)}; "
                "nobody could read it; put them in quotes."
            )
        if not self.text.strip() and self.label is None:
            raise InputError("`text` or `label` of an added action must be given, got neither; nothing would be done.")
        check_text(self.text, "text")
        check_state(self.who, "who")
        check_whole("times", self.times, minimum=1)


@dataclass(frozen=True, kw_only=True)
class AddedActions(Intervention):
    """People act who were not there: what they do is seen in the next signal. Shares leave them out.

    Attributes:
        actions: what they do, at the end of each of the steps.
    """

    momentary: ClassVar[bool] = True

    actions: Sequence[AddedAction]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "actions", tuple(self.actions))
        if not self.actions or not all(isinstance(one, AddedAction) for one in self.actions):
            raise InputError(
                f"`actions` must hold at least one AddedAction and nothing else, got {list(self.actions)!r}; nothing "
                "would be done."
            )

    def _said(self, own: dict[str, Any]) -> dict[str, Any]:
        def short(action: AddedAction) -> dict[str, Any]:
            default = AddedAction(text="-")
            values = {f.name: getattr(action, f.name) for f in fields(action)}
            return {name: value for name, value in values.items() if name == "text" or value != getattr(default, name)}

        return {"actions": [short(action) for action in self.actions]}


@dataclass(frozen=True, kw_only=True)
class ChangedPeople(Intervention):
    """Others come: people with the given profiles take the places of those who would have come, or come beside them.

    Who is replaced, and by which profile, is drawn with a key of their own, so that two branches replace alike.

    Attributes:
        profiles: profiles, drawn from with equal chances.
        share: the share of each step's people who are replaced, or
        add: how many people come beside them in each step, whose actions count like theirs.
    """

    profiles: Sequence[State]
    share: float | None = None
    add: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "profiles", tuple(plain_mapping(one) for one in self.profiles))
        if not self.profiles:
            raise InputError("`profiles` must hold at least one profile, got none; nobody could come.")
        for profile in self.profiles:
            check_state(profile, "profiles")
        if (self.share is None) == (self.add is None):
            raise InputError(
                f"`share` or `add` must be given with `profiles`, one of them, got {show(self.share)} and "
                f"{show(self.add)}; share: 0.5 replaces half of the people who come, add: 8 brings eight more to "
                "each step."
            )
        number = isinstance(self.share, int | float) and not isinstance(self.share, bool)
        if self.share is not None and not (number and 0 < self.share <= 1):
            raise InputError(
                f"`share` must lie between 0 and 1, got {show(self.share)}; 0.5 replaces half of the people."
            )
        if self.add is not None:
            check_whole("add", self.add, minimum=1)

    def _said(self, own: dict[str, Any]) -> dict[str, Any]:
        profiles = [profile if isinstance(profile, str) else dict(profile) for profile in self.profiles]
        given = {name: own[name] for name in ("share", "add") if own[name] is not None}
        return {"people": {"profiles": profiles, **given}}


# What a plan says is done -> the class.
KINDS: dict[str, type[Intervention]] = {
    "topic": TopicLine,
    "signal": ReplacedSignal,
    "amend_signal": AmendedSignal,
    "actions": AddedActions,
    "people": ChangedPeople,
}


def intervention_from_dict(record: Any) -> Intervention:
    """Reads one intervention of a plan: `step`, `until` if wanted, and one of the keys `KINDS`.

    Args:
        record: such as ``{"step": 5, "topic": "The council has taken it back."}``.

    Raises:
        InputError: saying which field is wrong and what it may be.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"an intervention must be a mapping with `step` and one of {_kinds()}, got {show(record)}.")
    given = dict(record)
    found = [name for name in KINDS if name in given]
    if len(found) != 1:
        raise InputError(
            f"an intervention must have one of {_kinds()}, got {', '.join(map(path_part, given)) or 'nothing'}; write "
            "one intervention for each thing that is done."
        )
    kind = found[0]
    if "step" not in given:
        raise InputError(f"an intervention must have `step`, the index of the step it acts on, got only {kind!r}.")
    unknown = [path_part(name) for name in given if name not in ("step", "until", kind)]
    if unknown:
        raise InputError(
            f"an intervention must have `step`, `until` and one of {_kinds()}, got {', '.join(unknown)}; it would be "
            "ignored; take it out or mend the name."
        )
    values = {name: given[name] for name in ("step", "until") if given.get(name) is not None}
    if kind == "actions":
        values["actions"] = [_strict(AddedAction, one, "an added action") for one in _items(kind, given[kind])]
    elif kind == "people":
        own = given[kind]
        if isinstance(own, Mapping) and "profiles" in own:
            own = {**own, "profiles": _items("profiles", own["profiles"])}
        return _strict(ChangedPeople, own, "`people`", values)
    else:
        values[kind] = given[kind]
    return KINDS[kind](**values)


def _strict(made: type, record: Any, what: str, more: Mapping[str, Any] | None = None) -> Any:
    """The dataclass with the fields of a record, which may have no others."""
    names = [f.name for f in fields(made) if f.name not in ("step", "until")]
    if not isinstance(record, Mapping):
        raise InputError(f"{what} must be a mapping with {', '.join(names)}, got {show(record)}.")
    unknown = [path_part(name) for name in record if name not in names]
    needed = [
        f.name for f in fields(made) if f.name in names and f.default is MISSING and f.default_factory is MISSING
    ]
    missing = [name for name in needed if name not in record]
    if unknown or missing:
        wrong = f"got {', '.join(unknown)}" if unknown else f"got no {missing[0]}"
        raise InputError(f"{what} must have {', '.join(names)}, {wrong}; mend the name or take it out.")
    return made(**{**(more or {}), **{name: value for name, value in record.items() if value is not None}})


def _items(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"`{name}` must be a list, got {show(value)}; put it in one, also if there is only one.")
    return list(value)


def _kinds() -> str:
    return ", ".join(KINDS)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"`{name}` must be text, got {show(value)}; nobody could read it; put it in quotes.")
    check_text(value, name)
