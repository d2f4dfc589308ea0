"""Who acts together, and what an action is: the plan of a simulation, made before any model is loaded."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate

from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.events.validation import show
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation.keyed_draws import keyed_sample, stream_key, uniform_number
from mf_llm.simulation.simulation_config import SimulationConfig


@dataclass(frozen=True, kw_only=True)
class Step:
    """The people of one step.

    Attributes:
        index: place of the step.
        turns: indices into ``event.turns``.
        real: True in the warm-up.
        wave: survey wave, or None.
        resampled: for each turn, the turn whose state the person has instead; () where it is the turn itself.
        counts: for each turn, how many people it stands for (a step of a population); () where it is one person.
    """

    index: int
    turns: tuple[int, ...]
    real: bool
    wave: str | None = None
    resampled: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def n_people(self) -> int:
        """Number of people in the step."""
        return sum(self.counts) if self.counts else len(self.turns)

    @property
    def profiles(self) -> tuple[int, ...]:
        """For each turn, the turn whose state the person has."""
        return self.resampled or self.turns


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is simulated of an event, and how.

    Attributes:
        steps: all steps, warm-up first.
        answer: what an action is.
        silent: categories whose people wrote nothing in the warm-up (sharing without words, for example): for them the
            label is the whole action.
        warm_up: number of warm-up turns.
    """

    steps: tuple[Step, ...]
    answer: AnswerFormat
    silent: frozenset[str]
    warm_up: int

    @property
    def profiles(self) -> dict[int, int]:
        """Turn -> the turn whose state its person has, after the warm-up."""
        pairs = ((step.turns, step.profiles) for step in self.steps if not step.real)
        return {turn: profile for turns, profiles in pairs for turn, profile in zip(turns, profiles, strict=True)}

    @property
    def n_simulated(self) -> int:
        """Number of turns that are simulated: people, or states of a population."""
        return sum(len(step.turns) for step in self.steps if not step.real)

    @property
    def is_population(self) -> bool:
        """Whether the turns after the warm-up are the states of a population (`plan_population`)."""
        return any(step.counts for step in self.steps)


def plan_simulation(event: Event, config: SimulationConfig) -> Plan:
    """The steps of an event and the form of its actions; looks at nothing but states and waves after the warm-up.

    Raises:
        InputError: if the event has no such dimension or wave, no times where they are needed, or nobody is left to
            simulate after the warm-up.
    """
    dimension, waves, boundary = _warm_up(event, config)
    end = len(event.turns) if config.max_actions is None else min(len(event.turns), config.max_actions)
    if boundary >= end:
        raise InputError(
            f"`warm_up` must leave somebody to simulate, got {boundary} warm-up turns of {end} in event "
            f"{event.event_id!r}; lower `warm_up` or raise `max_actions`."
        )
    answer, silent = _checked_answer(event, config, dimension, boundary)
    steps = _steps(event, config, waves, boundary, end)
    if config.people == "resampled":
        steps = _resampled(steps, event, boundary, config.seed)
    return Plan(steps=steps, answer=answer, silent=silent, warm_up=boundary)


def plan_warm_up(event: Event, config: SimulationConfig) -> Plan:
    """The warm-up of an event alone, which may be all of it; looks at nothing behind it but waves.

    Raises:
        InputError: as `plan_simulation`, but for a warm-up that leaves nobody to simulate.
    """
    dimension, waves, boundary = _warm_up(event, config)
    answer, silent = _checked_answer(event, config, dimension, boundary)
    steps = _steps(event, config, waves, boundary, boundary) if boundary else ()
    return Plan(steps=steps, answer=answer, silent=silent, warm_up=boundary)


def _warm_up(event: Event, config: SimulationConfig) -> tuple[str | None, bool, int]:
    """The dimension that is read, whether steps are waves, and how many turns the warm-up has."""
    dimension = config.dimension
    if dimension is None and config.action != "text":
        dimension = next(iter(event.dimensions), None)
    if dimension is not None and dimension not in event.dimensions:
        raise InputError(
            f"`dimension` must be one of {sorted(event.dimensions)} of event {event.event_id!r}, got {dimension!r}."
        )
    waves = config.steps == "wave" or (config.steps == "auto" and all(turn.wave for turn in event.turns))
    boundary = _wave_boundary(event, config) if waves else _count_boundary(event, config, dimension)
    return dimension, waves, boundary


def _checked_answer(
    event: Event, config: SimulationConfig, dimension: str | None, boundary: int
) -> tuple[AnswerFormat, frozenset[str]]:
    """The form of an action, and its silent categories; refuses what free text cannot be asked for."""
    answer, silent = _answer_format(event, config, dimension, boundary)
    if config.signal in ("statistics", "both") and answer.kind == "text":
        raise InputError(
            f"`signal` must not be {config.signal!r} for free text without a dimension (event {event.event_id!r}); "
            'there are no shares to tell; use signal="text", or give the event a dimension.'
        )
    if config.anchored and answer.kind == "text":
        raise InputError(
            f"`anchored` must be False for free text without a dimension (event {event.event_id!r}); there is no "
            "share to anchor; leave it out."
        )
    if config.calibrated and answer.kind == "text":
        raise InputError(
            f"`calibrated` must be False for free text without a dimension (event {event.event_id!r}); there are no "
            "options to calibrate; leave it out."
        )
    return answer, silent


def _steps(event: Event, config: SimulationConfig, waves: bool, boundary: int, end: int) -> tuple[Step, ...]:
    """The turns before `end` in steps, those before `boundary` real."""
    if waves:
        groups = _by_wave(event, end)
    elif config.steps == "time":
        groups = _by_time(event, config, boundary, end)
    else:
        groups = _by_count(config.agents_per_step, boundary, end)
    return tuple(
        Step(
            index=i,
            turns=turns if turns[0] < boundary else _sample(turns, i, event, config, waves),
            real=turns[0] < boundary,
            wave=event.turns[turns[0]].wave if waves else None,
        )
        for i, turns in enumerate(groups)
    )


def _sample(
    turns: tuple[int, ...], index: int, event: Event, config: SimulationConfig, waves: bool
) -> tuple[int, ...]:
    n, size = len(turns), config.max_people_per_step
    if size is None or n <= size:
        return turns
    key = stream_key(config.seed, event.event_id, index, "people")
    if waves:
        return tuple(turns[i] for i in keyed_sample(n, size, key))
    # At equal distances: each of the windows that a step spans keeps its part.
    first = uniform_number(key)
    return tuple(turns[int((i + first) * n / size)] for i in range(size))


def _resampled(steps: tuple[Step, ...], event: Event, boundary: int, seed: int) -> tuple[Step, ...]:
    """Everybody after the warm-up gets a profile out of it, in surveys out of its last wave by weight."""
    if boundary == 0:
        raise InputError(
            f'`people` must be "actual" without a warm-up (event {event.event_id!r}); there are no profiles to draw '
            "from; give a warm-up."
        )
    last = event.turns[boundary - 1].wave
    known = [i for i in range(boundary) if event.turns[i].wave == last]
    ends = list(accumulate(event.turns[i].weight for i in known))

    def profile(turn: int) -> int:
        number = uniform_number(stream_key(seed, event.event_id, turn, "profile")) * ends[-1]
        return known[min(bisect_right(ends, number), len(known) - 1)]

    return tuple(step if step.real else replace(step, resampled=tuple(map(profile, step.turns))) for step in steps)


def _count_boundary(event: Event, config: SimulationConfig, dimension: str | None) -> int:
    if isinstance(config.warm_up, str):
        raise InputError(
            f"`warm_up` must be a number of actions for event {event.event_id!r}, which is not stepped by wave, got "
            f"{show(config.warm_up)}."
        )
    n = len(event.turns)
    warm_up = _default_warm_up(n) if config.warm_up is None else config.warm_up
    # The protocol counts labelled actions. Where nobody was labelled so far, every action counts. Either way no turn
    # after the warm-up is looked at.
    all_count = dimension is None or not any(dimension in turn.labels for turn in event.turns[:warm_up])
    counted = 0
    for i, turn in enumerate(event.turns):
        if counted == warm_up:
            return i
        counted += all_count or dimension in turn.labels
    return n


def _default_warm_up(n: int) -> int:
    """The protocol's rule for one event of `n` turns; half of an event that is too short for it."""
    from mf_llm.evaluation.protocol import WINDOW_CHOICES

    return next((warm_up for warm_up, window in WINDOW_CHOICES if n >= warm_up + window), n // 2)


def _wave_boundary(event: Event, config: SimulationConfig) -> int:
    names = list(dict.fromkeys(turn.wave for turn in event.turns))
    if None in names:
        raise InputError(
            f'`steps` must not be "wave" for event {event.event_id!r}: its turn '
            f"{next(i for i, turn in enumerate(event.turns) if turn.wave is None)} has no wave; use count or time."
        )
    if config.warm_up is None:
        last = names[-2] if len(names) > 1 else None
        return max((i + 1 for i, turn in enumerate(event.turns) if turn.wave == last), default=0)
    if isinstance(config.warm_up, int):
        if config.warm_up == 0:
            return 0
        raise InputError(
            f"`warm_up` must be the name of a wave ({', '.join(map(str, names))}) for event {event.event_id!r}, got "
            f"the number {config.warm_up}; with waves the warm-up ends with a wave."
        )
    if config.warm_up not in names:
        raise InputError(
            f"`warm_up` must be one of the waves {', '.join(map(str, names))} of event {event.event_id!r}, got "
            f"{show(config.warm_up)}."
        )
    return max(i + 1 for i, turn in enumerate(event.turns) if turn.wave == config.warm_up)


def _by_wave(event: Event, end: int) -> list[tuple[int, ...]]:
    groups: dict[str | None, list[int]] = {}
    for i, turn in enumerate(event.turns[:end]):
        groups.setdefault(turn.wave, []).append(i)
    return [tuple(group) for group in groups.values()]


def _by_count(size: int, boundary: int, end: int) -> list[tuple[int, ...]]:
    # The warm-up ends with a step of its own, so that no step mixes real and simulated actions.
    starts = [*range(0, boundary, size), *range(boundary, end, size)]
    return [tuple(range(a, b)) for a, b in zip(starts, [*starts[1:], end], strict=True)]


def _by_time(event: Event, config: SimulationConfig, boundary: int, end: int) -> list[tuple[int, ...]]:
    groups: dict[tuple[bool, int], list[int]] = {}
    origin = event.turns[0].time
    for i, turn in enumerate(event.turns[:end]):
        if turn.time is None or origin is None:
            raise InputError(
                f'`steps` must not be "time" for event {event.event_id!r}: its turn {i} has no time; use "count".'
            )
        slot = math.floor((turn.time - origin) / float(config.seconds_per_step or 1.0))
        groups.setdefault((i >= boundary, slot), []).append(i)
    return [tuple(group) for group in groups.values()]


def _answer_format(
    event: Event, config: SimulationConfig, dimension: str | None, boundary: int
) -> tuple[AnswerFormat, frozenset[str]]:
    kind, warm_up = config.action, event.turns[:boundary]
    if kind == "auto":
        if dimension is None:
            kind = "text"
        else:
            kind = "choice" if warm_up and not any(turn.action.strip() for turn in warm_up) else "label_text"
    if kind == "text":
        return AnswerFormat(kind="text", language=event.language), frozenset()
    if dimension is None:
        raise InputError(
            f'`action` must be "text" for event {event.event_id!r}, which has no dimensions, got {config.action!r}.'
        )
    options = tuple(event.dimensions[dimension])
    spoken = {turn.labels.get(dimension) for turn in warm_up if turn.action.strip()}
    heard = {turn.labels.get(dimension) for turn in warm_up if dimension in turn.labels}
    silent = frozenset(heard - spoken) if kind == "label_text" else frozenset()
    answer = AnswerFormat(kind=kind, dimension=dimension, options=options, language=event.language)
    return answer, frozenset(str(label) for label in silent)
