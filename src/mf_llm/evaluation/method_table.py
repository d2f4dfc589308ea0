"""`MethodTable`: many methods on several data sets, what is missing included, as rows for files and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Training, full_name
from mf_llm.evaluation.judged_event import judge_forecast
from mf_llm.evaluation.paired import MethodScores, Resampling, check_same_events, mean_kl
from mf_llm.evaluation.protocol import PROTOCOL_VERSION
from mf_llm.evaluation.scoring import Replicated

ALL, EVENTS = "mean", "mean-without-surveys"
COMPLETE = "complete"

KL_COLUMNS = (
    "method",
    "dataset",
    "training_seed",
    "status",
    "n_events",
    "n_seeds",
    "kl",
    "kl_low",
    "kl_high",
    "reference",
    "reference_kl",
    "gain",
    "gain_low",
    "gain_high",
    "best_constant",
    "entropy_ratio",
    "n_failed",
    "protocol",
    "bootstrap_seed",
)
PAIRED_COLUMNS = (
    "a",
    "b",
    "dataset",
    "status",
    "n_events",
    "n_seeds_a",
    "n_seeds_b",
    "kl_a",
    "kl_b",
    "difference",
    "low",
    "high",
    "protocol",
    "bootstrap_seed",
)


@dataclass(frozen=True, eq=False)
class Cell:
    """What there is of one method on one data set.

    Attributes:
        scores: the finished training seeds; None where there is none.
        missing: what is not there yet, in words; empty where the cell is complete.
    """

    scores: MethodScores | None
    missing: str = ""

    def __post_init__(self) -> None:
        if self.scores is None and not self.missing:
            raise InputError(
                "`missing` must say why a cell has no scores, got nothing; a gap would look like a result."
            )


class MethodTable:
    """Methods by data sets. A cell that is missing makes every mean over it missing, never a mean over the others.

    Args:
        cells: (method, data set) -> cell; pairs that are left out count as "not asked for".
        training: data set -> its train and validation events, which give the reference forecaster.
        resampling: the draws that all cells share.
    """

    def __init__(
        self, cells: Mapping[tuple[str, str], Cell], training: Mapping[str, Training], resampling: Resampling
    ) -> None:
        self.cells, self.training, self.resampling = dict(cells), dict(training), resampling
        self.methods = list(dict.fromkeys(method for method, _ in cells))
        self.data_sets = [name for name in training if any(data_set == name for _, data_set in cells)]
        self._kl: dict[tuple[str, str], Replicated] = {}

    @property
    def scopes(self) -> dict[str, list[str]]:
        """Name of a mean -> the data sets it is over: all, and all but surveys."""
        streams = [name for name in self.data_sets if not self.training[name].windows.waves]
        return {ALL: self.data_sets, EVENTS: streams}

    def data_sets_of(self, scope: str) -> list[str]:
        """The data sets of a mean, or the data set of that name."""
        return self.scopes.get(scope, [scope])

    def missing(self, method: str, scope: str) -> str:
        """What a method lacks on a data set or for a mean; empty where it is complete."""
        if not any(name == method for name, _ in self.cells):
            return "not asked for"
        parts = []
        for data_set in self.data_sets_of(scope):
            cell = self.cells.get((method, data_set))
            text = "not asked for" if cell is None else cell.missing
            if text:
                parts.append(text if scope == data_set else f"{data_set}: {text}")
        if not parts and len({self._seeds(method, data_set) for data_set in self.data_sets_of(scope)}) > 1:
            parts.append("other training seeds on some data sets")
        return "; ".join(parts)

    def kl(self, method: str, scope: str) -> Replicated | None:
        """KL on a data set (of the finished seeds), or the mean over data sets (of complete cells only)."""
        if scope in self.scopes:
            if not self.scopes[scope] or self.missing(method, scope):
                return None
            parts = [self.kl(method, data_set) for data_set in self.scopes[scope]]
            return Replicated.mean_of([part for part in parts if part is not None])
        cell = self.cells.get((method, scope))
        if cell is None or cell.scores is None:
            return None
        key = (method, scope)
        if key not in self._kl:
            self._kl[key] = mean_kl(cell.scores, self.resampling)
        return self._kl[key]

    def difference(self, a: str, b: str, scope: str) -> Replicated | None:
        """``KL_a - KL_b``, paired, on a data set or as a mean over data sets; None where one of them is missing.

        Raises:
            InputError: the two were judged on other events or windows.
        """
        for data_set in self.data_sets_of(scope):
            of_a, of_b = self._scores(a, data_set), self._scores(b, data_set)
            if of_a is None or of_b is None:
                return None
            check_same_events(of_a, of_b)
        kl_a, kl_b = self.kl(a, scope), self.kl(b, scope)
        return None if kl_a is None or kl_b is None else kl_a - kl_b

    def gain(self, a: str, b: str, scope: str) -> Replicated | None:
        """``G(a over b)``: mean over the data sets of ``KL_b - KL_a``, in nats; above 0 where `a` is better."""
        return self.difference(b, a, scope)

    def kl_rows(self, methods: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One row per method, data set and training seed, then the mean over seeds, then the means over data sets.

        Args:
            methods: only these; all by default.
        """
        rows = []
        for method in self.methods if methods is None else methods:
            for data_set in self.data_sets:
                cell = self.cells.get((method, data_set))
                if cell is None:
                    continue
                if cell.scores is not None and len(cell.scores.seeds) > 1:
                    rows += [self._kl_row(cell.scores, seed) for seed in cell.scores.seeds]
                rows.append(self._kl_row(cell.scores) if cell.scores is not None else self._row(method, data_set))
                rows[-1]["status"] = _status(cell.missing)
            for scope, data_sets in self.scopes.items():
                # With one data set, or without surveys, a mean would repeat a row.
                if len(data_sets) > 1 and (scope == ALL or len(data_sets) < len(self.data_sets)):
                    kl = self.kl(method, scope)
                    row = self._row(method, scope, status=_status(self.missing(method, scope)))
                    rows.append(row | ({} if kl is None else _bounds("kl", kl)))
        return rows

    def paired_rows(self, pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """One row per pair and data set, then those of the means over data sets."""
        rows = []
        scopes = [scope for scope, members in self.scopes.items() if len(members) > 1]
        for a, b in pairs:
            for scope in [*self.data_sets, *dict.fromkeys(scopes)]:
                rows.append(self._paired_row(a, b, scope))
        return rows

    def _paired_row(self, a: str, b: str, scope: str) -> dict[str, Any]:
        lacking = {method: self.missing(method, scope) for method in (a, b)}
        row = dict.fromkeys(PAIRED_COLUMNS) | {
            "a": a,
            "b": b,
            "dataset": scope,
            "status": _status("; ".join(f"{method}: {text}" for method, text in lacking.items() if text)),
            "protocol": PROTOCOL_VERSION,
            "bootstrap_seed": self.resampling.seed,
        }
        difference, kl_a, kl_b = self.difference(a, b, scope), self.kl(a, scope), self.kl(b, scope)
        if difference is None or kl_a is None or kl_b is None:
            return row
        interval = difference.interval()
        first = self.data_sets_of(scope)[0]
        return row | {
            "n_events": sum(self._n_events(a, data_set) for data_set in self.data_sets_of(scope)),
            "n_seeds_a": len(self._seeds(a, first)),
            "n_seeds_b": len(self._seeds(b, first)),
            "kl_a": kl_a.value,
            "kl_b": kl_b.value,
            "difference": interval.value,
            "low": interval.low,
            "high": interval.high,
        }

    def n_seeds(self, method: str) -> int:
        """Training seeds of a method on the data set where it has fewest; 0 where it has no scores at all."""
        return min((len(seeds) for one in self.data_sets if (seeds := self._seeds(method, one))), default=0)

    def _seeds(self, method: str, data_set: str) -> tuple[int, ...]:
        scores = self._scores(method, data_set)
        return () if scores is None else tuple(scores.seeds)

    def _n_events(self, method: str, data_set: str) -> int:
        scores = self._scores(method, data_set)
        return 0 if scores is None else len(scores.events)

    def _scores(self, method: str, data_set: str) -> MethodScores | None:
        cell = self.cells.get((method, data_set))
        return None if cell is None else cell.scores

    def _kl_row(self, scores: MethodScores, seed: int | None = None) -> dict[str, Any]:
        """The row of one training seed, or (seed None) of the mean over seeds."""
        training = self.training[scores.data_set]
        chosen = scores if seed is None else MethodScores(scores.method, scores.data_set, {seed: scores.seeds[seed]})
        # The reference is judged in the windows of the method, so that a gain compares the same people.
        reference = [judge_forecast(plan, training.reference, training) for plan in scores.plans]
        reference_kl = mean_kl(MethodScores("reference", scores.data_set, {0: reference}), self.resampling)
        kl = self.kl(scores.method, scores.data_set) if seed is None else mean_kl(chosen, self.resampling)
        assert kl is not None  # its scores are here
        best = [plan.best_constant() for plan in scores.plans]
        judged = [one for events in chosen.seeds.values() for one in events]
        return (
            self._row(scores.method, scores.data_set, seed)
            | {
                "n_events": len(scores.events),
                "n_seeds": len(chosen.seeds),
                "reference": full_name(training.reference, training),
                "reference_kl": reference_kl.value,
                "best_constant": None if None in best else float(np.mean([one for one in best if one is not None])),
                "entropy_ratio": _ratio([one.entropies for one in judged]),
                "n_failed": sum(one.n_failed for one in judged),
            }
            | _bounds("kl", kl)
            | _bounds("gain", reference_kl - kl)
        )

    def _row(self, method: str, scope: str, seed: int | None = None, *, status: str = COMPLETE) -> dict[str, Any]:
        known = {
            "method": method,
            "dataset": scope,
            "training_seed": "mean" if seed is None else seed,
            "status": status,
            "protocol": PROTOCOL_VERSION,
            "bootstrap_seed": self.resampling.seed,
        }
        return dict.fromkeys(KL_COLUMNS) | known


def _ratio(entropies: Sequence[tuple[float, float] | None]) -> float | None:
    """Mean H(Q) over mean H(P): a mean of ratios would be ruled by events in which nearly everybody agrees."""
    if any(pair is None for pair in entropies):
        return None
    real, simulated = np.asarray(entropies).mean(axis=0)
    return float(simulated / real) if real > 0 else None


def _bounds(name: str, score: Replicated) -> dict[str, float | None]:
    interval = score.interval()
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _status(missing: str) -> str:
    return f"missing: {missing}" if missing else COMPLETE


def lowest(table: MethodTable, candidates: Sequence[str], scope: str) -> str | None:
    """The candidate with the lowest KL; None as long as one of them is missing (the best could be that one)."""
    if not candidates or any(table.missing(name, scope) for name in candidates):
        return None
    kls = {name: kl for name in candidates if (kl := table.kl(name, scope)) is not None}
    return min(kls, key=lambda name: kls[name].value)
