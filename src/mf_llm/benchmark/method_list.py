"""`MethodList`: the methods, data sets and pairs of a benchmark, read from a YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from mf_llm.argument_checks import check_list, check_mapping
from mf_llm.benchmark.method_entry import (
    FORECASTER,
    REPLAY,
    SAMPLED,
    TUNED,
    UNTUNED,
    MethodEntry,
    check_keys,
    check_known,
    read_method,
)
from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import all_forecasters
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.yaml_files import read_yaml

PACKAGED = ("benchmark", "robustness")
GROUPS = ("all", FORECASTER, REPLAY, UNTUNED, TUNED)


@dataclass(frozen=True, eq=False)
class MethodList:
    """What is compared.

    Attributes:
        methods: name -> entry, in the order of the tables.
        options: fields of `SimulationConfig` for all simulations.
        data_sets: data set -> fields of `SimulationConfig` that differ there.
        pairs: methods whose difference is told.
        sha256: of the file.
        quick: what is taken of it for a trial.
    """

    methods: Mapping[str, MethodEntry]
    options: Mapping[str, Any]
    data_sets: Mapping[str, Mapping[str, Any]]
    pairs: tuple[tuple[str, str], ...]
    sha256: str
    quick: Mapping[str, Any] = field(default_factory=dict)

    def for_a_trial(self) -> MethodList:
        """The list without what takes long: fewer methods, one training seed, shorter signals."""
        wanted = self.quick.get("methods", list(self.methods))
        methods = {
            name: replace(entry, seeds=entry.seeds[:1]) for name, entry in self.methods.items() if name in wanted
        }
        changed = self.quick.get("data_sets", {})
        return replace(
            self,
            methods=methods,
            options={**self.options, **self.quick.get("options", {})},
            data_sets={name: {**options, **changed.get(name, {})} for name, options in self.data_sets.items()},
            pairs=tuple(pair for pair in self.pairs if set(pair) <= set(methods)),
        )

    def select(self, names: Sequence[str]) -> list[MethodEntry]:
        """Entries by their names, by a group (`GROUPS`), or with the suffix ``+sampled``.

        Raises:
            InputError: a name is unknown, or comes twice.
        """
        found: dict[str, MethodEntry] = {}
        for name in names:
            if name in GROUPS:
                entries = [entry for entry in self.methods.values() if name in ("all", entry.kind)]
            elif name not in self.methods and name.removesuffix(SAMPLED) in self.methods:
                entries = [self.methods[name.removesuffix(SAMPLED)].sampled()]
            elif name in self.methods:
                entries = [self.methods[name]]
            else:
                raise InputError(
                    f"`--methods` must be different names out of {', '.join(self.methods)} (a language-model method "
                    f"also with {SAMPLED}), or {', '.join(GROUPS)}, got {name!r}; nothing was compared."
                )
            twice = [entry.name for entry in entries if entry.name in found and name not in GROUPS]
            if twice:
                raise InputError(f"`--methods` must be different names, got {twice[0]!r} twice; nothing was compared.")
            found |= {entry.name: entry for entry in entries}
        return list(found.values())

    def options_of(self, method: MethodEntry, data_set: str) -> dict[str, Any]:
        """Fields of `SimulationConfig` for one method on one data set; the method has the last word."""
        return {**self.options, **self.data_sets.get(data_set, {}), **method.options}


def load_method_list(path: str | Path = "benchmark") -> MethodList:
    """Reads a list of methods.

    Args:
        path: a YAML file, or the name of a list of this package: "benchmark" (``mf_llm/data/benchmark.yaml``, where
            the format is explained) or "robustness".

    Raises:
        InputError: the file cannot be read or names what is not there.
    """
    named = resources.files("mf_llm") / "data" / f"{path}.yaml"
    place = named if str(path) in PACKAGED else Path(path)
    record = read_yaml(place, "methods")
    if not isinstance(record, dict):
        raise InputError(f"{place} must hold the keys methods and data_sets, got no mapping; see data/benchmark.yaml.")
    try:
        return _method_list(record, place)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _method_list(record: Mapping[str, Any], place: Any) -> MethodList:
    check_keys(record, ("options", "data_sets", "methods", "pairs", "quick"), "the list")
    entries = check_mapping(record.get("methods"), "`methods`")
    if not entries:
        raise InputError("`methods` must have at least one method, got none; there is nothing to compare.")
    forecasters = list(all_forecasters())
    methods = {name: read_method(name, {} if entry is None else entry, forecasters) for name, entry in entries.items()}
    for name in set(GROUPS) & set(methods):
        raise InputError(f"method {name!r} must not be named like a group of methods; rename it.")
    given = () if record.get("pairs") is None else check_list(record["pairs"], "`pairs`")
    pairs = [check_list(pair, "each of `pairs`") for pair in given]
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(f"each of `pairs` must be two different methods, got {list(pair)}; nothing differs.")
        for name in pair:
            check_known(name, methods, "pairs")
    quick = check_mapping(record.get("quick"), "`quick`")
    check_keys(quick, ("methods", "options", "data_sets"), "`quick`")
    for name in check_list(quick.get("methods", ()), "`methods` of `quick`"):
        check_known(name, methods, "quick")
    quick = {**quick, "options": check_mapping(quick.get("options"), "`options` of `quick`")}
    quick["data_sets"] = _options_by_name(quick.get("data_sets"), "`data_sets` of `quick`")
    options = check_mapping(record.get("options"), "`options`")
    data_sets = _options_by_name(record.get("data_sets"), "`data_sets`")
    for where, own in {"`options`": {}, "`options` of `quick`": quick["options"]}.items():
        _check_options({**options, **own}, where)
    for where, some in {"data set": data_sets, "`quick`, data set": quick["data_sets"]}.items():
        for name, own in some.items():
            _check_options({**options, **own}, f"{where} {name!r}")
    for name, entry in methods.items():
        if entry.is_simulated:
            _check_options({**options, **entry.options}, f"method {name!r}")
    return MethodList(
        methods=methods,
        options=options,
        data_sets=data_sets,
        pairs=tuple((a, b) for a, b in pairs),
        sha256=hashlib.sha256(place.read_bytes()).hexdigest(),
        quick=quick,
    )


def _options_by_name(record: Any, what: str) -> dict[str, Mapping[str, Any]]:
    return {name: check_mapping(own, f"{name!r} of {what}") for name, own in check_mapping(record, what).items()}


def _check_options(options: Mapping[str, Any], where: str) -> None:
    """Refuses options that no simulation can have, before anything is simulated."""
    check_keys(options, [f.name for f in fields(SimulationConfig)], f"options of {where}")
    try:
        SimulationConfig(**options)
    except InputError as error:
        raise InputError(f"options of {where}: {error}") from error
