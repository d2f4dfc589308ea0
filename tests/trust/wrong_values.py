"""Values that are certainly wrong, by what should have been there, and what a refusal must look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mf_llm.errors import InputError

NOTHING = st.none()
LISTS = st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=3)
MAPPINGS = st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=3)
TRUTHS = st.booleans()
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])
_HUGE = (2**63, -(2**64), 10**400, -(10**5000))
# By their places: Python does not write the longest of them, not even for a message of hypothesis.
HUGE = st.integers(0, len(_HUGE) - 1).map(_HUGE.__getitem__)
TOO_HUGE = st.integers(2, len(_HUGE) - 1).map(_HUGE.__getitem__)
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
NUMBERS = st.integers(-(2**40), 2**40) | FRACTIONS | NOT_FINITE
TEXTS = st.text(max_size=12)
# Half a pair of code units: Python and JSON can hold it, no file can.
BROKEN_TEXTS = st.sampled_from(["\ud800", "a\udfffb", "\udc00\ud83d"])
BYTES = st.binary(max_size=4)

WRONG = {
    "int": TEXTS | FRACTIONS | NOT_FINITE | TRUTHS | HUGE | LISTS | MAPPINGS | BYTES,
    "float": TEXTS | NOT_FINITE | TRUTHS | TOO_HUGE | LISTS | MAPPINGS | BYTES,
    "bool": NUMBERS | TEXTS | LISTS | MAPPINGS,
    "str": NUMBERS | TRUTHS | LISTS | MAPPINGS | BYTES | BROKEN_TEXTS,
    "Mapping[str, float]": NUMBERS | TEXTS | TRUTHS
    | st.dictionaries(TEXTS, TEXTS | TRUTHS | NOT_FINITE | NOTHING, min_size=1, max_size=2),
    "Mapping[str, Sequence[float]]": NUMBERS | TEXTS | TRUTHS
    | st.dictionaries(TEXTS, TEXTS | NUMBERS | st.lists(TEXTS | NOT_FINITE, min_size=1), min_size=1, max_size=2),
    "tuple[int, ...]": NUMBERS | TEXTS | TRUTHS | st.lists(TEXTS | FRACTIONS | NOTHING, min_size=1, max_size=2),
    "tuple[str, ...]": NUMBERS | TEXTS | TRUTHS | st.lists(NUMBERS | NOTHING, min_size=1, max_size=2),
    "tuple[float, float]": NUMBERS | TEXTS | TRUTHS | st.lists(TEXTS | NOTHING, max_size=3),
    "Mapping[str, Any]": NUMBERS | TEXTS.filter(bool) | TRUTHS,
}  # fmt: skip


def wrong_for(kind: type, name: str) -> st.SearchStrategy[Any]:
    """Values that are wrong for a field of a dataclass, as its annotation says."""
    # An annotation is a text, until `HfArgumentParser` has read the class and put a type in its place.
    declared = next(f.type for f in fields(kind) if f.name == name)
    types = (declared.__name__ if isinstance(declared, type) else str(declared)).split(" | ")
    known = [one for one in types if one != "None"]
    found = WRONG[known[0]] if len(known) == 1 else LISTS | MAPPINGS | TRUTHS | BYTES | FRACTIONS
    return found if "None" in types else found | NOTHING


def below(minimum: float, *, whole: bool = True) -> st.SearchStrategy[Any]:
    """Numbers that are too small."""
    if whole:
        return st.integers(-(2**40), int(minimum) - 1)
    return st.floats(max_value=minimum, exclude_max=True, allow_nan=False, allow_infinity=False)


def words_but(allowed: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Texts that are none of the words, near misses among them."""
    near = [word.upper() for word in allowed] + [word + " " for word in allowed] + [word[:-1] for word in allowed]
    return (st.sampled_from(near) | TEXTS).filter(lambda word: word not in allowed)


def check_refusal(error: InputError, *named: str) -> None:
    """A message of one paragraph that names its place and is not a page long."""
    message = str(error)
    assert isinstance(error, InputError)
    assert 20 < len(message) < 1500, message[:2000]
    for name in named:
        assert name in message, (name, message)


def try_many(
    tries: Any, quick: int, full: int, strategy: st.SearchStrategy[Any], attempt: Callable[..., None]
) -> None:
    """Tries drawn examples, the same in every run, and counts them."""

    @settings(
        max_examples=tries.of(quick, full),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(drawn: Any) -> None:
        tries.add()
        attempt(drawn)

    one()


def damages() -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """Ways to damage a file: a bit flipped, a part cut out, doubled or overwritten, an end cut off, bytes put in."""
    place, length = st.floats(0, 1), st.integers(1, 40)
    return st.one_of(
        st.tuples(place, st.integers(0, 7)).map(lambda at: _Damage("flip", *at)),
        st.tuples(place, length).map(lambda at: _Damage("drop", *at)),
        st.tuples(place, length).map(lambda at: _Damage("double", *at)),
        place.map(lambda at: _Damage("cut", at)),
        st.tuples(place, BYTES.filter(bool)).map(lambda at: _Damage("insert", *at)),
        st.tuples(place, st.binary(min_size=1, max_size=8)).map(lambda at: _Damage("overwrite", *at)),
    )


class _Damage:
    """One damage at a place that is a share of the file's length."""

    def __init__(self, kind: str, place: float, what: Any = None) -> None:
        self.kind, self.place, self.what = kind, place, what

    def __repr__(self) -> str:
        return f"{self.kind} {self.what!r} at {self.place}"

    def __call__(self, content: bytes) -> bytes:
        at = min(int(self.place * len(content)), max(len(content) - 1, 0))
        before, behind = content[:at], content[at:]
        if self.kind == "flip":
            return before + bytes([behind[0] ^ (1 << self.what)]) + behind[1:] if behind else before
        if self.kind == "cut":
            return before
        if self.kind == "drop":
            return before + behind[self.what :]
        if self.kind == "double":
            return before + behind[: self.what] + behind
        return before + self.what + (behind if self.kind == "insert" else behind[len(self.what) :])
