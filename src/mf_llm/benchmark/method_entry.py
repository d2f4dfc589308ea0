"""`MethodEntry`: one method of the benchmark, as its table says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mf_llm.argument_checks import check_list, check_mapping
from mf_llm.benchmark.replay_method import ANNOTATORS
from mf_llm.errors import InputError
from mf_llm.evaluation.evaluator import MIN_POOLED_ROLLOUTS
from mf_llm.events.validation import show
from mf_llm.models.configuration_mf_llm import ROLES

FORECASTER, UNTUNED, TUNED, REPLAY = "forecasters", "untuned", "tuned", "replays"
SAMPLED = "+sampled"
_KEYS = ("forecaster", "annotator", "checkpoint", "seeds", "options", "roles", "data_sets")


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One method.

    Attributes:
        name: its name.
        forecaster: name of a forecaster without a language model; nothing else is then needed.
        annotator: "rule", "classifier" or "llm": people's real texts are read by it, and nothing is simulated.
        checkpoint: folder or name of a checkpoint, ``{checkpoints}`` in it stands for the folder of all checkpoints
            and ``{seed}`` for the training seed; None: the backbone as it is.
        seeds: training seeds, also those of the simulation.
        options: fields of `SimulationConfig`.
        roles: whose adapters are kept; those of the other role are set to zero.
        data_sets: only these; None: all.
        n_rollouts: rollouts per training seed, pooled (a sampled readout needs several).
    """

    name: str
    forecaster: str | None = None
    annotator: str | None = None
    checkpoint: str | None = None
    seeds: tuple[int, ...] = (0,)
    options: Mapping[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = ROLES
    data_sets: tuple[str, ...] | None = None
    n_rollouts: int = 1

    @property
    def is_simulated(self) -> bool:
        """Rollouts are needed."""
        return self.forecaster is None and self.annotator is None

    @property
    def kind(self) -> str:
        """ "forecasters", "replays", "untuned" or "tuned"."""
        if self.forecaster is not None:
            return FORECASTER
        if self.annotator is not None:
            return REPLAY
        return UNTUNED if self.checkpoint is None else TUNED

    def checkpoint_of(self, seed: int, folder: str = ".") -> str | None:
        """The checkpoint of one training seed.

        Args:
            seed: the training seed.
            folder: of all checkpoints.
        """
        if self.checkpoint is None:
            return None
        return self.checkpoint.replace("{checkpoints}", folder).replace("{seed}", str(seed))

    def simulation_seeds(self, seed: int) -> tuple[int, ...]:
        """The seeds of the rollouts of one training seed: no two training seeds share one."""
        return tuple(seed + 1000 * number for number in range(self.n_rollouts))

    def sampled(self) -> MethodEntry:
        """The same method, an action drawn per person instead of all probabilities read.

        Raises:
            InputError: it is not simulated.
        """
        if not self.is_simulated:
            raise InputError(
                f"`methods` must not ask for {self.name + SAMPLED!r}: {self.name!r} is not simulated, and no action "
                "can be drawn; the sampled forecaster is carry-sampled."
            )
        options = {**self.options, "readout": "sampled"}
        return replace(self, name=self.name + SAMPLED, options=options, n_rollouts=MIN_POOLED_ROLLOUTS)


def read_method(name: str, entry: Mapping[str, Any], forecasters: Sequence[str]) -> MethodEntry:
    """Reads one entry of the table.

    Args:
        name: of the method.
        entry: its fields.
        forecasters: names of the forecasters there are.

    Raises:
        InputError: a field is unknown, or does not fit the others.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", name):
        raise InputError(f"`methods` must have names of letters, digits and . + _ -, got {name!r}; they name folders.")
    check_keys(entry, _KEYS, f"method {name!r}")
    roles = check_list(entry.get("roles", ROLES), f"`roles` of method {name!r}")
    forecaster = entry.get("forecaster")
    annotator = entry.get("annotator")
    if forecaster is not None:
        check_known(forecaster, forecasters, f"method {name!r}, forecaster")
    if annotator is not None:
        check_known(annotator, ANNOTATORS, f"method {name!r}, annotator")
    for key in ("forecaster", "annotator"):
        if key in entry and set(entry) - {key, "data_sets"}:
            raise InputError(
                f"method {name!r} must be a forecaster, an annotator or a simulation, got keys of several; split it."
            )
    for role in roles:
        check_known(role, ROLES, f"method {name!r}, roles")
    seeds = check_list(entry.get("seeds", (0,)), f"`seeds` of method {name!r}")
    checkpoint = entry.get("checkpoint")
    whole = all(type(seed) is int and 0 <= seed < 1000 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) < len(seeds):
        raise InputError(
            f"`seeds` of method {name!r} must be different whole numbers below 1000, got {show(list(seeds))}; "
            "rollouts would share their randomness; correct them."
        )
    if checkpoint is not None and not (isinstance(checkpoint, str) and checkpoint.strip()):
        raise InputError(
            f"`checkpoint` of method {name!r} must be a folder or a name, got {show(checkpoint)}; nothing can be "
            "loaded; leave it out for the backbone as it is."
        )
    if checkpoint is not None and len(seeds) > 1 and "{seed}" not in checkpoint:
        raise InputError(
            f"`checkpoint` of method {name!r} must hold {{seed}} where there are several training seeds, got "
            f"{checkpoint!r}; one model would pass for {len(seeds)}."
        )
    names = entry.get("data_sets")
    names = None if names is None else check_list(names, f"`data_sets` of method {name!r}")
    if names is not None and not all(isinstance(one, str) for one in names):
        raise InputError(f"`data_sets` of method {name!r} must be names of data sets, got {show(names)}.")
    return MethodEntry(
        name=name,
        forecaster=forecaster,
        annotator=annotator,
        checkpoint=checkpoint,
        seeds=seeds,
        options=check_mapping(entry.get("options"), f"`options` of method {name!r}"),
        roles=roles,
        data_sets=names,
    )


def check_keys(record: Any, known: Sequence[str], where: str) -> None:
    """Refuses what is no mapping, or has unknown keys.

    Raises:
        InputError: naming them.
    """
    unknown = sorted(set(check_mapping(record, where)) - set(known))
    if unknown:
        raise InputError(f"{where} must have no keys but {', '.join(known)}, got {', '.join(unknown)}; correct them.")


def check_known(name: Any, known: Any, where: str) -> None:
    """Refuses an unknown name.

    Raises:
        InputError: naming it, and those that are known.
    """
    if not isinstance(name, str) or name not in known:
        raise InputError(f"`{where}` must be one of {', '.join(known)}, got {show(name)}; correct the name.")
