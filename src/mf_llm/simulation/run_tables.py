"""The tables of a whole run: all its rollouts in two Parquet files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mf_llm.simulation.rollout import Rollout


def write_run_tables(run_dir: Path, rollouts: Sequence[Rollout]) -> None:
    """Writes ``actions.parquet`` and ``steps.parquet`` of all rollouts, each at once or not at all.

    One line reads them: ``pandas.read_parquet("RUN/actions.parquet")``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, tables in (
        ("actions.parquet", [rollout.actions_table() for rollout in rollouts]),
        ("steps.parquet", [rollout.steps_table() for rollout in rollouts]),
    ):
        temporary = run_dir / f".{name}.{os.getpid()}"
        pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")
        temporary.replace(run_dir / name)
