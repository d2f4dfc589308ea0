"""A run folder is read with one line in pandas, `datasets` and DuckDB."""

import pytest
from small_events import model_of, processor_of, small_event

from mf_llm import SimulationConfig
from mf_llm.simulation import simulate
from mf_llm.simulation.run_folder import write_run_tables


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder of one event and two seeds."""
    folder = tmp_path_factory.mktemp("queries")
    config = SimulationConfig(signal="both", max_new_tokens=3, signal_max_tokens=5, agents_per_step=3, warm_up=8)
    where = {"seeds": (0, 1), "output": folder, "data_set": "rumours", "progress": False}
    rollouts = simulate(model_of("qwen2"), processor_of("qwen2"), small_event(14), config, **where)
    write_run_tables(folder, rollouts)
    return folder, rollouts


def test_pandas_reads_actions_and_steps(made):
    pandas, (folder, rollouts) = pytest.importorskip("pandas"), made
    actions, steps = (pandas.read_parquet(folder / f"{name}.parquet") for name in ("actions", "steps"))
    assert actions["label"].tolist() == [row.label for one in rollouts for row in one.actions]
    assert [list(shares) for shares in steps["shares"]] == [list(row.shares) for one in rollouts for row in one.steps]


def test_datasets_reads_actions_and_steps(made, tmp_path):
    from datasets import Dataset

    folder, rollouts = made
    actions, steps = (
        Dataset.from_parquet(str(folder / f"{name}.parquet"), cache_dir=str(tmp_path)) for name in ("actions", "steps")
    )
    assert actions["text"][:] == [row.text for one in rollouts for row in one.actions]
    assert steps["signal"][:] == [row.signal for one in rollouts for row in one.steps]


def test_duckdb_joins_actions_and_steps(made):
    duckdb, (folder, rollouts) = pytest.importorskip("duckdb"), made
    found = duckdb.sql(
        f"SELECT seed, step, signal, count(*) FROM '{folder}/actions.parquet' JOIN '{folder}/steps.parquet' "
        "USING (event_id, seed, step) WHERE source = 'simulated' GROUP BY ALL ORDER BY seed, step"
    ).fetchall()
    assert found == [
        (one.seed, row.step, row.signal, row.n_people) for one in rollouts for row in one.steps if not row.real
    ]
    assert len(found) == 4
