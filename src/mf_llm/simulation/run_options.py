"""`RunOptions`: the keyword arguments of `simulate` that do not change what it returns, for type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from mf_llm.interventions.intervention import Intervention
    from mf_llm.simulation.population import Population


class RunOptions(TypedDict, total=False):
    """See `mf_llm.simulation.simulate`, which says what each of them means."""

    output: str | Path | None
    resume: bool
    progress: bool
    data_set: str | None
    events_together: int
    population: Population | None
    n_steps: int | None
    interventions: Sequence[Intervention]
    read_together: bool
