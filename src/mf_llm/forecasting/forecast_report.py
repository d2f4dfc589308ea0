"""`ForecastReport`: how good forecasts were, as files and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.forecasting.event_scores import EventScores
from mf_llm.forecasting.forecast import LEVELS

_BANDS = tuple(f"{100 * level:g}" for level in LEVELS)
EVENT_COLUMNS = (
    "data_set",
    "event",
    "method",
    "readout",
    "n_rollouts",
    "n_windows",
    "n_failed",
    "crps",
    "energy",
    *(f"covered_{band}" for band in _BANDS),
    *(f"width_{band}" for band in _BANDS),
)
WINDOW_COLUMNS = ("data_set", "event", "method", "window", "category", "n_people", "count", "mean", "crps", "pit")


@dataclass
class ForecastReport:
    """What `judge_forecasts` found.

    Attributes:
        rows: one dict per event and method, with the keys `EVENT_COLUMNS`; scores are means over windows and
            categories, in the unit of shares.
        windows: one dict per window, category and method, with the keys `WINDOW_COLUMNS`: what every figure is drawn
            from.
        summary: per data set every score with its interval, PIT histograms, differences between methods; the same over
            all data sets; versions, data hash, protocol version, seed.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    windows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Writes ``forecast_scores.csv``, ``forecast_windows.csv`` and ``forecast.json``, each whole or not at all."""
        folder = Path(folder)
        write_csv(folder / "forecast_scores.csv", EVENT_COLUMNS, self.rows)
        write_csv(folder / "forecast_windows.csv", WINDOW_COLUMNS, self.windows)
        write_json(folder / "forecast.json", self.summary)
        return folder

    def table(self, width: int = 120) -> str:
        """Scores of each data set and the differences, as text for a terminal `width` columns wide."""
        from mf_llm.evaluation.tables import render, score

        rows = [
            (f"{name}: {method}", score(record["crps"], bounds=True), *_calibration(record))
            for name, entry in self.summary["data_sets"].items()
            for method, record in entry["methods"].items()
        ]
        overall = self.summary["overall"] if len(self.summary["data_sets"]) > 1 else {}
        pooled = overall.get("methods", {})
        rows += [(f"all: {method}", "", *_calibration(record)) for method, record in pooled.items()]
        caption = (
            "CRPS of shares, mean over events. Bands: share of counts within; width of the 80 % band. "
            "PIT: p of the test of uniformity that resamples events."
        )
        columns = ["forecast", "CRPS", *(f"in {band} %" for band in _BANDS), "width", "PIT p"]
        parts = [render(f"Forecasts, protocol {self.summary['protocol']}", columns, rows, width, caption)]
        differences = [
            (f"{name}: {entry['a']} - {entry['b']}", score(entry["crps"], bounds=True))
            for name, record in [*self.summary["data_sets"].items(), *([("all", overall)] if overall else [])]
            for entry in record["differences"]
        ]
        if differences:
            caption = "Below 0 where the first is better; 95 % paired bootstrap over events."
            parts.append(render("Differences of CRPS", ["difference", "CRPS"], differences, width, caption))
        return "\n".join(part.rstrip() + "\n" for part in parts)


def event_row(data_set: str, method: str, score: EventScores) -> dict[str, Any]:
    """One row of `ForecastReport.rows`."""
    return {
        "data_set": data_set,
        "event": score.plan.event.event_id,
        "method": method,
        "readout": score.forecast.readout,
        "n_rollouts": len(score.forecast.shares),
        "n_windows": score.plan.n_windows,
        "n_failed": score.forecast.n_failed,
        "crps": score.crps.mean(),
        "energy": None if score.energy is None else score.energy.mean(),
        **{f"covered_{100 * level:g}": values.mean() for level, values in score.covered.items()},
        **{f"width_{100 * level:g}": values.mean() for level, values in score.width.items()},
    }


def window_rows(data_set: str, method: str, score: EventScores) -> list[dict[str, Any]]:
    """Rows of `ForecastReport.windows`."""
    mean = score.forecast.mean()
    return [
        {
            "data_set": data_set,
            "event": score.plan.event.event_id,
            "method": method,
            "window": name,
            "category": category,
            "n_people": score.forecast.n_people[t],
            "count": score.counts[t, k],
            "mean": mean[t, k],
            "crps": score.crps[t, k],
            "pit": score.pit[t, k],
        }
        for t, name in enumerate(score.plan.names)
        for k, category in enumerate(score.plan.categories)
    ]


def _calibration(record: Mapping[str, Any]) -> list[str]:
    covered = [f"{entry['value']:.3f}" for entry in record["covered"].values()]
    p_value = record["pit"]["p_value"]
    return [*covered, f"{record['width']['0.8']['value']:.3f}", "-" if p_value is None else f"{p_value:.3f}"]
