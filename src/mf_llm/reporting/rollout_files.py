"""`RolloutFiles`: the rollouts that a comparison judged, found again by what its summary says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mf_llm.benchmark.job import RECORD, folder_name
from mf_llm.benchmark.method_entry import MethodEntry
from mf_llm.errors import InputError
from mf_llm.reporting.comparison_files import FORECASTER, ComparisonFiles, read_file
from mf_llm.simulation.rollout import Rollout
from mf_llm.simulation.run_folder import rollout_name
from mf_llm.simulation.simulation_config import SimulationConfig

_STEP_COLUMNS = ["real", "n_people", "prompt_tokens", "new_tokens"]


@dataclass(kw_only=True)
class Cost:
    """What the judged rollouts of a method took.

    Attributes:
        rollouts: their number.
        people: simulated people.
        prompt_tokens, new_tokens: read and written by both roles, the warm-up included.
        seconds: on the machine that made them; None where some rollout does not say it.
        failed: generations that failed.
    """

    rollouts: int = 0
    people: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float | None = 0.0
    failed: int = 0


class RolloutFiles:
    """The rollouts of a comparison.

    Args:
        folder: of all rollouts, ``METHOD/seedN/DATA_SET-HASH/rollouts/NAME``.
        files: the comparison. Rollouts made with other checkpoints or options than its own are not looked at.

    Attributes:
        unclear: what was left out since it was not clear which rollouts are meant, in words.
    """

    def __init__(self, folder: Path, files: ComparisonFiles) -> None:
        self._folder, self._comparison = folder, files
        self.unclear: list[str] = []

    @cached_property
    def runs(self) -> dict[tuple[str, str, int], Path]:
        """(method, label, training seed) -> the folder of its rollouts."""
        found = {}
        for method in self._comparison.names:
            made = self._comparison.made(method)
            if made.get("kind", FORECASTER) == FORECASTER:
                continue
            for label, record in self._comparison.records.items():
                for seed in sorted(map(int, made.get("checkpoints", {}))):
                    folders = self._folders(method, record["data_set"], seed, made)
                    if len(folders) > 1:
                        self.unclear.append(
                            f"{method}, {label}, seed {seed}: {len(folders)} folders of rollouts fit the summary"
                        )
                    elif folders and self._comparison.judged_events(method, label):
                        found[method, label, seed] = folders[0]
        return found

    @property
    def methods(self) -> list[str]:
        """The methods some of whose rollouts are there."""
        return list(dict.fromkeys(method for method, _, _ in self.runs))

    def seeds(self, method: str, label: str) -> list[int]:
        """The training seeds whose rollouts are there."""
        return [seed for name, where, seed in self.runs if (name, where) == (method, label)]

    def load(self, method: str, label: str, seed: int, event_id: str) -> list[Rollout]:
        """The rollouts of one event; empty where some of them are missing."""
        folders = list(self._rollouts(method, label, seed, event_id))
        if not folders or not all((folder / "rollout.json").is_file() for folder in folders):
            return []
        return [Rollout.load(folder) for folder in folders]

    def costs(self) -> dict[str, Cost]:
        """Method -> what its judged rollouts took; only methods of which there are some."""
        found: dict[str, Cost] = {}
        for method, label, seed in self.runs:
            for event_id in self._comparison.judged_events(method, label):
                for folder in self._rollouts(method, label, seed, event_id):
                    if (folder / "rollout.json").is_file():
                        _add(found.setdefault(method, Cost()), folder)
        return found

    def _rollouts(self, method: str, label: str, seed: int, event_id: str) -> Iterator[Path]:
        folder = self.runs.get((method, label, seed))
        if folder is None:
            return
        n_rollouts = self._comparison.made(method).get("rollouts_per_seed", 1)
        for number in MethodEntry(name=method, n_rollouts=n_rollouts).simulation_seeds(seed):
            yield folder / "rollouts" / rollout_name(event_id, number)

    def _folders(self, method: str, data_set: str, seed: int, made: Mapping[str, Any]) -> list[Path]:
        parent, found = self._folder / method / f"seed{seed}", []
        for folder in sorted(parent.glob("*-*")) if parent.is_dir() else ():
            path = folder / RECORD
            if folder.name.rpartition("-")[0] == data_set and path.is_file():
                record = read_file(path)
                if folder_name(data_set, record) != folder.name:
                    raise InputError(
                        f"{path} must be as `mf-llm compare` wrote it, but the name of its folder is the hash of "
                        "another one; it is not clear what made these rollouts; put the file back, or move the folder "
                        "away."
                    )
                if self._fits(record, data_set, seed, made):
                    found.append(folder)
        return found

    def _fits(self, record: Mapping[str, Any], data_set: str, seed: int, made: Mapping[str, Any]) -> bool:
        """Whether rollouts were made with the weights, roles and options that the summary tells."""
        # The record may leave out what is as by default.
        config = SimulationConfig().to_dict() | record["config"]
        special = self._comparison.summary.get("data_set_options", {}).get(data_set, {})
        # Options of a data set stand between those of all simulations and those of the method.
        options = all(
            config.get(key) in (value, special.get(key, value)) for key, value in made.get("options", {}).items()
        )
        own = all(
            config.get(key) in (value, made.get("options", {}).get(key, value)) for key, value in special.items()
        )
        weights = record["checkpoint"] == made["checkpoints"].get(str(seed))
        base = made.get("base") is None or record["model"] == made["base"]
        return options and own and weights and base and record["roles"] == made.get("roles", record["roles"])


def _add(cost: Cost, folder: Path) -> None:
    import pyarrow.parquet as pq

    steps = pq.read_table(folder / "steps.parquet", columns=_STEP_COLUMNS).to_pydict()
    cost.rollouts += 1
    cost.people += sum(n for n, real in zip(steps["n_people"], steps["real"], strict=True) if not real)
    cost.prompt_tokens += sum(steps["prompt_tokens"])
    cost.new_tokens += sum(steps["new_tokens"])
    cost.failed += read_file(folder / "rollout.json")["n_failed"]
    timings = folder / "timings.json"
    if cost.seconds is not None and timings.is_file():
        cost.seconds += sum(read_file(timings)["seconds_per_step"])
    else:
        cost.seconds = None
