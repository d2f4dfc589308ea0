"""The population that a command line names."""

from __future__ import annotations

from pathlib import Path

from mf_llm.errors import InputError
from mf_llm.simulation.population import Population
from mf_llm.simulation.population_bins import load_bins


def named_population(
    table: str | None, *, bins: Path | None = None, weight: str | None = None, n_people: int | None = None
) -> Population | None:
    """The population that the command line names, or None.

    Args:
        table: Parquet or CSV file, or a folder of Parquet files.
        bins: YAML or JSON file that says how fields are coarsened.
        weight: column of how many people a row stands for.
        n_people: scale the population to so many people.

    Raises:
        InputError: something is given without a table, or cannot be read.
    """
    if table is None:
        for name, value in {"bins": bins, "weight-column": weight, "n-people": n_people}.items():
            if value is not None:
                raise InputError(f"`--population` must name a table where --{name} is given; there is nobody to read.")
        return None
    people = Population.from_table(table, weight=weight, bins=load_bins(bins) if bins is not None else None)
    return people if n_people is None else people.scaled(n_people)
