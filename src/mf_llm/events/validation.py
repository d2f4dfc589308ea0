"""What makes an event valid. Every rule of ``docs/event-format.md`` is checked here and nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mf_llm.errors import EventError

if TYPE_CHECKING:
    from mf_llm.events.event import Event, Turn

SPLITS = ("train", "validation", "test")
MAX_TEXT_CHARACTERS = 10 * 2**20  # ten megabytes of English
MAX_NAME_CHARACTERS = 500

EVENT_FIELDS = (
    "event_id", "topic", "turns", "dimensions", "domain", "language", "source", "split", "group", "block", "story",
    "veracity",
)  # fmt: skip
TURN_FIELDS = ("state", "action", "labels", "time", "parent", "kind", "wave", "weight", "person")

# Half a surrogate pair cannot be written as UTF-8, and NUL ends texts in C libraries. Other control characters occur
# in what people write (a backspace in a profile); names, which stand in tables and file names, must be free of them.
_BAD_CHARACTER = re.compile("[\x00\ud800-\udfff]")
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def validate_event(event: Event) -> None:
    """Raises an `EventError` that names the first field of `event` that breaks the event format.

    `Event` calls this when it is made; it never changes the event.
    """
    _check_name(event.event_id, "event_id", optional=False)
    check_text(event.topic, "topic")
    if not event.topic.strip():
        raise EventError("must not be empty; a model has nothing to react to; write what people saw", field="topic")
    for name in ("domain", "source", "group", "story", "veracity"):
        _check_name(getattr(event, name), name)
    _check_name(event.language, "language", optional=False)
    if event.split is not None and event.split not in SPLITS:
        raise EventError(f'must be "train", "validation" or "test", got {show(event.split)}', field="split")
    if event.block is not None and (type(event.block) is not int or event.block < 0):
        raise EventError(f"must be a whole number of at least 0, got {show(event.block)}", field="block")
    dimensions = _check_dimensions(event.dimensions)
    _check_extra(event.extra, EVENT_FIELDS, "")
    _check_turns(event.turns, dimensions)


def show(value: Any, limit: int = 60) -> str:
    """`value` as one short line for an error message, never the whole of a long one."""
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    text = ascii(value[: limit + 1]) if isinstance(value, str) and not value.isprintable() else None
    try:
        text = text or repr(value[: limit + 1] if isinstance(value, str) else value)
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        text = "an integer of thousands of digits"
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text if isinstance(value, str | int | float) or value is None else f"{text} ({type(value).__name__})"


def one_line(message: object, limit: int = 200) -> str:
    """What another library said, as one printable line that does not end in a full stop."""
    text = " ".join(str(message).split())[:limit]
    return "".join(character if character.isprintable() else "?" for character in text).rstrip(".")


def path_part(name: Any) -> str:
    """A key as part of a field path: itself where it is short and printable, else shown as a value."""
    plain = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 60
    return name if plain else show(name)


def _check_dimensions(dimensions: Any) -> dict[str, frozenset[str]]:
    if not isinstance(dimensions, Mapping):
        raise EventError(
            f"must map names of dimensions to their categories, got {show(dimensions)}", field="dimensions"
        )
    known = {}
    for name, categories in dimensions.items():
        path = f"dimensions.{path_part(name)}"
        _check_name(name, path, optional=False, what="the name of a dimension")
        if not isinstance(categories, tuple):
            raise EventError(f"must be a list of category names, got {show(categories)}", field=path)
        for position, category in enumerate(categories):
            _check_name(category, f"{path}[{position}]", optional=False)
            if category in categories[:position]:
                raise EventError(
                    f"must differ from the other categories, got {show(category)} twice; remove one",
                    field=f"{path}[{position}]",
                )
        if len(categories) < 2:
            raise EventError(
                f"must have at least 2 categories, got {len(categories)}; with fewer there is nothing to predict; "
                "list the categories that people could have chosen",
                field=path,
            )
        known[name] = frozenset(categories)
    return known


def _check_turns(turns: Any, dimensions: dict[str, frozenset[str]]) -> None:
    from mf_llm.events.event import Turn

    if not isinstance(turns, tuple):
        raise EventError(f"must be a list of turns, got {show(turns)}", field="turns")
    if not turns:
        raise EventError("must hold at least one turn, got none; leave out events without reactions", field="turns")
    latest, latest_index, readable = -math.inf, 0, False
    wave, wave_weight = None, 0.0
    left_waves: set[str | None] = set()
    checked_names: set[str] = set()
    for index, turn in enumerate(turns):
        if not isinstance(turn, Turn):
            raise EventError(f"must be a turn, got {show(turn)}", field=f"turns[{index}]")
        _check_turn(turn, index, dimensions, checked_names)
        readable = readable or bool(turn.action) or bool(turn.labels)
        if turn.time is not None:
            if turn.time < latest:
                raise EventError(
                    f"must not be earlier than turns[{latest_index}], got {turn.time!r} after {latest!r}; the order "
                    "of turns is the order in time; sort the turns by time (and renumber `parent`)",
                    field=f"turns[{index}].time",
                )
            latest, latest_index = turn.time, index
        if turn.wave != wave or index == 0:
            if index > 0:
                _check_weight_sum(wave, wave_weight)
                left_waves.add(wave)
            if turn.wave is not None and turn.wave in left_waves:
                raise EventError(
                    f"must not come back, got {show(turn.wave)} again after another wave; a wave is one step of the "
                    "population; put the turns of a wave side by side",
                    field=f"turns[{index}].wave",
                )
            wave, wave_weight = turn.wave, 0.0
        wave_weight += turn.weight
    _check_weight_sum(wave, wave_weight)
    if not readable:
        raise EventError(
            "must have a text (`action`) or a label in at least one turn, got neither; there is nothing to learn how "
            "people react from; give `action` or `labels`",
            field="turns",
        )


def _check_weight_sum(wave: str | None, total: float) -> None:
    if total <= 0 or not math.isfinite(total):
        where = "of the turns" if wave is None else f"of wave {show(wave)}"
        raise EventError(
            f"the weights {where} must have a finite sum above 0, got {total!r}; shares cannot be formed; leave the "
            "weights out where there are none",
            field="turns",
        )


def _check_turn(turn: Turn, index: int, dimensions: dict[str, frozenset[str]], checked_names: set[str]) -> None:
    """Checks what can be said of a turn by itself. Paths are made on failure only: this runs for every turn."""
    action, state, labels = turn.action, turn.state, turn.labels
    if type(action) is not str or len(action) > MAX_TEXT_CHARACTERS or _BAD_CHARACTER.search(action):
        check_text(action, f"turns[{index}].action")
    if state or not isinstance(state, str | Mapping):
        check_state(state, f"turns[{index}].state", checked_names)
    if not isinstance(labels, Mapping):
        raise EventError(
            f"must map names of dimensions to categories, got {show(labels)}", field=f"turns[{index}].labels"
        )
    for name, category in labels.items():
        if name not in dimensions:
            names = ", ".join(map(path_part, dimensions)) or "none"
            raise EventError(
                f"must be a dimension of the event ({names}), got {show(name)}; add it to `dimensions` or "
                "drop the label",
                field=f"turns[{index}].labels.{path_part(name)}",
            )
        if not isinstance(category, str) or category not in dimensions[name]:
            known = ", ".join(show(known) for known in sorted(dimensions[name])[:10])
            raise EventError(
                f"must be one of the categories {known}, got {show(category)}; correct the label or add the category "
                f"to `dimensions`",
                field=f"turns[{index}].labels.{path_part(name)}",
            )
    if turn.time is not None and (type(turn.time) is not float or not math.isfinite(turn.time)):
        raise EventError(
            f"must be a finite number of seconds since 1970 or an ISO 8601 text, got {show(turn.time)}",
            field=f"turns[{index}].time",
        )
    if turn.parent is not None and (type(turn.parent) is not int or not 0 <= turn.parent < index):
        allowed = f"a whole number from 0 to {index - 1}" if index else "the first turn cannot have one"
        raise EventError(
            f"must be the index of an earlier turn ({allowed}), got {show(turn.parent)}; leave it out for an answer "
            "to the topic",
            field=f"turns[{index}].parent",
        )
    if type(turn.weight) is not float or not 0 <= turn.weight < math.inf:
        raise EventError(
            f"must be a finite number of at least 0, got {show(turn.weight)}", field=f"turns[{index}].weight"
        )
    if turn.kind is not None:
        _check_name(turn.kind, f"turns[{index}].kind")
    if turn.wave is not None:
        _check_name(turn.wave, f"turns[{index}].wave")
    if turn.person is not None:
        _check_name(turn.person, f"turns[{index}].person")
    if turn.extra or not isinstance(turn.extra, Mapping):
        _check_extra(turn.extra, TURN_FIELDS, f"turns[{index}].")


def check_state(state: Any, path: str, checked_names: set[str] | None = None) -> None:
    """Raises an `EventError` unless `state` can be somebody's profile.

    Args:
        state: the profile.
        path: what errors call it.
        checked_names: names of fields that were checked before, in earlier turns; those of this one are added.
    """
    if isinstance(state, str):
        check_text(state, path)
        return
    if not isinstance(state, Mapping):
        raise EventError(f"must be a text or map names to texts, numbers and booleans, got {show(state)}", field=path)
    checked_names = set() if checked_names is None else checked_names
    for name, value in state.items():
        if name not in checked_names:
            _check_name(name, f"{path}.{path_part(name)}", optional=False, what="the name of a state field")
            checked_names.add(name)
        if isinstance(value, str):
            if len(value) > MAX_TEXT_CHARACTERS or _BAD_CHARACTER.search(value):
                check_text(value, f"{path}.{path_part(name)}")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise EventError(f"must be finite, got {value!r}; leave it out", field=f"{path}.{path_part(name)}")
        elif not isinstance(value, int):
            raise EventError(
                f"must be a text, a number or a boolean, got {show(value)}; write lists and mappings as a text",
                field=f"{path}.{path_part(name)}",
            )


def check_text(value: Any, path: str) -> None:
    """Raises an `EventError` unless `value` is a text that a file can hold and a prompt can show."""
    if not isinstance(value, str):
        raise EventError(f"must be a text, got {show(value)}", field=path)
    if len(value) > MAX_TEXT_CHARACTERS:
        raise EventError(
            f"must have at most {MAX_TEXT_CHARACTERS:,} characters, got {len(value):,}; shorten or split it",
            field=path,
        )
    found = _BAD_CHARACTER.search(value)
    if found:
        what = "half a surrogate pair" if found[0] != "\0" else "a NUL character"
        raise EventError(
            f"must be plain text, got {what} (U+{ord(found[0]):04X} at character {found.start() + 1}); remove it",
            field=path,
        )


def _check_name(value: Any, path: str, *, optional: bool = True, what: str = "") -> None:
    if value is None and optional:
        return
    what = f"{what} " if what else ""
    if not isinstance(value, str):
        raise EventError(f"{what}must be a text, got {show(value)}", field=path)
    check_text(value, path)
    if not value.strip():
        raise EventError(f"{what}must not be empty" + ("; leave it out" if optional else ""), field=path)
    if len(value) > MAX_NAME_CHARACTERS:
        raise EventError(
            f"{what}must have at most {MAX_NAME_CHARACTERS} characters, got {len(value):,}; shorten it", field=path
        )
    if value != value.strip() or _CONTROL_CHARACTER.search(value):
        raise EventError(
            f"{what}must be one line without spaces at its ends, got {show(value)}; it stands in tables and prompts; "
            "clean it",
            field=path,
        )


def _check_extra(extra: Any, known: tuple[str, ...], prefix: str) -> None:
    if not isinstance(extra, Mapping):
        raise EventError(f"must be a mapping, got {show(extra)}", field=f"{prefix}extra")
    for name in extra:
        if name in known:
            raise EventError(
                f"must not repeat a field of the format, got {show(name)}; set the field itself",
                field=f"{prefix}extra",
            )
    pending: list[tuple[str, Any]] = [(prefix.rstrip("."), extra)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, Mapping):
            for name, item in value.items():
                part = f"{path}.{path_part(name)}" if path else path_part(name)
                check_text(name, part)
                pending.append((part, item))
        elif isinstance(value, list):
            pending.extend((f"{path}[{position}]", item) for position, item in enumerate(value))
        elif isinstance(value, str):
            check_text(value, path)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise EventError(f"must be finite, got {value!r}; leave it out", field=path)
        elif value is not None and not isinstance(value, int):
            raise EventError(f"must be a value that JSON can hold, got {show(value)}", field=path)
