"""`Shift`: a real shift of opinion to test simulations on, from before it happened (a natural experiment)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mf_llm.argument_checks import check_list, check_mapping, check_types, check_whole
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import Windows, first_dimension
from mf_llm.events import Event, Turn
from mf_llm.events.validation import path_part, show
from mf_llm.events.values import to_seconds
from mf_llm.yaml_files import read_yaml

SHIFTS_VERSION = 1
_YEAR_9999 = 253_370_764_800.0


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One shift.

    Attributes:
        name: what tables call it.
        data_set: where its events are.
        before: ids of the events whose last labelled turns are the warm-up; () for a survey.
        after: ids of the events whose first labelled turns are forecast, or of the survey whose last wave is.
        category: whose share moved.
        news: one line of what was public by then; the model is given it at the first step behind the warm-up.
        known: seconds since 1970, UTC: all of `news` was public by then.
        after_time: when the first step behind the warm-up begins, where the turns have no times.
        warm_up, n_people: labelled turns of the warm-up, and behind it.
    """

    name: str
    data_set: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    category: str
    news: str
    known: float
    after_time: float | None = None
    warm_up: int = 48
    n_people: int = 96

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("warm_up", "n_people"):
            check_whole(name, getattr(self, name))
        for name in ("name", "data_set", "category", "news"):
            if not getattr(self, name).strip():
                raise InputError(f"`{name}` of a shift must not be empty; it could not be tested; give it.")
        if not self.after:
            raise InputError("`after` of a shift must name at least one event, got none; nobody could be forecast.")
        for name in ("known", "after_time"):
            if not abs(getattr(self, name) or 0) < _YEAR_9999:
                raise InputError(
                    f"`{name}` of a shift must be a time up to the year 9999, got {getattr(self, name)!r}."
                )

    @property
    def is_survey(self) -> bool:
        """Whether waves take the place of streams."""
        return not self.before

    @property
    def windows(self) -> Windows:
        """One window: everybody who is forecast."""
        return Windows(0, 0, waves=True) if self.is_survey else Windows(self.warm_up, self.n_people)

    def event(self, events: Sequence[Event]) -> Event:
        """The event of the shift: the warm-up and, behind it, those who are forecast.

        Args:
            events: of its data set.

        Raises:
            InputError: an event is missing or too short, has no such category, or the news was not known by then.
        """
        parts = {event.event_id: event for event in events if event.event_id in {*self.before, *self.after}}
        missing = [name for name in (*self.before, *self.after) if name not in parts]
        if missing:
            raise InputError(
                f"{self.data_set} must hold event {missing[0]!r} for the shift {self.name!r}; it cannot be tested; "
                "give the whole data set."
            )
        last = parts[self.after[-1]]
        dimension = first_dimension([last])
        if self.category not in last.dimensions[dimension]:
            raise InputError(
                f"`category` of the shift {self.name!r} must be one of {', '.join(last.dimensions[dimension])}, got "
                f"{self.category!r}."
            )
        if self.is_survey:
            self._check_news(self.after_time)
            return last
        labelled = {
            name: [turn for turn in parts[name].turns if dimension in turn.labels]
            for name in (*self.before, *self.after)
        }
        warm_up = [turn for name in self.before for turn in labelled[name]][-self.warm_up :]
        follow = [turn for name in self.after for turn in labelled[name]][: self.n_people]
        if len(warm_up) < self.warm_up or len(follow) < self.n_people:
            raise InputError(
                f"the shift {self.name!r} must have {self.warm_up} labelled turns before and {self.n_people} behind "
                f"it, got {len(warm_up)} and {len(follow)}; lower `warm_up` or `n_people`."
            )
        self._check_news(follow[0].time if follow[0].time is not None else self.after_time)
        turns = tuple(_alone(turn) for turn in warm_up + follow)
        return replace(last, event_id=self.name, turns=turns, split="test", group=self.name, block=None)

    def known_before(self, events: Sequence[Event]) -> list[Event]:
        """The train and validation events of its data set that had ended when the shift began, to learn from.

        Args:
            events: of its data set, of all splits.
        """
        kept = [event for event in events if event.split in ("train", "validation")]
        if self.is_survey:
            return kept
        first = next(turn.time for name in self.after for e in events if e.event_id == name for turn in e.turns)
        return [event for event in kept if first is None or all((turn.time or 0) <= first for turn in event.turns)]

    def _check_news(self, begins: float | None) -> None:
        if begins is None or self.known > begins:
            when = "unknown" if begins is None else datetime.fromtimestamp(begins, UTC).isoformat()
            known = datetime.fromtimestamp(self.known, UTC).isoformat()
            raise InputError(
                f"`known` of the shift {self.name!r} must not lie behind the first step that is forecast ({when}), "
                f"got {known}; the news would look ahead; tell less, or give `after_time`."
            )


def load_shifts(path: str | Path | None = None) -> list[Shift]:
    """Reads shifts from a YAML file; those of the package by default.

    Raises:
        InputError: the file cannot be read or a shift lacks something.
    """
    place = resources.files("mf_llm") / "data" / "natural_experiments.yaml" if path is None else Path(path)
    record = read_yaml(place, "shifts")
    if not isinstance(record, Mapping) or record.get("version") != SHIFTS_VERSION:
        raise InputError(f"{place}: must be a mapping with version {SHIFTS_VERSION} and shifts.")
    unknown = [path_part(name) for name in record if name not in ("version", "warm_up", "n_people", "shifts")]
    if unknown:
        raise InputError(
            f"{place}: must have only version, warm_up, n_people and shifts, got {', '.join(unknown)}; correct it."
        )
    common = {name: record[name] for name in ("warm_up", "n_people") if name in record}
    shifts = check_mapping(record.get("shifts"), f"{place}: `shifts`")
    return [_shift(name, entry, common, place) for name, entry in shifts.items()]


def _shift(name: str, entry: Any, common: Mapping[str, Any], place: Path | Traversable) -> Shift:
    names = {f.name for f in fields(Shift)} - {"name"}
    needed = names - {"after_time", "warm_up", "n_people"}
    if not isinstance(entry, Mapping) or not needed <= entry.keys() <= names:
        raise InputError(f"{place}: shift {name!r} must have {', '.join(sorted(needed))} and nothing unknown.")
    own = {**common, **entry}
    for time in ("known", "after_time"):
        if time in own:
            own[time] = to_seconds(own[time])
            if not isinstance(own[time], float):
                raise InputError(
                    f"{place}: `{time}` of shift {name!r} must be an ISO 8601 time, got {show(own[time])}; correct it."
                )
    try:
        for ids in ("before", "after"):
            own[ids] = check_list(own[ids], f"`{ids}`")
        return Shift(name=name, **own)
    except InputError as error:
        raise InputError(f"{place}: shift {name!r}: {error}") from error


def _alone(turn: Turn) -> Turn:
    """The turn without the one it answers, which may be in another part."""
    return replace(turn, parent=None)
