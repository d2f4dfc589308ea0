"""Transitions whose past was partly simulated, so that training meets the histories that rollouts make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.events import Event, Turn
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.training.transition_rows import has_waves, target_people, target_turns, told_past
from mf_llm.training.transition_settings import TransitionSettings
from mf_llm.training.transitions import answer_of

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor

# The anchor of a row is frozen. As a prior this strong it outweighs the counts it was made from.
_FROZEN = 1e12


def with_simulated_history(
    row: Mapping[str, Any],
    event: Event,
    model: MFLLMForSimulation,
    processor: MFLLMProcessor,
    *,
    steps: int,
    config_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    settings: TransitionSettings | None = None,
) -> dict[str, Any]:
    """A transition that begins `steps` simulated steps later: the model's own past, against drift over long horizons.

    The population is rolled on from the warm-up of the row by the model as it is now. What the simulated people really
    did is not even in the event that is simulated, nor is anybody after them; nothing of it reaches the row.

    Args:
        row: a transition with its real past, as `build_transitions` made it.
        event: its event.
        model: simulates; without gradient, in evaluation mode, which is then left again.
        processor: its processor.
        steps: number of steps to simulate (with waves: of waves).
        config_options: fields of `SimulationConfig` for the rollout (signal, readout, max_new_tokens, ...). What
            defines the transition (dimension, action, warm-up, steps, seed) is taken from the row and the settings; an
            anchored rollout takes the row's `carry` for its anchor. Of a wave ``settings.max_people`` people are
            simulated unless `max_people_per_step` says otherwise.
        seed: of the rollout.
        settings: those the row was made with.

    Returns:
        A row with `history`, `statistics`, `target_counts` and `people` of the later place; `warm_up` counts the
        simulated people too, and `carry` stays frozen. The row itself (as a dict) where fewer than
        ``settings.least_targets`` people (with waves: nobody) would be left to be predicted.

    Raises:
        InputError: `event` is not the row's, `steps` is not positive, or the options do not fit.
    """
    settings = settings or TransitionSettings()
    if row["event_id"] != event.event_id:
        raise InputError(
            f"`event` must be the event of the row, {row['event_id']!r}, got {event.event_id!r}; another past would "
            "be told; look the event up by its id."
        )
    check_whole("steps", steps)
    answer = answer_of(row)
    end = _end(event, row["warm_up"], steps, settings.agents_per_step)
    least = 1 if has_waves(event) else settings.least_targets
    if len(target_turns(event, end, answer.dimension, "all", settings.agents_per_step)) < least:
        return dict(row)

    from mf_llm.simulation.runner import simulate

    config = _config(row, event, config_options or {}, seed, settings)
    rollout = simulate(model, processor, _unseen(event, row["warm_up"], end), config, progress=False)
    return {
        **row,
        "warm_up": end,
        **told_past(event, rollout.actions, answer, settings, seed=seed),
        **target_people(event, end, answer, settings, draw=row["draw"]),
    }


def _end(event: Event, start: int, steps: int, size: int) -> int:
    """Index of the first turn after the simulated ones."""
    if not has_waves(event):
        return min(start + steps * size, len(event.turns))
    names = list(dict.fromkeys(turn.wave for turn in event.turns[start:]))[:steps]
    return start + sum(turn.wave in names for turn in event.turns[start:])


def _unseen(event: Event, start: int, end: int) -> Event:
    """The event up to `end`, without what nobody may know of the people from `start` on."""
    later = [Turn(state=turn.state, weight=turn.weight, wave=turn.wave) for turn in event.turns[start:end]]
    return replace(event, turns=(*event.turns[:start], *later), veracity=None, story=None, extra={})


def _config(
    row: Mapping[str, Any], event: Event, options: Mapping[str, Any], seed: int, settings: TransitionSettings
) -> SimulationConfig:
    dimension = row["dimension"] or None
    past = event.turns[: row["warm_up"]]
    labelled = sum(dimension in turn.labels for turn in past) if dimension else 0
    fixed = {
        "dimension": dimension,
        "action": row["kind"],
        "steps": "wave" if has_waves(event) else "count",
        "agents_per_step": settings.agents_per_step,
        "listed_actions": settings.listed_actions,
        "shown_answers": settings.shown_answers,
        # Warm-ups are counted in labelled actions, and in all of them where nobody was labelled.
        "warm_up": past[-1].wave if has_waves(event) else labelled or len(past),
        "max_actions": None,
        "seed": seed,
    }
    # A wave can be thousands of people, of whom a sample tells enough; steps of a few are simulated whole.
    defaults = {"max_people_per_step": settings.max_people} if has_waves(event) else {}
    if options.get("anchored"):
        fixed["anchor_prior"] = dict(zip(row["options"], row["carry"], strict=True))
        fixed["anchor_strength"] = _FROZEN
    return SimulationConfig(**{**defaults, **options, **fixed})
