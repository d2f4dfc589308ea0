"""What makes a rollout valid: checked when it is read, so that nothing wrong is scored or gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mf_llm.argument_checks import check_types
from mf_llm.errors import InputError
from mf_llm.events.validation import show

if TYPE_CHECKING:
    from mf_llm.simulation.rollout import ActionRow, Rollout, StepRow

SOURCES = ("real", "simulated", "intervention", "failed")
_TOLERANCE = 1e-3


def check_action(row: ActionRow, categories: Sequence[str]) -> None:
    """Refuses an action that no simulation makes.

    Raises:
        InputError: naming the field.
    """
    check_types(row)
    if row.source not in SOURCES:
        raise InputError(f"`source` must be one of {', '.join(SOURCES)}, got {show(row.source)}.")
    if row.label is not None and row.label not in categories:
        raise InputError(f"`label` must be one of {', '.join(categories) or 'none'}, got {show(row.label)}.")
    for name in ("step", "turn", "weight"):
        if getattr(row, name) < 0:
            raise InputError(f"`{name}` must be at least 0, got {getattr(row, name)}.")
    _check_shares("probabilities", row.probabilities, len(categories))
    _check_counts(row.counts, len(categories))


def check_step(row: StepRow, n_categories: int) -> None:
    """Refuses a step that no simulation makes.

    Raises:
        InputError: naming the field.
    """
    check_types(row)
    for name in ("step", "n_people", "n_failed", "prompt_tokens", "new_tokens"):
        if getattr(row, name) < 0:
            raise InputError(f"`{name}` must be at least 0, got {getattr(row, name)}.")
    _check_shares("shares", row.shares, n_categories)
    _check_counts(row.counts, n_categories)


def check_rollout(rollout: Rollout) -> None:
    """Refuses a rollout that no simulation makes.

    Raises:
        InputError: naming the file, the row and the field.
    """
    try:
        _check_record(rollout)
    except InputError as error:
        raise InputError(f"rollout.json: {error}") from None
    steps, actions = rollout.steps, rollout.actions
    tables: tuple[tuple[str, Sequence[Any]], ...] = (("steps", steps), ("actions", actions))
    for name, rows in tables:
        for number, row in enumerate(rows, 1):
            try:
                if name == "steps":
                    check_step(row, len(rollout.categories))
                    if row.step != number - 1:
                        raise InputError(f"`step` must be {number - 1}, got {row.step}.")
                else:
                    check_action(row, rollout.categories)
                    if steps and row.step >= len(steps):
                        raise InputError(f"`step` must be one of the {len(steps)} steps, got {row.step}.")
            except InputError as error:
                raise InputError(f"{name}.parquet, row {number}: {error}") from None


def _check_record(rollout: Rollout) -> None:
    from mf_llm.simulation.simulation_config import SimulationConfig

    check_types(rollout)
    if not rollout.event_id or rollout.seed < 0:
        raise InputError(f"`event_id` and `seed` must be given, got {show(rollout.event_id)} and {rollout.seed}.")
    categories = rollout.categories
    n_least = 0 if rollout.dimension is None else 2
    if len(set(categories)) < max(len(categories), n_least) or (n_least == 0 and categories):
        raise InputError(
            f"`categories` must be different ones, at least two with a dimension and none without, got "
            f"{show(list(categories))} with dimension {show(rollout.dimension)}."
        )
    resolved = rollout.config.get("resolved", {})
    if not isinstance(resolved, Mapping):
        raise InputError(f"`resolved` of `config` must be a mapping, got {show(resolved)}.")
    known = {f.name for f in fields(SimulationConfig)}
    SimulationConfig(**{name: value for name, value in rollout.config.items() if name in known})


def _check_shares(name: str, shares: Sequence[float] | None, n_categories: int) -> None:
    if shares is None:
        return
    if len(shares) != n_categories or min(shares) < 0 or abs(sum(shares) - 1) > _TOLERANCE:
        raise InputError(
            f"`{name}` must be a distribution over {n_categories} categories, got {[round(one, 6) for one in shares]}."
        )


def _check_counts(counts: Sequence[int] | None, n_categories: int) -> None:
    if counts is not None and (len(counts) != n_categories or min(counts) < 0):
        raise InputError(f"`counts` must be {n_categories} numbers of at least 0, got {list(counts)}.")
