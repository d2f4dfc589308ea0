"""The curve of the information bottleneck: what the mean field keeps of the past against what that tells of the next.

    python scripts/run_ib_curve.py --data FILE [--betas 4 16 64 256]    trains and evaluates what is not there yet
    python scripts/run_ib_curve.py --data FILE --only 64                one beta alone, beside other processes
    python scripts/run_ib_curve.py --data FILE --score                  writes results/ib_curve

For each beta the mean-field model is trained alone, in one pass over the same transitions with the same noise, for
the untuned policy. Then K signals are drawn for each of the same validation transitions, again with the same noise,
and their rate and relevance are measured. Three points beside them need no training: ``untuned`` (the mean-field model
as it is), ``prior`` (signals that are written from the topic alone: rate 0) and ``none`` (people see no signal).

Every optimiser step and every evaluated batch is on disk before the next begins: the same command goes on after a
kill, skips what is finished, and writes ``results/ib_curve`` once nothing is missing. ``OMP_NUM_THREADS`` bounds the
threads of a process.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ib_curve_results import ADDED, save_results

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import N_BOOTSTRAP
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.events import SPLITS, Event, load_event_sets
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.journal import check_same_run
from mf_llm.simulation.keyed_draws import keyed_sample, stream_key
from mf_llm.training.last_checkpoint import last_checkpoint
from mf_llm.training.transition_settings import TransitionSettings

if TYPE_CHECKING:
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "ib_curve"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "scipy")
# An event has few places where a warm-up may end; more draws would be the same places again.
MOST_PER_EVENT = 4
LOGGED = ("loss", "rate", "relevance", "reward", "reward_std", "signal_tokens", "grad_norm", "learning_rate")

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One point of the curve."""

    name: str
    folder: Path
    beta: float | None = None

    @property
    def finished(self) -> bool:
        """Whether all its validation transitions are evaluated."""
        return bool((self.evaluation() or {}).get("finished"))

    def evaluation(self) -> dict[str, Any] | None:
        """What has been evaluated."""
        return _read(self.folder / "evaluation.json")

    def training(self) -> dict[str, Any] | None:
        """The log of the finished training."""
        return _read(self.folder / "training.json")


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        jobs = _jobs(args)
        if args.score:
            return _score(jobs, args, may_be_partial=True)
        event_sets = load_event_sets(args.data)
        train = transitions_of(event_sets, args.train_split, args.transitions, args.seed)
        judged = transitions_of(event_sets, args.validation_split, args.validation_transitions, args.seed)
        settings = _settings(args, event_sets, train, judged)
        wanted = [job for job in jobs if not args.only or job.name in {_job_name(name) for name in args.only}]
        for number, job in enumerate(wanted, 1):
            head = f"[{number}/{len(wanted)}] {job.name}"
            if _prepare(job, settings):
                print(f"{head}: done", flush=True)
                continue
            start = time.perf_counter()
            _run(job, args, train, judged, head)
            print(f"{head}: finished in {time.perf_counter() - start:.0f} s", flush=True)
        return _score(jobs, args, may_be_partial=False)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


# -- data -----------------------------------------------------------------------------------------------------------


def transitions_of(event_sets: Mapping[str, Sequence[Event]], split: str, count: int, seed: int) -> list[Row]:
    """`count` transitions with a history, a keyed choice among those of a split.

    From each event come as few as give enough, since transitions of one event resemble each other.

    Raises:
        InputError: there are not so many.
    """
    from mf_llm.training.transitions import build_transitions

    rows: list[Row] = []
    for per_event in range(1, MOST_PER_EVENT + 1):
        settings = TransitionSettings(transitions_per_event=per_event, seed=seed)
        rows = [row for row in build_transitions(event_sets, settings, split=split, cache=False) if row["history"]]
        if len(rows) >= count:
            names = ",".join(event_sets)
            return [rows[i] for i in keyed_sample(len(rows), count, stream_key(seed, names, split, "transitions"))]
    raise InputError(
        f"`--{'validation-' if split == 'validation' else ''}transitions` must be at most {len(rows)}, which is what "
        f"the {split} events of --data give, got {count}; a beta would see the same transition twice; ask for fewer, "
        "or give more events."
    )


def _settings(args: argparse.Namespace, event_sets: Mapping[str, Sequence[Event]], *rows: list[Row]) -> dict[str, Any]:
    """What must not change between the runs of one curve."""
    from mf_llm.models.backbones import preferred_dtype

    kept = vars(args)
    left_out = ("data", "betas", "only", "score", "runs", "results", "bootstrap", "evaluation_batch")
    return {
        **{name: value for name, value in kept.items() if name not in left_out},
        "model": Path(args.model).name if Path(args.model).is_dir() else args.model,
        "dtype": str(preferred_dtype()) if args.dtype == "auto" else args.dtype,
        "data_sets": sorted(event_sets),
        "data_hash": data_hash(event for events in event_sets.values() for event in events),
        "transitions_hash": hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest(),
    }


# -- one point ------------------------------------------------------------------------------------------------------


def _jobs(args: argparse.Namespace) -> list[Job]:
    betas = {f"beta{beta:g}": beta for beta in sorted(args.betas)}
    jobs = [Job(name, args.runs / name, betas.get(name)) for name in (*ADDED, *betas)]
    unknown = sorted({_job_name(name) for name in args.only} - {job.name for job in jobs})
    if unknown:
        raise InputError(
            f"`--only` must be some of {', '.join([*ADDED, *(f'{beta:g}' for beta in args.betas)])}, got "
            f"{', '.join(args.only)}; nothing else is part of the curve; add it to --betas."
        )
    return jobs


def _job_name(text: str) -> str:
    return text if text in ADDED or text.startswith("beta") else f"beta{float(text):g}"


def _prepare(job: Job, settings: Mapping[str, Any]) -> bool:
    """Checks that the folder holds this very run, or starts one; tells whether it is finished."""
    found = _read(job.folder / "settings.json")
    if found is None:
        write_json(job.folder / "settings.json", {"settings": settings, "versions": versions(PACKAGES)})
    else:
        check_same_run(json.loads(json.dumps(settings)), found["settings"], job.folder)
    return job.finished


def _run(job: Job, args: argparse.Namespace, train: list[Row], judged: list[Row], head: str) -> None:
    trainer = _trainer(job, args, train, head)
    if job.beta is not None:
        _train(job, trainer)
    _evaluate(job, trainer, judged, args.evaluation_batch, head)
    del trainer
    gc.collect()  # a trainer holds itself in circles; never two models in memory


def _trainer(job: Job, args: argparse.Namespace, train: list[Row], head: str) -> IBTuneTrainer:
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, set_seed
    from transformers.utils.logging import disable_progress_bar

    from mf_llm.models.loading import load_model_and_processor
    from mf_llm.training.ib_tune_config import IBTuneConfig
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer
    from mf_llm.training.lora import lora_config
    from mf_llm.training.transitions import transition_features

    disable_progress_bar()
    model, processor = load_model_and_processor(args.model, dtype=args.dtype)
    n_layers = model.config.backbone_config("mean_field").num_hidden_layers
    lora = lora_config(
        model,
        r=args.lora_r,
        alpha=args.lora_alpha,
        roles=("mean_field",),
        layers=range(n_layers // 2, n_layers) if args.lora_layers == "upper" else None,
    )
    config = IBTuneConfig(
        output_dir=str(job.folder),
        schedule="mean_field",
        signal="text",
        beta=0.0 if job.beta is None else job.beta,
        num_signals=args.num_signals,
        signal_max_tokens=args.signal_max_tokens,
        num_train_epochs=1,
        per_device_train_batch_size=args.transitions_per_step,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.lr_scheduler,
        save_steps=1,
        save_total_limit=2,
        seed=args.seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    set_seed(args.seed)  # the adapters are drawn at random, the same for every beta
    trainer = IBTuneTrainer(
        model,
        config,
        processing_class=processor,
        train_dataset=Dataset.from_list(train, features=transition_features()),
        peft_config=lora,
        callbacks=[_progress(head)],
    )
    trainer.remove_callback(PrinterCallback)
    if job.name == "prior":
        from ib_curve_evaluation import write_from_the_topic_alone

        write_from_the_topic_alone(trainer)
    return trainer


def _train(job: Job, trainer: IBTuneTrainer) -> None:
    from mf_llm.models.adapters import load_adapter_weights

    if job.training() is not None:
        load_adapter_weights(trainer.model, job.folder / "final")
        return
    trainer.train(resume_from_checkpoint=last_checkpoint(job.folder))
    trainer.save_model(str(job.folder / "final"))
    log = [entry for entry in trainer.state.log_history if "rate" in entry]
    write_json(job.folder / "training.json", {"log": log})


def _evaluate(job: Job, trainer: IBTuneTrainer, judged: list[Row], size: int, head: str) -> None:
    """Rate and relevance of K signals for each transition, some transitions at a time."""
    from ib_curve_evaluation import judge, judge_without

    done = (job.evaluation() or {}).get("transitions", [])
    trainer.model.eval()
    while len(done) < len(judged):
        start, chunk = time.perf_counter(), judged[len(done) : len(done) + size]
        done += (judge_without if job.name == "none" else judge)(trainer, chunk)
        record = {"finished": len(done) == len(judged), "transitions": done}
        write_json(job.folder / "evaluation.json", record)
        seconds = time.perf_counter() - start
        print(f"{head}: {len(done)} of {len(judged)} transitions evaluated, {seconds:.0f} s", flush=True)


def _progress(head: str) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """One line per optimiser step."""

        def __init__(self) -> None:
            self.last = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
            if "rate" in logs:
                now = time.perf_counter()
                numbers = ", ".join(f"{name} {logs[name]:.3g}" for name in LOGGED if name in logs)
                print(f"{head}: step {state.global_step}/{state.max_steps}, {numbers}, {now - self.last:.0f} s")
                sys.stdout.flush()
                self.last = now

    return Progress()


# -- results --------------------------------------------------------------------------------------------------------


def _score(jobs: list[Job], args: argparse.Namespace, *, may_be_partial: bool) -> int:
    missing = [job.name for job in jobs if not job.finished]
    if missing:
        print(f"not finished yet: {', '.join(missing)}", flush=True)
        if not may_be_partial:
            return 0
    if not (jobs := [job for job in jobs if job.finished]):
        raise InputError(f"`--runs` must hold a finished run, got none in {args.runs}; run without --score first.")
    records = {job.name: _read(job.folder / "settings.json") for job in jobs}
    first = records[jobs[0].name]["settings"]
    for job in jobs:
        check_same_run(first, records[job.name]["settings"], job.folder)
    points = {job.name: {"beta": job.beta, "transitions": job.evaluation()["transitions"]} for job in jobs}
    curves = {job.name: {"beta": job.beta, "log": job.training()["log"]} for job in jobs if job.beta is not None}
    about = {"settings": first, "versions": {name: record["versions"] for name, record in records.items()}}
    print(save_results(points, curves, about, args.results, seed=args.seed, n_bootstrap=args.bootstrap))
    print(f"Written: {args.results}")
    return 0


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="file or folder of events, packaged name, or Hub data set id")
    add("--betas", nargs="+", type=float, default=[4.0, 16.0, 64.0, 256.0], metavar="B", help="weights of relevance")
    add("--only", nargs="+", default=[], metavar="NAME", help=f"only these betas, or some of {', '.join(ADDED)}")
    add("--transitions", type=int, default=96, help="transitions that are trained on, once each")
    add("--validation-transitions", type=int, default=48, help="transitions that are evaluated")
    add("--train-split", default="train", choices=SPLITS, help="split of the events that are trained on")
    add("--validation-split", default="validation", choices=SPLITS, help="split of the events that are evaluated")
    add("--num-signals", type=int, default=4, help="K, signals per transition")
    add("--signal-max-tokens", type=int, default=48, help="longest signal")
    add("--transitions-per-step", type=int, default=4, help="transitions of an optimiser step")
    add("--learning-rate", type=float, default=5e-4, help="highest learning rate")
    add("--lr-scheduler", default="cosine", help="its schedule, as transformers names it")
    add("--lora-r", type=int, default=8, help="rank of the adapters")
    add("--lora-alpha", type=int, default=16, help="scale of the adapters")
    add(
        "--lora-layers", default="upper", choices=("upper", "all"), help="layers with adapters: the upper half, or all"
    )
    add("--model", default=DEFAULT_BACKBONE, help="backbone of both roles")
    add("--dtype", default="auto", help="type of its weights")
    add("--evaluation-batch", type=int, default=8, help="transitions that are evaluated together")
    add("--runs", type=Path, default=Path("runs/ib_curve"), help="folder of the run folders")
    add("--results", type=Path, default=RESULTS, help="folder of the results")
    add("--score", action="store_true", help="write the results of what is finished, and stop")
    add("--bootstrap", type=int, default=N_BOOTSTRAP, help="bootstrap samples")
    add("--seed", type=int, default=0, help="of transitions, adapters, signals and bootstrap")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
