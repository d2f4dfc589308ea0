"""Markdown tables of a benchmark, out of its result files (for the README, reports and model cards)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
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
        [
            bar["name"] + ("" if bar["stated"] else " (stricter than asked)"),
            bar["wanted"],
            bounded(bar["value"], 4),
            _outcome(bar),
        ]
        for bar in bars
    ]
    return markdown(["bar", "wanted", "found [95 %]", "outcome"], body)


def horizon_table(results: Path) -> str:
    """What becomes of each method's forecasts far from the warm-up: KL, and drift beside that of people.

    A column is a stretch of the horizon, named by its first action; cells are means over events and training seeds.

    Args:
        results: folder of a comparison over a long horizon.
    """
    rows = _read(results / "horizon.csv")
    starts = sorted({int(row["first_action"]) for row in rows})
    body = []
    for label in dict.fromkeys(row["dataset"] for row in rows):
        chosen = [row for row in rows if row["dataset"] == label]
        of_method = {
            name: [row for row in chosen if row["method"] == name]
            for name in dict.fromkeys(row["method"] for row in chosen)
        }
        for name, stretches in of_method.items():
            cells = [_stretch(stretches, start, "{kl:.3f} ({drift:.3f})") for start in starts]
            body.append([_heading(label), f"`{name}`", *cells, _whole_dtw(stretches), _prompts(stretches)])
        # Of people every method's rows tell the same.
        people = [_stretch(next(iter(of_method.values())), start, "({real_drift:.3f})") for start in starts]
        body.append([_heading(label), "people", *people, "-", "-"])
    head = ["data set", "method", *(f"from {start:,}" for start in starts), "DTW", "prompt tokens of a step"]
    return markdown(head, body)


def annotators_table(results: Path) -> str:
    """How well annotators read what people wrote, and the KL that their reading alone costs.

    Args:
        results: folder of a comparison of `carry` and methods ``replay-*``.
    """
    record = json.loads((results / "annotators.json").read_text(encoding="utf-8"))
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    kl = {
        one["data_set"]: {name: found.get("kl") for name, found in one["methods"].items()}
        for one in summary["data_sets"]
    }
    body = []
    for row in record["rows"]:
        scores = [bounded(row[name]) for name in ("macro_f1", "accuracy", "ece")]
        found = kl[row["data_set"]]
        costs = [bounded(found.get(name)) for name in (f"replay-{row['annotator']}", "carry")]
        body.append([row["annotator"], row["data_set"], f"{row['n_texts']:,}", str(row["n_failed"]), *scores, *costs])
    head = ["annotator", "data set", "texts", "failed", "macro-F1", "accuracy", "ECE", "KL of real texts", "`carry`"]
    return markdown(head, body)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is left-aligned, the others right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def bounded(found: Mapping[str, float | None] | None, digits: int = 3) -> str:
    """A value with its interval, where it has one; "-" where nothing was found.

    Args:
        found: an `Interval` as a JSON object.
        digits: behind the point.
    """
    if found is None:
        return "-"
    low, high = found["low"], found["high"]
    text = f"{found['value']:.{digits}f}"
    return text if low is None or high is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


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


def _outcome(bar: dict[str, Any]) -> str:
    if bar["holds"] is None:
        return "open"
    return "holds" if bar["holds"] else f"missed by {bar['missed_by']:.4f}"


def _stretch(rows: Sequence[dict[str, str]], start: int, text: str) -> str:
    """Means of one stretch, in the words of `text`."""
    chosen = [row for row in rows if int(row["first_action"]) == start]
    if not chosen:
        return "-"
    return text.format(**{name: mean(float(row[name]) for row in chosen) for name in ("kl", "drift", "real_drift")})


def _whole_dtw(rows: Sequence[dict[str, str]]) -> str:
    """DTW of whole trajectories, which the last stretch of each tells; mean over events and training seeds."""
    whole = {(row["event"], row["training_seed"]): float(row["dtw"]) for row in rows}
    return f"{mean(whole.values()):.3f}"


def _prompts(rows: Sequence[dict[str, str]]) -> str:
    """Mean prompt tokens of a step in the first stretch and in the last."""
    told = [row for row in rows if row["prompt_tokens"]]
    starts = [int(row["first_action"]) for row in told]
    if not told:
        return "-"
    first, last = (
        mean(float(row["prompt_tokens"]) for row in told if int(row["first_action"]) == start)
        for start in (min(starts), max(starts))
    )
    return f"{first:,.0f} to {last:,.0f}"
