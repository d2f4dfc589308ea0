"""Signals and actions of one event: what was simulated beside what people did at the same place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mf_llm.events import Event
from mf_llm.reporting.blocks import NONE, Cell, Table, counted, shortened
from mf_llm.simulation.rollout import FAILED, INTERVENTION, REAL, ActionRow, Rollout

_SIGNAL, _STATE, _TEXT = 600, 140, 220
_STEPS, _ACTIONS = 5, 8

Entry = TypeVar("Entry")


def signals_table(rollout: Rollout, caption: str) -> Table:
    """Some steps of a rollout and the signals their people saw.

    A signal that a model wrote is simulated. Others are listed or counted from what was done so far, which is real as
    long as the warm-up lasts.
    """
    written = rollout.config.get("signal") in ("text", "both")
    rows = []
    for step in spread(rollout.steps, _STEPS):
        signal = shortened(step.signal, _SIGNAL) or NONE
        failed = f"failed: {step.signal_failure}; the signal before was kept" if step.signal_failure else ""
        what = "warm-up" if step.real else "rollout"
        rows.append(
            [
                Cell(
                    text=f"step {step.step + 1}" + (f", wave {step.wave}" if step.wave else ""),
                    detail=counted(step.n_people, "action"),
                ),
                Cell(text=what, mark="real" if step.real else "simulated"),
                Cell(text=signal, detail=failed, mark="simulated" if written else ""),
            ]
        )
    head = ["step", "actions of the step", "signal that was seen"]
    return Table(caption=caption, head=head, rows=rows, words=frozenset({1, 2}), stacked=True)


def actions_table(rollout: Rollout, event: Event | None, caption: str) -> Table:
    """Some simulated actions; beside them the real ones of the same people, where the event is given."""
    rows = []
    for row in spread([row for row in rollout.actions if row.source not in (REAL, INTERVENTION)], _ACTIONS):
        cells = [
            Cell(text=f"person {row.turn + 1}", detail=shortened(row.state, _STATE)),
            Cell(text=answer(row, rollout.categories), detail=shortened(row.text, _TEXT), mark="simulated"),
        ]
        if event is not None:
            turn = event.turns[row.turn]
            label = turn.labels.get(rollout.dimension or "", NONE)
            cells.append(Cell(text=label, detail=shortened(turn.action, _TEXT), mark="real"))
        rows.append(cells)
    head = ["person", "simulated", *(["real"] if event is not None else [])]
    return Table(caption=caption, head=head, rows=rows, words=frozenset({1, 2}), stacked=True)


def answer(row: ActionRow, categories: Sequence[str]) -> str:
    """What a row says: its label, the likeliest category, or why it failed."""
    if row.source == FAILED:
        return f"failed: {row.failure}"
    p = row.probabilities
    if p is None:
        return row.label or NONE
    place = max(range(len(categories)), key=lambda number: p[number])
    return f"likeliest: {categories[place]} ({p[place]:.0%})"


def spread(entries: Sequence[Entry], count: int) -> list[Entry]:
    """So many of the entries, the first and the last among them, evenly spread."""
    if len(entries) <= count:
        return list(entries)
    return [entries[round(place * (len(entries) - 1) / (count - 1))] for place in range(count)]
