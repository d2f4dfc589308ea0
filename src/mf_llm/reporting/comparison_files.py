"""`ComparisonFiles`: what ``mf-llm compare`` left behind, read and ready to be shown."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from mf_llm.errors import UNREADABLE, InputError
from mf_llm.evaluation.method_table import ALL, EVENTS
from mf_llm.events.validation import one_line
from mf_llm.json_records import digest

FORECASTER, UNTUNED, TUNED, REPLAY = "forecaster", "untuned", "tuned", "replays"
OPTIONAL = ("annotators.json", "robustness.csv", "horizon.csv")

Row = dict[str, str]


@dataclass(frozen=True, eq=False)
class ComparisonFiles:
    """The result files of a comparison.

    Attributes:
        folder: where they are.
        summary: of ``summary.json``.
        results: rows of ``results.csv``.
        methods: rows of ``methods.csv``; none where no pairs were compared.
        pairs: rows of ``pairs.csv``; none where no pairs were compared.
        optional: what other commands may have put there: name of the file -> its content.
    """

    folder: Path
    summary: Mapping[str, Any]
    results: Sequence[Row]
    methods: Sequence[Row] = ()
    pairs: Sequence[Row] = ()
    optional: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> ComparisonFiles:
        """Reads the files of a folder.

        Raises:
            InputError: it holds no comparison, or one that cannot be read.
        """
        folder = Path(folder)
        for name in ("summary.json", "results.csv"):
            if not (folder / name).is_file():
                raise InputError(
                    f"`DIR` must be the output folder of `mf-llm compare`, got {folder} without {name}; there is "
                    f"nothing to report; run `mf-llm compare EVENTS --output {folder}` first."
                )
        summary = read_file(folder / "summary.json")
        sums = summary.pop("sha256", None) if isinstance(summary, dict) else None  # older ones have none
        keys = summary if isinstance(summary, dict) else {}
        lacking = [key for key in ("methods", "data_sets", "surveys", "overall") if key not in keys]
        if lacking:
            raise InputError(
                f"{folder / 'summary.json'} must be written by `mf-llm compare`, got a file without "
                f"{', '.join(lacking)}; it cannot be reported; compare again into another folder."
            )
        tables = {
            name: read_file(folder / f"{name}.csv", _rows) if (folder / f"{name}.csv").is_file() else []
            for name in ("results", "methods", "pairs")
            if not isinstance(sums, dict) or f"{name}.csv" in sums
        }
        if sums is not None:
            _check_sums(folder, summary, sums)
        optional = {
            name: read_file(folder / name, json.loads if name.endswith(".json") else _rows)
            for name in OPTIONAL
            if (folder / name).is_file()
        }
        return cls(folder, summary, **tables, optional=optional)

    @property
    def names(self) -> list[str]:
        """The methods, in the order they were compared in; replays, which read people's real texts, are none."""
        return [name for name in self.summary["methods"] if self.kind(name) != REPLAY]

    @property
    def on_validation(self) -> bool:
        """Whether it was judged on validation events (``compare --validation``)."""
        return list(self.summary.get("splits", ())) == ["validation"]

    @property
    def event_words(self) -> str:
        """What an event that was judged is called."""
        return "validation event" if self.on_validation else "test event"

    @cached_property
    def replays(self) -> list[str]:
        """The annotators whose readings of people's real texts were judged: what annotation alone costs."""
        return [name for name in self.summary["methods"] if self.kind(name) == REPLAY]

    @cached_property
    def records(self) -> dict[str, Mapping[str, Any]]:
        """Label (data set and dimension) -> its part of the summary; surveys come last."""
        records = [*self.summary["data_sets"], *self.summary["surveys"]]
        return {f"{record['data_set']}/{record['dimension']}": record for record in records}

    @property
    def surveys(self) -> list[str]:
        """Labels of the surveys."""
        return [f"{record['data_set']}/{record['dimension']}" for record in self.summary["surveys"]]

    @property
    def streams(self) -> list[str]:
        """Labels of the data sets that are no surveys."""
        return [label for label in self.records if label not in self.surveys]

    def short(self, label: str) -> str:
        """The data set without its dimension, where that is enough; "mean" as it stands."""
        if label not in self.records:
            return {ALL: "mean", EVENTS: "mean without surveys"}.get(label, label)
        name = self.records[label]["data_set"]
        return name if sum(record["data_set"] == name for record in self.records.values()) == 1 else label

    def made(self, method: str) -> Mapping[str, Any]:
        """How a method was made; a comparison made in Python does not say it."""
        return self.summary.get("made", {}).get(method, {})

    def kind(self, method: str) -> str:
        """ "forecaster", "untuned" or "tuned"."""
        return self.made(method).get("kind", FORECASTER)

    def backbones(self, method: str) -> list[str]:
        """The backbones its rollouts were made with, as their versions say."""
        made = [record.get("policy_base") for record in self.made(method).get("made_with", [])]
        return sorted({str(base) for base in made if base})

    def score(self, method: str, label: str, name: str = "kl") -> Mapping[str, Any] | None:
        """KL or gain of a method on a data set, with its interval; None where it is missing."""
        return self.records[label]["methods"].get(method, {}).get(name)

    def missing(self, method: str, label: str) -> str:
        """What a method lacks on a data set, in words; empty where it is complete."""
        entry = self.records[label]["methods"].get(method)
        return "not asked for" if entry is None else entry.get("missing", "")

    def gain(self, method: str) -> Mapping[str, Any] | None:
        """G, the mean gain over the data sets without surveys; None where one of them is missing."""
        return self.summary["overall"].get(method, {}).get("G")

    def mean(self, method: str, scope: str = ALL) -> Mapping[str, Any] | None:
        """Mean KL over the data sets, with the interval of ``methods.csv`` where there is one.

        Args:
            method: the method.
            scope: `ALL`, or `EVENTS` (without surveys).
        """
        labels = list(self.records) if scope == ALL else self.streams
        if not labels or any(self.missing(method, label) for label in labels):
            return None
        for row in self.methods:
            if (row["method"], row["dataset"], row["training_seed"]) == (method, scope, "mean"):
                # A method whose training seeds differ between data sets has no mean.
                return _bounds(row, "kl") if row["kl"] else None
        scores = [score for label in labels if (score := self.score(method, label)) is not None]
        if len(scores) == 1:
            return scores[0]
        return {"value": sum(score["value"] for score in scores) / len(scores), "low": None, "high": None}

    def method_row(self, method: str, label: str) -> Row:
        """The row of ``methods.csv`` over all training seeds; empty where there is none."""
        wanted = (method, label, "mean")
        found = (row for row in self.methods if (row["method"], row["dataset"], row["training_seed"]) == wanted)
        return next(found, {})

    def judged_events(self, method: str, label: str) -> dict[str, Row]:
        """Event id -> row of ``results.csv``."""
        record = self.records[label]
        wanted = (record["data_set"], record["dimension"], method)
        return {
            row["event"]: row for row in self.results if (row["dataset"], row["dimension"], row["method"]) == wanted
        }

    def ranked(self, kind: str | None = None, labels: Sequence[str] = ()) -> list[str]:
        """The methods of a kind: those judged on the most data sets first, among them by their mean gain.

        Args:
            kind: "forecaster", "untuned" or "tuned"; all by default.
            labels: the data sets; all by default. Methods that were judged on none of them are left out.
        """
        gains = {
            method: [
                score["value"] for label in labels or self.records if (score := self.score(method, label, "gain"))
            ]
            for method in self.names
            if kind in (None, self.kind(method))
        }
        known = [method for method, values in gains.items() if values]
        return sorted(known, key=lambda method: (-len(gains[method]), -sum(gains[method])))

    def best(self, kind: str | None = None, labels: Sequence[str] = ()) -> str | None:
        """The first of `ranked`, if any."""
        return next(iter(self.ranked(kind, labels)), None)


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Says which folder holds files that were read, but not as they were written.

    Their parts are many, and each is looked up where it is shown; a part that is missing or of another kind is found
    only there.

    Raises:
        InputError: something was looked up in vain.
    """
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        if isinstance(error, OSError):
            raise
        raise InputError(
            f"{folder} must hold the files of a comparison as `mf-llm compare` wrote them, but the report found "
            f"{type(error).__name__} ({one_line(error)}) in them; nothing was written; compare again into another "
            "folder."
        ) from error


def _bounds(row: Row, name: str) -> dict[str, float | None]:
    keys = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {key: float(row[column]) if row[column] else None for key, column in keys.items()}


def _check_sums(folder: Path, summary: Mapping[str, Any], sums: Any) -> None:
    """Refuses files that were changed since they were written, or are of another comparison."""
    for name in ("summary.json", *(sums if isinstance(sums, dict) else ())):
        content = summary if name == "summary.json" else None
        if content is None and (folder / name).is_file():
            content = (folder / name).read_bytes()
        if not isinstance(sums, dict) or content is None or sums.get(name) != digest(content):
            raise InputError(
                f"{folder / name} must be as `mf-llm compare` wrote it, but it was changed since, or is of another "
                "comparison; the report would be wrong; compare again."
            )


def _rows(text: str) -> list[Row]:
    return list(csv.DictReader(StringIO(text, newline="")))


def read_file(path: Path, parse: Callable[[str], Any] = json.loads) -> Any:
    """What is in a file of a comparison, JSON by default.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (*UNREADABLE, csv.Error) as error:
        raise InputError(
            f"{path} must be a file that `mf-llm compare` or another command wrote, but it cannot be read ({error}); "
            "the report would be wrong; make it again, or take it away."
        ) from error
