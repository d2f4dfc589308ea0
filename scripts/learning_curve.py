"""The learning curve of a training run: table, figure and model card, to be kept beside the results.

    python scripts/learning_curve.py RUN OUTPUT

RUN is the output folder of ``examples/train_ib_tune.py``. OUTPUT gets ``learning_curve.csv`` (everything that was
logged, but for what the clock says), ``learning_curve.png`` and ``model_card.md`` (data with hash, hyper-parameters,
versions).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_csv, write_text
from mf_llm.errors import InputError
from mf_llm.evaluation.plotting import COLOURS, GREY, STYLE
from mf_llm.models.checkpoints import CARD_FILE
from mf_llm.training.model_card import without_private_parts
from mf_llm.training.script_arguments import TRAINING_LOG_FILE

CLOCK = ("runtime", "per_second", "train_loss", "total_flos")
# Panel -> what it shows, in the order of the figure; validation values are points on the line of training.
PANELS = {
    "rate (nats per signal)": ("rate",),
    "nats per person": ("relevance", "policy_nll"),
    "KL of the population (nats)": ("population_kl",),
    "gain in rollouts (nats)": ("gain",),
}
NAMES = {"relevance": "relevance (mean field)", "policy_nll": "negative log-likelihood (policy)"}

Row = Mapping[str, float | None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="output folder of a training run")
    parser.add_argument("output", type=Path, help="folder of the results")
    args = parser.parse_args(arguments)
    try:
        rows = read_log(args.run / TRAINING_LOG_FILE)
        card = (args.run / CARD_FILE).read_text(encoding="utf-8")
    except (InputError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    write_csv(args.output / "learning_curve.csv", columns, [{name: row[name] for name in columns} for row in rows])
    write_text(args.output / "model_card.md", without_private_parts(card))
    plot(rows, args.output / "learning_curve.png")
    print(f"Written: {args.output}")
    return 0


def read_log(path: Path) -> list[dict[str, float | None]]:
    """One row per step, without what the clock says.

    Raises:
        InputError: there is none.
    """
    if not path.is_file():
        raise InputError(f"`RUN` must hold {path.name}, which a training run leaves when it ends, got {path.parent}.")
    with path.open(newline="", encoding="utf-8") as file:
        found = [
            {name: float(value) if value else None for name, value in row.items() if not name.endswith(CLOCK)}
            for row in csv.DictReader(file)
        ]
    return sorted(found, key=lambda row: row["step"])


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws each panel that something was logged for: lines while training, points on validation events."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    logged = {name.removeprefix("eval_") for row in rows for name, value in row.items() if value is not None}
    shown = {label: names for label, names in PANELS.items() if logged & set(names)}
    with rc_context(STYLE):
        figure = Figure(figsize=(1.9 * len(shown) + 0.4, 2.4), layout="constrained")
        for axes, (label, names) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            for number, name in enumerate(names):
                _draw(axes, rows, name, COLOURS[number])
            if "gain" in names:
                axes.axhline(0, color=GREY, lw=0.6)
            if len(names) > 1:
                axes.legend(frameon=False, fontsize=6)
            axes.set_xlabel("optimiser step")
            axes.set_ylabel(label)
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.suptitle("lines: training; points: validation", fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=300)


def _draw(axes: Any, rows: Sequence[Row], name: str, colour: str) -> None:
    if line := _series(rows, name):
        axes.plot(*zip(*line, strict=True), color=colour, lw=0.9, label=NAMES.get(name))
    if points := _series(rows, f"eval_{name}"):
        axes.plot(*zip(*points, strict=True), "o-", color=colour, ms=3.5, lw=0.4, mfc="white")


def _series(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(row["step"], value) for row in rows if (value := row.get(name)) is not None]


if __name__ == "__main__":
    sys.exit(main())
