"""`EvaluationReport`: the scores of a set of rollouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_csv, write_json

COLUMNS = (
    "dataset",
    "event",
    "subgroup",
    "dimension",
    "readout",
    "n_rollouts",
    "n_windows",
    "n_people",
    "n_failed",
    "n_windows_left_out",
    "kl",
    "kl_low",
    "kl_high",
    "js",
    "w1",
    "dtw",
    "entropy_ratio",
    "h_real",
    "h_simulated",
    "f1_micro",
    "f1_macro",
    "nll",
    "best_constant",
    "sampling_alone",
    "reference",
    "reference_kl",
    "gain",
    "gain_low",
    "gain_high",
    "warm_up",
    "window",
    "protocol",
    "seed",
)


@dataclass
class EvaluationReport:
    """What `evaluate_rollouts` found.

    Attributes:
        rows: one dict per event (and, for surveys, per subgroup), with the keys `COLUMNS`. Divergences, entropies and
            gains are in nats. `kl_low` and `kl_high` are the 95 % bootstrap over windows (surveys: over respondents).
        summary: per data set every score with its interval over events (surveys: over respondents), the entropy ratio
            as the mean H(Q) over the mean H(P), G and pooled skill, what was skipped, versions, data hash, protocol
            version, seed.
        warnings: what a reader must know before quoting a number.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def save(self, folder: str | Path) -> Path:
        """Writes ``evaluation.csv`` and ``evaluation.json``, each whole or not at all."""
        folder = Path(folder)
        write_csv(folder / "evaluation.csv", COLUMNS, self.rows)
        write_json(folder / "evaluation.json", self.summary)
        return folder

    def table(self, width: int = 120) -> str:
        """The scores as text for a terminal `width` columns wide."""
        from mf_llm.evaluation.tables import report_table

        return report_table(self.summary, self.rows, width)
