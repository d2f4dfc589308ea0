"""`Population`: the distinct states of any number of people, each with its weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.argument_checks import check_whole
from mf_llm.atomic_files import write_table
from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.events.event import State
from mf_llm.events.validation import show
from mf_llm.events.values import is_number, plain_mapping
from mf_llm.models.prompts import render_state
from mf_llm.simulation.keyed_draws import stream_key, uniform_number
from mf_llm.simulation.population_bins import OUTSIDE, Bins, check_bins, shown
from mf_llm.simulation.population_table import BATCH_ROWS, merged_rows

if TYPE_CHECKING:
    import pyarrow as pa

PEOPLE_COLUMN, TEXT_COLUMN = "people", "state"
_TEXTS = b"mf_llm.text_states"

_MOST_PEOPLE = 1e18  # counts are whole numbers of 64 bits


@dataclass(frozen=True)
class Population:
    """Distinct states and how many people have each: the mean-field limit (method, section 2).

    A step over a population costs the number of its states, not of its people.

    Made by `from_table`, `from_records` or `from_event`, which merge people whose states read the same in prompts.

    Attributes:
        states: S profiles, no two of which read the same in a prompt.
        weights: S numbers of people (not whole where rows carried survey weights), each more than 0, together at most
            1e18.

    Raises:
        InputError: if there is nobody, a state comes twice, a weight is no positive number, or they are too many.

    Examples:
        >>> people = [{"age": 46, "n": 3}, {"age": 46, "n": 1}, {"age": 20, "n": 1}]
        >>> population = Population.from_records(people, weight="n")
        >>> len(population), population.n_people, population.shares.tolist()
        (2, 5, [0.2, 0.8])
    """

    states: tuple[State, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", tuple(map(plain_mapping, self.states)))
        object.__setattr__(self, "weights", tuple(self.weights))
        if not self.states or len(self.states) != len(self.weights):
            raise InputError(
                f"`states` and `weights` must be equally many and at least one, got {len(self.states)} and "
                f"{len(self.weights)}; there is nobody to simulate."
            )
        for weight in self.weights:
            if not is_number(weight) or not 0 < weight < math.inf:
                raise InputError(f"`weights` must be positive numbers, got {show(weight)}; people cannot be counted.")
        if sum(self.weights) > _MOST_PEOPLE:
            raise InputError(
                f"`weights` must sum to at most {_MOST_PEOPLE:g}, got {sum(self.weights):g}; people could not be "
                "counted one by one; give numbers of people."
            )
        if len({_rendered(state) for state in self.states}) < len(self.states):
            raise InputError(
                "`states` must differ in what prompts show of them, got some that read the same; they would be asked "
                "twice; use Population.from_records, which merges them."
            )

    def __len__(self) -> int:
        return len(self.states)

    @cached_property
    def n_people(self) -> int:
        """N: the sum of the weights, rounded."""
        return round(math.fsum(self.weights))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields of the profiles, in the order in which they first occur; () for texts."""
        return tuple(dict.fromkeys(name for state in self.states if isinstance(state, Mapping) for name in state))

    @cached_property
    def shares(self) -> np.ndarray:
        """``[S]`` shares of the states."""
        weights = np.array(self.weights, dtype=np.float64)
        return weights / weights.sum()

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """S whole numbers of people that sum to N: the weights themselves where these are whole.

        Otherwise by largest remainder; a rare state of a small population may get nobody, and keeps its weight in the
        exact shares.
        """
        if all(float(weight).is_integer() for weight in self.weights):
            return tuple(map(int, self.weights))
        quotas = self.shares * self.n_people
        whole = np.floor(quotas).astype(np.int64)
        largest = np.argsort(whole - quotas, kind="stable")[: self.n_people - int(whole.sum())]
        whole[largest] += 1
        return tuple(map(int, whole))

    @classmethod
    def from_records(cls, records: Iterable[State], *, weight: str | None = None) -> Population:
        """Merges people that are in memory.

        Args:
            records: the profile of each person (or of each group of equal ones).
            weight: the field that says how many people a record stands for; it is no part of the profile.

        Raises:
            InputError: if there is nobody, or a weight is missing or no number of at least 0.
        """
        return cls._merged(_weighted(records, weight))

    @classmethod
    def from_table(
        cls,
        source: Any,
        *,
        columns: Sequence[str] | str | None = None,
        weight: str | None = None,
        bins: Bins | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> Population:
        """Reads a table of any size, a batch at a time, and merges equal people as it goes.

        Args:
            source: a Parquet or CSV file (also gzipped), a folder of Parquet files, or a Hugging Face data set.
            columns: the fields of a profile (every column but `weight` by default), or the name of the one column that
                holds profiles as texts.
            weight: the column that says how many people a row stands for; 1 by default.
            bins: bins of some fields (see `load_bins`), applied before people are merged.
            batch_rows: rows that are in memory at once. It changes nothing but rounding of weights that are not whole.

        Raises:
            InputError: with the number of the row where there is one.
        """
        names = [columns] if isinstance(columns, str) else columns
        states, weights = merged_rows(source, columns=names, weight=weight, bins=bins, batch_rows=batch_rows)
        if isinstance(columns, str):
            return cls._merged(
                (str(state.get(columns, "")), people) for state, people in zip(states, weights, strict=True)
            )
        return cls._merged(zip(states, weights, strict=True))

    @classmethod
    def from_event(cls, event: Event, *, wave: str | None = None) -> Population:
        """The people of an event, or of one of its survey waves, with their survey weights.

        Raises:
            InputError: if the event has no such wave.
        """
        waves = [turn.wave for turn in event.turns]
        if wave is not None and wave not in waves:
            raise InputError(
                f"`wave` must be one of the waves of event {event.event_id!r}, got {wave!r}; nobody answered in it; "
                f"there are {', '.join(dict.fromkeys(map(str, waves)))}."
            )
        return cls._merged((turn.state, turn.weight) for turn in event.turns if wave is None or turn.wave == wave)

    def coarsened(self, bins: Bins) -> Population:
        """The same people in coarser states, which show the names of their bins.

        A model may react to what the bins leave out, or to a shorter profile: see `represented` and `coarsening_cost`.

        Args:
            bins: see `load_bins`.

        Raises:
            InputError: for an unknown field, a value in none of its bins, or bins that drop all there is.
        """
        return self._merged(zip(self._coarse_states(bins), self.weights, strict=True))

    def represented(self, bins: Bins, *, seed: int = 0) -> Population:
        """The same people in fewer states: those whose binned fields are equal are shown as one of them.

        That one is drawn by weight. Each state is the whole profile of a person, all fields in it, and the expected
        shares are those of the full population (a stratified sample); what one draw costs, `coarsening_cost` measures.

        Args:
            bins: see `load_bins`; they say who is represented together, a dropped field does not tell people apart.
            seed: of the draw.

        Raises:
            InputError: as `coarsened`.
        """
        groups: dict[str, list[int]] = {}
        for place, coarse in enumerate(self._coarse_states(bins)):
            groups.setdefault(_rendered(coarse), []).append(place)

        def representative(group: str, members: list[int]) -> tuple[State, float]:
            ends = np.cumsum([self.weights[place] for place in members])
            number = uniform_number(stream_key(seed, "representative", group)) * ends[-1]
            drawn = min(int(np.searchsorted(ends, number, side="right")), len(members) - 1)
            return self.states[members[drawn]], float(ends[-1])

        return self._merged(representative(group, members) for group, members in groups.items())

    def scaled(self, n_people: int) -> Population:
        """As many people in the same shares.

        Raises:
            InputError: if `n_people` is no whole number of at least 1.
        """
        check_whole("n_people", n_people)
        return Population(self.states, tuple(float(weight) for weight in self.shares * n_people))

    def to_table(self) -> pa.Table:
        """One row per state: its fields (or its text, ``state``), and ``people``, its weight.

        A field that is a number for some and a text for others is written as the text that prompts show.

        Raises:
            InputError: if a field is called ``people``, or some states are texts and others are not.
        """
        import pyarrow as pa

        texts = [isinstance(state, str) for state in self.states]
        if any(texts) and not all(texts):
            raise InputError("`states` must be all texts or all fields to be one table, got some of each.")
        if PEOPLE_COLUMN in self.fields:
            raise InputError(
                f"`states` must not have a field {PEOPLE_COLUMN!r} to be a table; it names the weights; rename it."
            )
        if all(texts):
            columns = {TEXT_COLUMN: pa.array(self.states, pa.string())}
        else:
            states = [dict(state) for state in self.states if not isinstance(state, str)]
            columns = {name: _arrow([state.get(name) for state in states]) for name in self.fields}
        columns[PEOPLE_COLUMN] = pa.array(self.weights, pa.float64())
        return pa.table(columns).replace_schema_metadata({_TEXTS: b"1"} if all(texts) else None)

    def save(self, path: str | Path) -> Path:
        """Writes `to_table` as Parquet, at once or not at all."""
        path = Path(path)
        write_table(path, self.to_table())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Population:
        """Reads what `save` wrote: the same people, and the same simulation.

        Raises:
            InputError: if the file is not there or is no such table.
        """
        import pyarrow
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_schema(path).metadata or {}
        except (OSError, pyarrow.ArrowException):
            metadata = {}  # said better by what follows
        return cls.from_table(path, columns=TEXT_COLUMN if _TEXTS in metadata else None, weight=PEOPLE_COLUMN)

    def _coarse_states(self, bins: Bins) -> list[State]:
        """Each state with the names of its bins in the place of values."""
        binned = check_bins(bins, self.fields)
        # A profile without a field has a missing value there, which a bin may list.
        labels = {
            name: one.labels([state.get(name) if isinstance(state, Mapping) else None for state in self.states])
            for name, one in binned.items()
            if one is not None
        }
        for name, values in labels.items():
            if OUTSIDE in values:
                place = values.index(OUTSIDE)
                state: Any = self.states[place]
                raise InputError(
                    f"states[{place}]: `{name}` must lie in one of the bins {binned[name]}, got "
                    f"{show(state[name])}; nobody is dropped silently; add a bin for it."
                )
        if all(name in binned and binned[name] is None for name in self.fields) and self.fields:
            raise InputError(
                f"`bins` must leave a field of the profiles, got none for {list(self.fields)}; everybody would be the "
                "same; keep one."
            )

        def coarse(place: int, state: State) -> State:
            if isinstance(state, str):
                return state
            kept = {name: labels[name][place] if name in labels else state.get(name) for name in self.fields}
            return {name: kept[name] for name in self.fields if binned.get(name, ...) is not None}

        return [coarse(place, state) for place, state in enumerate(self.states)]

    @classmethod
    def _merged(cls, people: Iterable[tuple[State, float]]) -> Population:
        """States that read the same become one. Their order depends on nothing but what prompts show of them."""
        found: dict[str, tuple[State, float]] = {}
        for state, weight in people:
            key = _rendered(state)
            known, total = found.get(key, (state, 0.0))
            found[key] = min(known, state, key=str), total + weight
        merged = [(state, total) for _, (state, total) in sorted(found.items()) if total > 0]
        return cls(tuple(state for state, _ in merged), tuple(float(total) for _, total in merged))


def _rendered(state: State) -> str:
    return "\n".join(render_state(state))


def _weighted(records: Iterable[State], weight: str | None) -> Iterable[tuple[State, float]]:
    for row, record in enumerate(records, 1):
        if weight is None:
            yield plain_mapping(record), 1.0
            continue
        value = record.get(weight) if isinstance(record, Mapping) else None
        if isinstance(record, str) or not is_number(value) or not 0 <= value < math.inf:
            raise InputError(
                f"row {row}: the weight `{weight}` must be a number of at least 0, got {show(value)}; people cannot "
                "be counted; correct the record."
            )
        yield plain_mapping({name: entry for name, entry in record.items() if name != weight}), float(value)


def _arrow(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else shown(value) for value in values])
