"""``mf-llm simulate --population``: a table of people acts in the place of those after the warm-up."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from mf_llm.cli import app
from mf_llm.errors import InputError
from mf_llm.models.tiny import save_tiny_backbone

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TABLE = "age,job,n\n24,student,200\n31,nurse,300\n55,driver,450\n58,driver,50\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("population")
    save_tiny_backbone(folder / "model", "qwen2")
    (folder / "people.csv").write_text(TABLE, encoding="utf-8")
    (folder / "bins.yaml").write_text("age: [18, 40, 65]\n", encoding="utf-8")
    return folder


def simulate(folder, *options):
    command = ["simulate", "bridge-closure", "--model", str(folder / "model"), "--signal", "statistics"]
    return CliRunner().invoke(app, [*command, "--action", "choice", *map(str, options)], catch_exceptions=True)


def people_of(folder):
    return ["--population", folder / "people.csv", "--weight-column", "n", "--bins", folder / "bins.yaml"]


def test_everybody_acts_in_every_step(folder):
    out = folder / "out"
    done = simulate(folder, *people_of(folder), "--n-people", 5_000_000, "--n-steps", 2, "--output", out)
    assert done.exit_code == 0, done.output
    assert "10,000,000 people" in done.stdout and "mf-llm evaluate" not in done.stdout
    steps = pd.read_parquet(out / "steps.parquet")
    simulated = steps[~steps.real]
    assert list(simulated.n_people) == [5_000_000] * 2
    assert [sum(counts) for counts in simulated.counts] == [5_000_000] * 2
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["population"] == {"states": 3, "people": 5_000_000, "steps": 2}
    again = simulate(folder, *people_of(folder), "--n-steps", 2, "--output", out, "--resume")
    assert isinstance(again.exception, InputError) and "population.people" in str(again.exception)
    judged = CliRunner().invoke(app, ["evaluate", str(out)])
    assert isinstance(judged.exception, InputError) and "got a population" in str(judged.exception)


def test_a_dry_run_counts_states_not_people(folder):
    few, many = (simulate(folder, *people_of(folder), "--n-people", n, "--dry-run").stdout for n in (1000, 9_000_000))
    assert few.split("people to simulate")[1] == many.split("people to simulate")[1]
    assert "9,000,000 people" in many


@pytest.mark.parametrize("option", [("--bins", "bins.yaml"), ("--weight-column", "n"), ("--n-people", 7)])
def test_what_belongs_to_a_table_needs_one(option, folder):
    failed = simulate(folder, *option, "--output", folder / "none")
    assert isinstance(failed.exception, InputError)
    assert str(failed.exception).startswith(f"`--population` must name a table where {option[0]} is given")
    assert not (folder / "none").exists()
