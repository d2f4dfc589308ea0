"""What the people of a step did, as the mean-field model is told of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mf_llm.events import Event
from mf_llm.models.prompts import render_state
from mf_llm.simulation.keyed_draws import keyed_sample, stream_key
from mf_llm.simulation.rollout import FAILED, REAL, ActionRow
from mf_llm.simulation.signals import action_line, count_shares, shares_in_words
from mf_llm.simulation.steps import Step


def real_actions(event: Event, step: Step, dimension: str | None) -> list[ActionRow]:
    """What the people of a warm-up step really did.

    Args:
        event: the event.
        step: one of its steps.
        dimension: the dimension whose labels count, or None.
    """
    rows = []
    for i in step.turns:
        turn = event.turns[i]
        rows.append(
            ActionRow(
                step=step.index,
                turn=i,
                weight=turn.weight,
                wave=turn.wave,
                state="; ".join(render_state(turn.state)),
                text=turn.action,
                label=turn.labels.get(dimension) if dimension else None,
                probabilities=None,
                source=REAL,
            )
        )
    return rows


def listing_key(seed: int, event_id: str, step: int) -> int:
    """The stream that decides which actions of a step are listed where there are too many."""
    return stream_key(seed, event_id, step, "listed actions")


def told_actions(
    rows: Sequence[ActionRow], options: Sequence[str], *, key: int, listed_actions: int
) -> tuple[list[str], str | None]:
    """The part of the mean-field model's prompt that is about one step; failed rows are left out.

    Args:
        rows: the actions of the step.
        options: K category names, or ().
        key: stream key of the sample that is listed (see `listing_key`).
        listed_actions: how many actions are listed: a keyed weighted sample if there are more.

    Returns:
        One line per listed action in the order of `rows`, and the shares of all rows in words (None where nothing was
        counted).
    """
    counted = [row for row in rows if row.source != FAILED]
    done = [row for row in counted if action_line(row)]  # an unlabelled turn without words says nothing
    listed = keyed_sample(len(done), listed_actions, key, np.array([row.weight for row in done]))
    words = any(done[i].text for i in listed)
    shares = count_shares(counted, options).normalised
    tally = f"In total: {shares_in_words(options, shares)}." if shares is not None else None
    # Without words of their own, who chose what is all there is to tell.
    return [action_line(done[i], with_state=not words) for i in listed], tally
