"""`MethodList`: the methods, data sets and pairs of a benchmark, read from a YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

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
    import yaml

    named = resources.files("mf_llm") / "data" / f"{path}.yaml"
    place = named if str(path) in PACKAGED else Path(path)
    try:
        text = place.read_text(encoding="utf-8")
        record = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{place} must be a list of methods in YAML; it cannot be read: {error}.") from error
    if not isinstance(record, dict):
        raise InputError(f"{place} must hold the keys methods and data_sets, got no mapping; see data/benchmark.yaml.")
    check_keys(record, ("options", "data_sets", "methods", "pairs", "quick"), str(place))
    forecasters = list(all_forecasters())
    methods = {name: read_method(name, entry or {}, forecasters) for name, entry in record.get("methods", {}).items()}
    for name in set(GROUPS) & set(methods):
        raise InputError(f"method {name!r} in {place} must not be named like a group of methods; rename it.")
    pairs = tuple((a, b) for a, b in record.get("pairs", ()))
    for name in (name for pair in pairs for name in pair):
        check_known(name, methods, "pairs")
    quick = record.get("quick") or {}
    check_keys(quick, ("methods", "options", "data_sets"), f"quick in {place}")
    for name in quick.get("methods", ()):
        check_known(name, methods, "quick")
    return MethodList(
        methods=methods,
        options=record.get("options") or {},
        data_sets={name: options or {} for name, options in (record.get("data_sets") or {}).items()},
        pairs=pairs,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        quick=quick,
    )
