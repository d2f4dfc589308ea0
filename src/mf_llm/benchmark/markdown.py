"""Markdown tables of a benchmark, out of its result files (for the README, reports and model cards)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mf_llm.evaluation.method_table import ALL, COMPLETE, EVENTS

_MEANS = {ALL: "mean", EVENTS: "mean without surveys"}


def methods_table(results: Path, chosen: Callable[[str], bool] = lambda name: True) -> str:
    """KL of every method on every data set, and the means with intervals; "-" where runs are missing.

    Args:
        results: folder of a comparison.
        chosen: whether a method is shown.
    """
    rows = [row for row in _read(results / "methods.csv") if row["training_seed"] == "mean" and chosen(row["method"])]
    scopes = list(dict.fromkeys(row["dataset"] for row in rows))
    scopes = [*(name for name in scopes if name not in _MEANS), *(name for name in _MEANS if name in scopes)]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = {(row["method"], row["dataset"]): row for row in rows}
    n_seeds = {row["method"]: row["n_seeds"] for row in rows if row["n_seeds"]}
    head = ["method", "seeds", *(_heading(scope) for scope in scopes)]
    body = []
    for method in methods:
        cells = [_score(found.get((method, scope)), "kl", bounds=scope in _MEANS) for scope in scopes]
        body.append([f"`{method}`", n_seeds.get(method, "-"), *cells])
    return markdown(head, body)


def pairs_table(results: Path, chosen: Callable[[str, str], bool] = lambda a, b: True) -> str:
    """Paired differences of KL (below 0: the first method is nearer to people), with intervals.

    Args:
        results: folder of a comparison.
        chosen: whether the difference of two methods is shown.
    """
    head, *body = _pairs(results, chosen)
    return markdown(head, body)


def pairs_by_data_set(results: Path, chosen: Callable[[str, str], bool] = lambda a, b: True) -> str:
    """`pairs_table` on its side, for many data sets: one in a row, a pair of methods in a column."""
    head, *body = zip(*_pairs(results, chosen), strict=True)
    return markdown(head, body)


def _pairs(results: Path, chosen: Callable[[str, str], bool]) -> list[list[str]]:
    """The cells of `pairs_table`, its head first."""
    rows = [row for row in _read(results / "pairs.csv") if chosen(row["a"], row["b"])]
    scopes = list(dict.fromkeys(row["dataset"] for row in rows))
    pairs = list(dict.fromkeys((row["a"], row["b"]) for row in rows))
    found = {(row["a"], row["b"], row["dataset"]): row for row in rows}
    body = [
        [f"`{a}` - `{b}`", *(_score(found.get((a, b, scope)), "difference", bounds=True) for scope in scopes)]
        for a, b in pairs
    ]
    return [["difference of KL", *(_heading(scope) for scope in scopes)], *body]


def bars_table(results: Path, *, all_bars: bool = True) -> str:
    """The bars: what was wanted, what was found, whether it holds."""
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    bars = [bar for kind in summary["bars"].values() for bar in kind if all_bars or bar["stated"]]
    body = [
        [bar["name"] + ("" if bar["stated"] else " (stricter than asked)"), bar["wanted"], _value(bar), _outcome(bar)]
        for bar in bars
    ]
    return markdown(["bar", "wanted", "found [95 %]", "outcome"], body)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is left-aligned, the others right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _heading(scope: str) -> str:
    """A data set without its dimension, which a README has no room for."""
    return _MEANS.get(scope, scope.rpartition("/")[0] or scope)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _score(row: dict[str, str] | None, name: str, *, bounds: bool) -> str:
    """A score with its interval; a star where not all training seeds are in, a dash where there is nothing."""
    if row is None or not row[name]:
        return "-"
    # Gains over a good anchor are thousandths.
    digits, prefix = (4, "") if name == "difference" else (3, f"{name}_")
    text = f"{float(row[name]):.{digits}f}" + ("" if row["status"] == COMPLETE else "*")
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return f"{text} [{float(low):.{digits}f}, {float(high):.{digits}f}]" if bounds and low and high else text


def _value(bar: dict[str, Any]) -> str:
    value = bar["value"]
    if value is None:
        return "-"
    if value["low"] is None:
        return f"{value['value']:.4f}"
    return f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


def _outcome(bar: dict[str, Any]) -> str:
    if bar["holds"] is None:
        return "open"
    return "holds" if bar["holds"] else f"missed by {bar['missed_by']:.4f}"
