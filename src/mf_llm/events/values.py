"""Plain values: what a field of an event may hold, made equal whichever file format it came from.

A number read from Parquet, CSV or JSON must give the same event (and the same content hash), so numbers become Python
numbers, dates become seconds, and an absent value is left out instead of being `None`. Whatever cannot be made plain
is passed on as it is: `mf_llm.events.validation` then says what is wrong with it, and where.
"""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeGuard

_PLAIN_TYPES = (str, bool, int, float)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a real number; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def to_float(value: Any) -> Any:
    """`value` as a float if it is a number that fits into one, else `value` itself."""
    if type(value) is float or not is_number(value):
        return value
    try:
        return float(value)
    except OverflowError:
        return value


def to_int(value: Any) -> Any:
    """`value` as an int if it is a whole number of any integer type, else `value` itself."""
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else value


def to_seconds(value: Any) -> Any:
    """Seconds since 1970-01-01 UTC of a number, a `datetime` or an ISO 8601 text (UTC where it names no zone).

    Anything else comes back as it is.
    """
    if isinstance(value, str) and value[4:5] == "-":
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            return value
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.UTC)
        return value.timestamp()
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC).timestamp()
    return to_float(value)


def plain(value: Any) -> Any:
    """`value` made of dicts, lists, texts and Python numbers; `None` inside a mapping is left out.

    NumPy scalars and decimals become numbers, dates ISO texts, tuples lists.
    """
    if type(value) in _PLAIN_TYPES or value is None:
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def plain_mapping(value: Any) -> Any:
    """A mapping as a plain dict without absent values; anything else as it is.

    Arrow's map type arrives as a list of pairs and counts as a mapping.
    """
    if isinstance(value, list) and value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        value = dict(value)
    if type(value) is dict and all(type(item) in _PLAIN_TYPES for item in value.values()):
        return value.copy()  # the usual case, made quick: this runs three times for every turn
    return plain(value) if isinstance(value, Mapping) else value
