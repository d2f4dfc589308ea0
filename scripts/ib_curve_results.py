"""Results of the IB curve: means with intervals, tables and figures, from the evaluated transitions of each point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ib_curve_plot import plot_ib_curve, plot_learning_curve
from numpy.typing import NDArray

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.evaluation.intervals import LEVEL, generator, interval
from mf_llm.evaluation.tables import render

# Points that need no training, in the order of what people see.
ADDED = ("none", "prior", "untuned")
MEASURES = ("rate", "relevance", "tokens", *(f"over_{name}" for name in ADDED))
POINT_COLUMNS = (
    "point",
    "beta",
    "transitions",
    "events",
    "signals",
    *(column for name in MEASURES for column in (name, f"{name}_low", f"{name}_high")),
)
TRANSITION_COLUMNS = ("point", "beta", "data_set", "event_id", "draw", "warm_up", "rate", "relevance", "tokens")
LOG_COLUMNS = (
    *("point", "beta", "step", "rate", "relevance", "reward", "reward_std", "signal_tokens"),
    *("loss", "grad_norm", "learning_rate"),
)
PROTOCOL = {
    "rate": "log q(m|X) - log r(m|topic) summed over the tokens of a signal, end token included; nats per signal; "
    "mean over K signals, then over transitions",
    "relevance": "log-likelihood of the labels of the people who act next, under the untuned policy and the signal; "
    "mean over people; nats per person; mean over K signals, then over transitions",
    "tokens": "tokens of a signal, end token included",
    "over_none": "relevance, less that of the same transitions where people see no signal",
    "over_prior": "relevance, less that of signals that are written from the topic alone (rate 0)",
    "over_untuned": "relevance, less that of signals of the mean-field model without training",
    "intervals": "bootstrap over the events of the validation transitions, the same resampled events for every point; "
    "training has one seed",
    "training": "one pass over the same transitions in the same order with the same noise for every beta; rate, "
    "relevance and reward in learning_curve.csv are means over the transitions of one step, before its update",
}

Floats = NDArray[np.float64]


def save_results(
    points: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Any],
    folder: Path,
    *,
    seed: int,
    n_bootstrap: int,
) -> str:
    """Writes ``ib_curve``, ``learning_curve`` (CSV and PNG each), ``transitions.csv`` and ``ib_curve.json``.

    Args:
        points: point -> its `beta` and its evaluated `transitions`, the same ones for every point.
        curves: point -> its `beta` and the `log` of its training.
        about: settings and versions.
        folder: where to.
        seed, n_bootstrap: of the bootstrap.

    Returns:
        The table of the points.
    """
    rows = point_rows(points, seed=seed, n_bootstrap=n_bootstrap)
    logs = [
        dict.fromkeys(LOG_COLUMNS) | entry | {"point": name, "beta": curve["beta"]}
        for name, curve in curves.items()
        for entry in curve["log"]
    ]
    singles = [
        row | {"point": name, "beta": point["beta"]} | {key: float(np.mean(row[key])) for key in MEASURES[:3]}
        for name, point in points.items()
        for row in point["transitions"]
    ]
    write_csv(folder / "ib_curve.csv", POINT_COLUMNS, rows)
    write_csv(folder / "learning_curve.csv", LOG_COLUMNS, logs)
    write_csv(folder / "transitions.csv", TRANSITION_COLUMNS, singles)
    bootstrap = {"n_bootstrap": n_bootstrap, "level": LEVEL, "seed": seed}
    write_json(folder / "ib_curve.json", {**about, "protocol": PROTOCOL, "bootstrap": bootstrap, "points": rows})
    plot_ib_curve(rows, folder / "ib_curve.png")
    if logs:
        plot_learning_curve(logs, folder / "learning_curve.png")
    return _table(rows)


def point_rows(
    points: Mapping[str, Mapping[str, Any]], *, seed: int, n_bootstrap: int
) -> list[dict[str, float | str | None]]:
    """One row per point: every measure with its interval, None where the point to compare with is missing."""
    first = next(iter(points.values()))["transitions"]
    events = sorted({(row["data_set"], row["event_id"]) for row in first})
    owner = np.array([events.index((row["data_set"], row["event_id"])) for row in first])
    draws = generator(seed, "ib_curve").integers(len(events), size=(n_bootstrap, len(events)))
    relevance = {name: _means(point, "relevance") for name, point in points.items()}
    rows = []
    for name, point in points.items():
        values = {key: _means(point, key) for key in MEASURES[:3]}
        values |= {f"over_{other}": relevance[name] - relevance[other] for other in ADDED if other in relevance}
        row: dict[str, Any] = {
            "point": name,
            "beta": point["beta"],
            "transitions": len(first),
            "events": len(events),
            "signals": len(point["transitions"][0]["rate"]),
        }
        for measure in MEASURES:
            one = values.get(measure)
            found = None if one is None else interval(one.mean(), _replicates(one, owner, draws))
            row[measure] = found.value if found else None
            row[f"{measure}_low"], row[f"{measure}_high"] = (found.low, found.high) if found else (None, None)
        rows.append(row)
    return rows


def _means(point: Mapping[str, Any], key: str) -> Floats:
    """``[n]`` means over the signals of each transition."""
    return np.array([np.mean(row[key]) for row in point["transitions"]])


def _replicates(values: Floats, owner: NDArray[np.int64], draws: NDArray[np.int64]) -> Floats:
    """Means ``[B]`` over the transitions of resampled events.

    Args:
        values: ``[n]``, one per transition.
        owner: ``[n]``, its event.
        draws: ``[B, E]`` resampled events.
    """
    sums, counts = np.bincount(owner, weights=values), np.bincount(owner)
    return sums[draws].sum(axis=1) / counts[draws].sum(axis=1)


def _table(rows: list[dict[str, Any]]) -> str:
    def cell(row: Mapping[str, Any], name: str) -> str:
        if row[name] is None:
            return "-"
        bounds = "" if row[f"{name}_low"] is None else f" [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
        return f"{row[name]:.3f}{bounds}"

    measures = ("rate", "relevance", "over_prior", "over_none")
    body = [(row["point"], *(cell(row, name) for name in measures), f"{row['tokens']:.1f}") for row in rows]
    caption = "rate: nats per signal; the others: nats per person. 95 % bootstrap over events, one training seed."
    return render("IB curve", ["point", *measures, "tokens"], body, 120, caption)
