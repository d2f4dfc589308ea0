"""The fidelity experiment: tuned and untuned methods on the same test events, and what sets them apart.

    python scripts/run_fidelity.py DATA [--only mf-tuned --data-sets gop_debate]   simulates what is not there yet
    python scripts/run_fidelity.py DATA --list                                     says what is there
    python scripts/run_fidelity.py DATA --score                                    writes results/fidelity

DATA is the folder with the research data sets. The methods stand in ``scripts/fidelity_methods.yaml``. Each (method,
training seed, data set) has a run folder ``RUNS/METHOD/seedN/DATA_SET``; what is finished is skipped, and what was
interrupted goes on where it stopped. Run folders quote people and stay out of the repository; the results do not.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from fidelity_jobs import Experiment, Job, load_experiment, read_record
from fidelity_score import read_runs, save_results
from fidelity_tables import bars_table, differences_table, fidelity_table

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import N_BOOTSTRAP
from mf_llm.models.configuration_mf_llm import ROLES
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.journal import check_same_run

ROOT = Path(__file__).resolve().parent.parent
TABLE, RESULTS = ROOT / "scripts" / "fidelity_methods.yaml", ROOT / "results" / "fidelity"


def main() -> int:
    args = _arguments()
    try:
        experiment = load_experiment(
            args.table,
            args.data,
            args.runs,
            only=args.only,
            data_sets=args.data_sets,
            limit=args.limit,
            base=args.model,
        )
        if args.list:
            print("\n".join(f"{job.name}: {_state(job)}" for job in experiment.jobs()))
            return 0
        if args.score:
            return _score(experiment, args)
        return _run_all(experiment, args)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def _run_all(experiment: Experiment, args: argparse.Namespace) -> int:
    models, problems = _Models(args.dtype), []
    jobs = experiment.jobs()
    for number, job in enumerate(jobs, 1):
        head = f"[{number}/{len(jobs)}] {job.name}"
        try:
            done, start = _prepare(job, args.data), time.perf_counter()
            if done == len(job.events):
                print(f"{head}: done")
                continue
            print(f"{head}: {len(job.events)} events, {done} of them finished", flush=True)
            _simulate(job, models, args.events_together)
            print(f"{head}: finished in {time.perf_counter() - start:.0f} s", flush=True)
        except InputError as error:
            problems.append(f"{job.name}: {error}")
            print(f"{head}: NOT MADE: {error}", flush=True)
    if problems:
        print("\n".join([f"\n{len(problems)} of {len(jobs)} runs were not made:", *problems]), file=sys.stderr)
    return 1 if problems else 0


def _prepare(job: Job, data: Path) -> int:
    """Checks that a run folder holds this very run, or starts one; returns how many events are finished."""
    record, found = job.record(), read_record(job.folder)
    if found is None:
        # Where the events lie is for `mf-llm evaluate`; it is no part of what the run is.
        events = next(
            path for ending in (".jsonl.gz", ".jsonl") if (path := data / (job.data_set.name + ending)).exists()
        )
        write_json(job.folder / "run.json", record | {"events": str(events.resolve())})
    else:
        check_same_run(record, {key: value for key, value in found.items() if key != "events"}, job.folder)
    return len(job.finished())


def _simulate(job: Job, models: _Models, events_together: int) -> None:
    from mf_llm.simulation import simulate

    model, processor = models.load(job)
    simulate(
        model,
        processor,
        job.events,
        job.config,
        output=job.folder,
        resume=True,
        progress=sys.stderr.isatty(),
        data_set=job.data_set.name,
        events_together=events_together,
    )


class _Models:
    """Loads models, keeping the last one: jobs of one model follow each other."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._key: tuple[str, tuple[str, ...]] | None = None
        self._loaded: tuple[Any, Any] | None = None

    def load(self, job: Job) -> tuple[Any, Any]:
        """The model of a job and its processor."""
        from transformers.utils.logging import disable_progress_bar

        from mf_llm.models.loading import load_model_and_processor

        key = (job.model, job.method.roles)
        if key != self._key or self._loaded is None:
            disable_progress_bar()
            self._key = self._loaded = None  # never two models in memory
            model, processor = load_model_and_processor(job.model, dtype=self._dtype)
            for role in ROLES:
                if role not in job.method.roles:
                    _silence(model, role, job)
            self._key, self._loaded = key, (model, processor)
        return self._loaded


def _silence(model: Any, role: str, job: Job) -> None:
    """Sets the LoRA of a role to zero, which is the role without it, to the last digit."""
    import torch

    weights = [weight for name, weight in model.backbone(role).named_parameters() if ".lora_B." in name]
    if not weights:
        raise InputError(
            f"`roles` of method {job.method.name!r} must name what was tuned: {job.model!r} has no LoRA on its "
            f"{role} role, which could be left out; leave `roles` out, or take another checkpoint."
        )
    with torch.no_grad():
        for weight in weights:
            weight.zero_()


def _score(experiment: Experiment, args: argparse.Namespace) -> int:
    part = bool(args.only or args.data_sets or args.limit)
    if part and args.results is None:
        raise InputError(
            "`--results` must be given with --only, --data-sets or --limit; a part of the experiment would pass for "
            "all of it in results/fidelity; name another folder."
        )
    folder = args.results or RESULTS
    found = read_runs(experiment, seed=args.seed, n_bootstrap=args.bootstrap)
    summary = save_results(experiment, found, folder, _command(args))
    for title, table in (("KL", fidelity_table), ("Paired differences", differences_table), ("Bars", bars_table)):
        print(f"{title}\n\n{table(folder)}")
    for entry in summary["missing"]:
        print(f"missing: {entry['method']}, {entry['data_set']}: {entry['missing']}")
    for bar in (bar for kind in summary["bars"].values() for bar in kind if bar["note"]):
        print(f"{bar['name']}: {bar['note']}")
    print(f"\nWritten: {folder}")
    return 0


def _state(job: Job) -> str:
    done = len(job.finished())
    state = "done" if done == len(job.events) else f"{done} of {len(job.events)} events"
    try:
        job.record()
    except InputError as error:
        state += f"; {error}"
    return state


def _command(args: argparse.Namespace) -> str:
    """The command as anybody could repeat it: folders by their roles, not by where they lie here."""
    parts = ["python scripts/run_fidelity.py DATA --score"]
    for name in ("only", "data_sets"):
        if getattr(args, name):
            parts.append(f"--{name.replace('_', '-')} {shlex.join(getattr(args, name))}")
    if args.limit:
        parts.append(f"--limit {args.limit}")
    return " ".join([*parts, f"--seed {args.seed} --bootstrap {args.bootstrap}"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the data sets")
    parser.add_argument("--table", type=Path, default=TABLE, help="methods, data sets and comparisons (YAML)")
    parser.add_argument("--runs", type=Path, default=Path("runs/fidelity"), help="folder of the run folders")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these methods")
    parser.add_argument("--data-sets", nargs="+", default=[], metavar="NAME", help="only these data sets")
    parser.add_argument("--limit", type=int, help="at most so many test events of each data set")
    parser.add_argument("--model", default=DEFAULT_BACKBONE, help="backbone of methods without a checkpoint")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--events-together", type=int, default=8, help="events that are simulated side by side")
    parser.add_argument("--list", action="store_true", help="say what is finished, and stop")
    parser.add_argument("--score", action="store_true", help="judge the finished runs instead of simulating")
    parser.add_argument("--results", type=Path, help="with --score: where the results go (results/fidelity)")
    parser.add_argument("--seed", type=int, default=0, help="with --score: seed of the bootstrap")
    parser.add_argument("--bootstrap", type=int, default=N_BOOTSTRAP, help="with --score: bootstrap samples")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
