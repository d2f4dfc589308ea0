"""What arguments of many functions must be, checked in one place so that they are refused in the same words."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeGuard

from mf_llm.errors import InputError
from mf_llm.events.validation import show
from mf_llm.events.values import is_number

# Seeds and sizes end up in Parquet files and in NumPy, which hold no larger whole numbers.
LARGEST = 2**63 - 1


def check_whole(name: str, value: Any, *, minimum: int = 1, why: str = "") -> None:
    """Refuses what is no whole number of at least `minimum` (and 64 bits); True and False are no numbers.

    Args:
        name: the argument, as the user wrote it.
        value: what was given.
        minimum: the least number that is allowed.
        why: where the minimum comes from, or what follows from less, said behind it.

    Raises:
        InputError: if it is not.
    """
    if not is_whole(value) or value < minimum:
        raise InputError(f"`{name}` must be a whole number of at least {minimum}{why}, got {show(value)}.")


def check_types(made: Any, names: Sequence[str] | None = None) -> None:
    """Refuses a dataclass whose fields do not hold what their annotations say.

    Numbers must be finite and fit into 64 bits, and a text must be one that a file can hold. Annotations that are not
    listed in `_KINDS` are not looked at.

    Args:
        made: the dataclass; its annotations are texts (``from __future__ import annotations``).
        names: only these fields; all by default.

    Raises:
        InputError: naming the first field that is wrong.
    """
    for name, kinds, optional in _checked_fields(type(made)):  # type: ignore[arg-type]
        if names is not None and name not in names:
            continue
        value = getattr(made, name)
        if (value is None and optional) or any(_KINDS[kind][1](value) for kind in kinds):
            continue
        # The key of a server must not get into a message, nor an address, which may hold one.
        got = "another value" if {"key", "url"} & set(name.split("_")) else show(value)
        raise InputError(f"`{name}` must be {' or '.join(_KINDS[kind][0] for kind in kinds)}, got {got}.")


@cache
def _checked_fields(kind: type) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    """Of a dataclass each field that can be checked: its name, what it may be, and whether it may be None."""
    # Not the types of the fields: argument parsers put classes in the place of these texts.
    annotations: dict[str, Any] = {}
    for one in reversed(kind.__mro__):
        annotations |= inspect.get_annotations(one)
    found = []
    for f in fields(kind):
        types = str(annotations[f.name]).split(" | ")
        kinds = tuple(one for one in types if one != "None")
        if all(one in _KINDS for one in kinds):
            found.append((f.name, kinds, "None" in types))
    return tuple(found)


def is_text(value: Any) -> bool:
    """Whether a value is a text that a file can hold: without halves of character pairs."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number of at most 64 bits; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def is_finite(value: Any) -> bool:
    """Whether a value is a number that fits into 64 bits; True and False are not."""
    # An integer of hundreds of digits is a number, too, but none that fits.
    return is_number(value) and abs(value) <= 1e300 and math.isfinite(value)


def check_mapping(value: Any, what: str) -> Mapping[str, Any]:
    """What must be a mapping whose names are texts; null is an empty one.

    Raises:
        InputError: it is something else.
    """
    if value is not None and not (isinstance(value, Mapping) and all(map(is_text, value))):
        raise InputError(
            f"{what} must be a mapping with texts as names, got {show(value)}; see the comments in mf_llm/data."
        )
    return {} if value is None else value


def check_list(value: Any, what: str) -> tuple[Any, ...]:
    """What must be a list.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, list | tuple):
        raise InputError(f"{what} must be a list, got {show(value)}; put it in one, also if it is only one.")
    return tuple(value)


def _all(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(fits, value))


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", is_whole),
    "float": ("a finite number", is_finite),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a text", is_text),
    "tuple[int, ...]": ("whole numbers", _all(is_whole)),
    "tuple[float, ...]": ("finite numbers", _all(is_finite)),
    "tuple[float, float]": ("two finite numbers", lambda value: _all(is_finite)(value) and len(value) == 2),
    "tuple[str, ...]": ("texts", _all(is_text)),
    "Mapping[str, Any]": ("a mapping", lambda value: isinstance(value, Mapping)),
    "dict[str, Any]": ("a mapping", lambda value: isinstance(value, Mapping)),
    "Mapping[str, float]": (
        "a mapping of names to finite numbers",
        lambda value: isinstance(value, Mapping) and all(map(is_text, value)) and all(map(is_finite, value.values())),
    ),
    "Mapping[str, Sequence[float]]": (
        "a mapping of names to lists of finite numbers",
        lambda value: (
            isinstance(value, Mapping) and all(map(is_text, value)) and all(map(_all(is_finite), value.values()))
        ),
    ),
}
