"""The tables of a whole run: all its rollouts in two Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mf_llm.atomic_files import write_table
from mf_llm.simulation.rollout import Rollout


def write_run_tables(run_dir: Path, rollouts: Sequence[Rollout]) -> None:
    """Writes ``actions.parquet`` and ``steps.parquet`` of all rollouts, each at once or not at all.

    One line reads them: ``pandas.read_parquet("RUN/actions.parquet")``.
    """
    import pyarrow as pa

    write_table(run_dir / "actions.parquet", pa.concat_tables([rollout.actions_table() for rollout in rollouts]))
    write_table(run_dir / "steps.parquet", pa.concat_tables([rollout.steps_table() for rollout in rollouts]))
