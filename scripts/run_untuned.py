"""Makes ``results/untuned``: rollouts of the default backbone without any training, scored against people.

    python scripts/run_untuned.py DATA [--runs runs/untuned] [--limit 3]

DATA is the folder with the research data sets. Interrupted runs go on where they were. Scores, configuration and event
hashes are copied into ``results/untuned``; signals and actions stay in the run folders, since they quote people.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from mf_llm.commands.evaluate_run import run_evaluate
from mf_llm.commands.simulate_events import SimulateRequest, run_simulate

RESULTS = Path(__file__).resolve().parent.parent / "results/untuned"
DATA_SETS = ("rumoureval2019", "covid19_rumours", "gop_debate", "weibo_ced")
SURVEY_SAMPLE = 200  # people of the judged wave, per group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/untuned"))
    parser.add_argument("--limit", type=int, default=3, help="test events per data set")
    args = parser.parse_args()
    sources = {"bridge-closure": "bridge-closure", "vaccine-intention": "vaccine-intention"}
    sources |= {name: str(args.data / f"{name}.jsonl.gz") for name in DATA_SETS}
    for name, source in sources.items():
        survey = name == "vaccine-intention"
        run = args.runs / name
        run_simulate(
            SimulateRequest(
                events=source,
                output=run,
                split=None if name == "bridge-closure" else "test",
                limit=args.limit if name in DATA_SETS else None,
                resume=(run / "run.json").exists(),
                options={"max_people_per_step": SURVEY_SAMPLE} if survey else {},
            )
        )
        run_evaluate(run, events=None, plots=True, seed=0)
        collect(run, RESULTS / name)


def collect(run: Path, folder: Path) -> None:
    """Copies what may be published: scores, and how the run was made without where its files lay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("evaluation.csv", "evaluation.json"):
        shutil.copy(run / name, folder / name)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["events"] = Path(record["events"]).name
    (folder / "run.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
