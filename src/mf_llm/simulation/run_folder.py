"""A run folder: one folder per rollout, and the tables of all of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mf_llm.atomic_files import write_table
from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.simulation.rollout import Rollout


def rollout_name(event_id: str, seed: int) -> str:
    """The folder name of one rollout: readable, valid on every file system, distinct for distinct ids."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", event_id).strip("-.")[:80]
    if slug != event_id:
        slug = f"{slug}-{hashlib.sha256(event_id.encode()).hexdigest()[:8]}"
    return f"{slug}-seed{seed}"


def check_distinct_ids(events: Sequence[Event]) -> None:
    """Refuses events that would share one folder of a run.

    Raises:
        InputError: naming the first event id that comes twice.
    """
    for event_id, count in Counter(event.event_id for event in events).items():
        if count > 1:
            raise InputError(
                f"`event_id` must differ among the events of one run, got {event_id!r} {count} times; their rollouts "
                "would share a folder; simulate the data sets one by one, each into a folder of its own."
            )


def write_run_tables(run_dir: Path, rollouts: Sequence[Rollout]) -> None:
    """Writes ``actions.parquet`` and ``steps.parquet`` of all rollouts, each at once or not at all.

    One line reads them: ``pandas.read_parquet("RUN/actions.parquet")``.
    """
    import pyarrow as pa

    write_table(run_dir / "actions.parquet", pa.concat_tables([rollout.actions_table() for rollout in rollouts]))
    write_table(run_dir / "steps.parquet", pa.concat_tables([rollout.steps_table() for rollout in rollouts]))
