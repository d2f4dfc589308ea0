"""Declared bins: which values of a field count as one when the people of a population are merged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mf_llm.argument_checks import is_finite
from mf_llm.errors import InputError
from mf_llm.events.validation import show
from mf_llm.events.values import is_number
from mf_llm.models.prompts import render_state
from mf_llm.yaml_files import read_yaml

Bins = Mapping[str, Sequence[float | None] | Mapping[str, Sequence[Any] | None] | None]

# Stands for a value that lies in no bin.
OUTSIDE = object()


@dataclass(frozen=True)
class FieldBins:
    """The bins of one field.

    Attributes:
        edges: E numbers in increasing order, the first and the last one possibly infinite: bin i holds
            ``edges[i] <= value < edges[i + 1]``; () for a field whose values are listed.
        names: names of the E - 1 bins.
        listed: value as prompts show it ("" for a missing one) -> name of its bin.
        rest: name of the bin of all values that are not listed, or None.
    """

    edges: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    listed: Mapping[str, str] | None = None
    rest: str | None = None

    def labels(self, values: Sequence[Any]) -> list[Any]:
        """The bin of each value; None where the value is missing and no bin lists that, `OUTSIDE` where there is none.

        A number field holds numbers; anything else in it is outside.
        """
        if self.listed is not None:
            missing = self.listed.get("")
            return [missing if value is None else self._listed(value) for value in values]
        numbers = np.array([float(value) if is_number(value) else math.nan for value in values])
        places = np.searchsorted(self.edges, numbers, side="right") - 1
        inside = (numbers >= self.edges[0]) & (numbers < self.edges[-1])
        return [
            None if value is None else self.names[place] if ok else OUTSIDE
            for value, place, ok in zip(values, places, inside, strict=True)
        ]

    def _listed(self, value: Any) -> Any:
        found = (self.listed or {}).get(shown(value), self.rest)
        return OUTSIDE if found is None else found

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(self.names))


def shown(value: Any) -> str:
    """A value of a profile as prompts show it; "" where they leave it out."""
    lines = render_state({"x": value})
    return lines[0].removeprefix("x: ") if lines else ""


def load_bins(path: str | Path) -> dict[str, Any]:
    """Reads bins from a YAML or JSON file.

    In YAML:

        age: [18, 30, 45, 65, null]            # 18 to 29, 30 to 44, 45 to 64, 65 and over
        education:
          college: [4-year, Post-grad]
          no college: null                     # everything else
        region: null                           # dropped

    Raises:
        InputError: if the file cannot be read or holds no mapping.
    """
    bins = read_yaml(Path(path), "bins")
    if not isinstance(bins, Mapping):
        raise InputError(
            f"`bins` must map fields to their bins, got {show(bins)} in {path}; nothing was coarsened; write one "
            "field a line."
        )
    return dict(bins)


def check_bins(bins: Bins, fields: Iterable[str]) -> dict[str, FieldBins | None]:
    """The bins of each field that has some; None for a field that is dropped.

    Args:
        bins: field -> edges of numbers (None at either end: open), or bin -> its values (None: all others), or None
            (the field is dropped).
        fields: the fields that there are.

    Raises:
        InputError: for a field that there is not, and for bins that cannot be meant.
    """
    fields = tuple(fields)
    if not isinstance(bins, Mapping):
        raise InputError(f"`bins` must map fields to their bins, got {show(bins)}; see mf_llm.simulation.load_bins.")
    for field in bins:
        if field not in fields:
            raise InputError(
                f"`bins` must name fields of the population, got {show(field)}; nobody has it; there are "
                f"{', '.join(fields) or 'none'}."
            )
    return {field: _field_bins(field, declared) for field, declared in bins.items()}


def _field_bins(field: str, declared: Any) -> FieldBins | None:
    if declared is None:
        return None
    if isinstance(declared, Mapping):
        return _listed_bins(field, declared)
    if isinstance(declared, str) or not isinstance(declared, Sequence):
        raise InputError(
            f"`bins[{field!r}]` must be a list of edges, a mapping of bins to values, or null to drop the field, got "
            f"{show(declared)}."
        )
    edges = [
        (-math.inf if place == 0 else math.inf) if edge is None and place in (0, len(declared) - 1) else edge
        for place, edge in enumerate(declared)
    ]
    numbers = all(is_finite(edge) or edge in (-math.inf, math.inf) for edge in edges)
    if len(edges) < 2 or not numbers or any(a >= b for a, b in pairwise(edges)):
        raise InputError(
            f"`bins[{field!r}]` must be at least two numbers in increasing order (null at either end leaves it open), "
            f"got {show(list(declared))}; no value would have one bin."
        )
    names = tuple(_name(a, b) for a, b in pairwise(edges))
    return FieldBins(edges=tuple(map(float, edges)), names=names)


def _listed_bins(field: str, declared: Mapping[str, Any]) -> FieldBins:
    listed: dict[str, str] = {}
    rest = None
    for name, values in declared.items():
        if not isinstance(name, str) or not name.strip():
            raise InputError(
                f"`bins[{field!r}]` must name its bins by texts, got {show(name)}; prompts show these names; put it "
                "in quotes."
            )
        if values is None:
            if rest is not None:
                raise InputError(
                    f"`bins[{field!r}]` must have one bin for all other values, got {rest!r} and {name!r}; give one "
                    "of them a list."
                )
            rest = name
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise InputError(
                f"`bins[{field!r}][{name!r}]` must be a list of values or null (all others), got {show(values)}."
            )
        for value in values:
            if listed.setdefault(shown(value), name) != name:
                raise InputError(
                    f"`bins[{field!r}]` must list each value once, got {show(value)} in {listed[shown(value)]!r} and "
                    f"{name!r}; remove one."
                )
    return FieldBins(names=tuple(declared), listed=listed, rest=rest)


def _name(low: float, high: float) -> str:
    """The name of the bin ``low <= value < high``; between whole numbers it names the last whole one inside.

    Examples:
        >>> _name(18, 30), _name(65, float("inf")), _name(0.5, 1)
        ('18 to 29', '65 and over', '0.5 to under 1')
    """
    if math.isinf(low):
        return "any" if math.isinf(high) else f"under {_number(high)}"
    if math.isinf(high):
        return f"{_number(low)} and over"
    if float(low).is_integer() and float(high).is_integer():
        return _number(low) if high == low + 1 else f"{_number(low)} to {_number(high - 1)}"
    return f"{_number(low)} to under {_number(high)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)
