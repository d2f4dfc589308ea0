"""Trains the checkpoints of the benchmark, each for several seeds.

    python scripts/train_benchmark.py DATA [--only mf-tuned --seeds 0 1 2]    trains what is not there yet
    python scripts/train_benchmark.py DATA --list                             says what is there

DATA is the folder with the research data sets. The runs stand in ``src/mf_llm/data/benchmark_training.yaml``; each is
trained into ``RUNS/RUN-seedN`` and goes on where it was interrupted. Test events, the survey's last wave among them,
are not looked at. ``OMP_NUM_THREADS`` bounds the threads, so that several processes can share a machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mf_llm.atomic_files import write_json
from mf_llm.benchmark.job import checkpoint_hashes
from mf_llm.errors import InputError
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.events import Event, load_event_sets
from mf_llm.models.checkpoints import ADAPTER_WEIGHTS_FILE
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.journal import check_same_run
from mf_llm.training.last_checkpoint import last_checkpoint
from mf_llm.training.signal_file import SIGNALS_FILE

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "src/mf_llm/data/benchmark_training.yaml"
OURS = ("start", "sft", "budget", "data_sets", "max_transitions")
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")


def main(arguments: Sequence[str] | None = None) -> int:
    args = _arguments(arguments)
    try:
        table = yaml.safe_load(args.table.read_text(encoding="utf-8"))
        names = args.only or list(table["runs"])
        for name in names:
            if name not in table["runs"]:
                raise InputError(f"`--only` must be some of {', '.join(table['runs'])}, got {name!r}.")
        jobs = [(name, seed) for seed in args.seeds for name in names]
        if args.list:
            for name, seed in jobs:
                print(f"{name}, seed {seed}: {'done' if _done(_folder(args, name, seed)) else 'not there'}")
            return 0
        event_sets: dict[str, list[Event]] = {}
        for number, (name, seed) in enumerate(jobs, 1):
            head = f"[{number}/{len(jobs)}] {name}, seed {seed}"
            if _done(_folder(args, name, seed)):
                print(f"{head}: done", flush=True)
                continue
            event_sets = event_sets or _load(args.data, table["data_sets"])
            start = time.perf_counter()
            _train(table, name, seed, event_sets, args, head)
            print(f"{head}: finished in {time.perf_counter() - start:.0f} s", flush=True)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _train(
    table: Mapping[str, Any],
    name: str,
    seed: int,
    event_sets: Mapping[str, Sequence[Event]],
    args: argparse.Namespace,
    head: str,
) -> None:
    from mf_llm.training.transitions import TRANSITIONS_VERSION

    folder, run = _folder(args, name, seed), table["runs"][name]
    transitions = _transitions(table, run, event_sets, seed)
    for key in ("start", "budget"):
        if run.get(key) and _done(_folder(args, run[key], seed)) is None:
            raise InputError(
                f"`{key}` of {name!r} must be trained first, got no {run[key]!r} of seed {seed}; train it."
            )
    start = str(_folder(args, run["start"], seed)) if run.get("start") else None
    budget = _done(_folder(args, run["budget"], seed))["policy_tokens"] if run.get("budget") else None
    record = {
        "run": name,
        "seed": seed,
        "settings": {key: table[key] for key in ("common", "adapters")} | {"run": run},
        "data_sets": _data_settings(table, run),
        "transitions": len(transitions),
        "transitions_version": TRANSITIONS_VERSION,
        "start": (checkpoint_hashes(start) or {}).get(ADAPTER_WEIGHTS_FILE),
        "budget_tokens": budget,
        "model": args.model if not Path(args.model).is_dir() else Path(args.model).name,
    }
    found = _read(folder / "run.json")
    if found is not None:
        check_same_run(record, found, folder)
    else:
        write_json(folder / "run.json", record)
    _copy_signals(table, name, seed, folder, args)
    print(f"{head}: {len(transitions)} transitions", flush=True)
    began = time.perf_counter()
    if run.get("sft"):
        trainer = _sft_trainer(table, run, seed, transitions, folder, args, budget)
    else:
        trainer = _ib_tune_trainer(table, run, seed, transitions, folder, args, start)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    trainer.save_model(str(folder))
    finished = record | {
        "policy_tokens": int(trainer.state.num_input_tokens_seen),
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - began),
        "log": trainer.state.log_history,
        "data_hash": {one: data_hash(events) for one, events in event_sets.items()},
        "versions": versions(PACKAGES),
    }
    write_json(folder / "trained.json", finished)


def _copy_signals(table: Mapping[str, Any], name: str, seed: int, folder: Path, args: argparse.Namespace) -> None:
    """Takes over the signals of a run with the same frozen mean field; the trainer uses those that are the same."""
    start, file = table["runs"][name].get("start"), SIGNALS_FILE.format(process=0)
    for other, run in table["runs"].items():
        found = _folder(args, other, seed) / file
        if start and run.get("start") == start and found.exists() and not (folder / file).exists():
            shutil.copyfile(found, folder / file)


def _ib_tune_trainer(
    table: Mapping[str, Any],
    run: Mapping[str, Any],
    seed: int,
    transitions: Any,
    folder: Path,
    args: argparse.Namespace,
    start: str | None,
) -> Any:
    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
    from mf_llm.training import IBTuneConfig, IBTuneTrainer, TransitionSettings, lora_config

    config = IBTuneConfig(output_dir=str(folder), seed=seed, report_to="none", **_arguments_of(table, run))
    processor = MFLLMProcessor.from_backbones(args.model)
    lora = None
    if start is not None:
        model = MFLLMForSimulation.from_pretrained(start, is_trainable=True, dtype=args.dtype)
    else:
        model = MFLLMForSimulation.from_backbones(args.model, dtype=args.dtype)
        lora = lora_config(model, **table["adapters"])
    return IBTuneTrainer(
        model,
        config,
        processing_class=processor,
        train_dataset=transitions,
        peft_config=lora,
        # Of all data sets alike: how an action is asked for, which the checkpoint keeps.
        transition_settings=TransitionSettings(**next(iter(_data_settings(table, run).values()))),
    )


def _sft_trainer(
    table: Mapping[str, Any],
    run: Mapping[str, Any],
    seed: int,
    transitions: Any,
    folder: Path,
    args: argparse.Namespace,
    budget: int,
) -> Any:
    from trl import SFTConfig

    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
    from mf_llm.training import PolicySFTTrainer, lora_config, sft_rows
    from mf_llm.training.sft import within_budget

    known = {field.name for field in fields(SFTConfig)}
    settings = {key: value for key, value in _arguments_of(table, run).items() if key in known} | {
        "num_train_epochs": 1
    }
    settings.setdefault("gradient_checkpointing", False)  # TRL's default would make the baseline slower
    config = SFTConfig(output_dir=str(folder), seed=seed, report_to="none", max_length=None, **settings)
    model = MFLLMForSimulation.from_backbones(args.model, dtype=args.dtype)
    processor = MFLLMProcessor.from_backbones(args.model)
    rows = sft_rows(transitions, processor, target=table["common"]["target"], seed=seed)
    return PolicySFTTrainer(
        model,
        config,
        processing_class=processor,
        train_dataset=within_budget(rows, budget, seed=seed),
        peft_config=lora_config(model, roles=("policy",), **table["adapters"]),
    )


def _arguments_of(table: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """What the table says to the trainer."""
    return {**table["common"], **{key: value for key, value in run.items() if key not in OURS}}


def _data_settings(table: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    wanted = run.get("data_sets") or {name: {} for name in table["data_sets"]}
    return {name: {**table["data_sets"][name], **(changes or {})} for name, changes in wanted.items()}


def _transitions(
    table: Mapping[str, Any], run: Mapping[str, Any], event_sets: Mapping[str, Sequence[Event]], seed: int
) -> Any:
    from datasets import concatenate_datasets

    from mf_llm.training.transition_settings import TransitionSettings
    from mf_llm.training.transitions import build_transitions

    parts = [
        build_transitions({name: event_sets[name]}, TransitionSettings(**settings, seed=seed))
        for name, settings in _data_settings(table, run).items()
    ]
    rows = concatenate_datasets(parts)
    if run.get("max_transitions", len(rows)) < len(rows):
        rows = rows.shuffle(seed=seed).select(range(run["max_transitions"]))
    return rows


def _folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    return args.runs / f"{name}-seed{seed}"


def _done(folder: Path) -> dict[str, Any] | None:
    return _read(folder / "trained.json")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _load(data: Path, names: Iterable[str]) -> dict[str, list[Event]]:
    sets = load_event_sets(str(data))
    missing = [name for name in names if name not in sets]
    if missing:
        raise InputError(f"`DATA` must hold the data sets of the table, got none named {missing[0]!r} in {data}.")
    return {name: sets[name] for name in names}


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the data sets")
    parser.add_argument("--table", type=Path, default=TABLE, help="the runs (YAML)")
    parser.add_argument("--runs", type=Path, default=Path("runs/train"), help="folder of the checkpoints")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds")
    parser.add_argument("--model", default=DEFAULT_BACKBONE, help="backbone of both roles")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--list", action="store_true", help="say what is finished, and stop")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
