"""``mf-llm compare``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.benchmark.bars import find_bars
from mf_llm.benchmark.benchmark import SPLIT, Benchmark
from mf_llm.benchmark.disjoint_stories import story_disjoint_sets
from mf_llm.benchmark.horizon_plot import plot_horizon
from mf_llm.benchmark.job import Job
from mf_llm.benchmark.long_horizon import COLUMNS, horizon_rows, joined_blocks, replayed
from mf_llm.benchmark.method_list import MethodList, load_method_list
from mf_llm.benchmark.replay_method import ReplayMethod
from mf_llm.benchmark.training_runs import TrainingRuns, load_training_table
from mf_llm.benchmark.validation_sets import check_not_seen, validation_sets
from mf_llm.commands.evaluate_run import terminal_width
from mf_llm.errors import InputError
from mf_llm.evaluation.comparison import Comparison
from mf_llm.evaluation.intervals import N_BOOTSTRAP
from mf_llm.evaluation.protocol import choose_windows, plan_event
from mf_llm.events import Event, load_event_sets
from mf_llm.folder_lock import only_writer
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.termination import ending_on_sigterm


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What the command line asked for.

    Attributes:
        events: where the events are.
        methods: names and groups of methods.
        output: folder of the results.
        method_list: a list of methods: a YAML file, or the name of one of the package.
        data_sets: only these; all by default.
        checkpoints: folder of the checkpoints.
        rollouts: folder of the rollouts; ``OUTPUT/rollouts`` by default.
        model: backbone of methods without a checkpoint.
        dtype: of the weights.
        limit: at most so many test events of each data set.
        events_together: events that are simulated side by side.
        train: train the checkpoints that are missing first.
        training_table: a YAML file of training runs; that of the package by default.
        simulate: make the rollouts that are missing; without it what is there is judged.
        validation: judge on validation events, and on a survey's wave before the judged one, as if they were the test.
        disjoint_stories: only test events whose story no train or validation event has; data sets without stories are
            left out.
        quick: a trial of minutes: one event of each data set, two windows of it, few methods, one training seed.
        long_horizon: join the test blocks of each stream into one long event; other data sets are left out.
        replay: with `long_horizon`, repeat each long event up to this many actions.
        report: write the results as a page, too, without texts (``OUTPUT/report.html``).
        dry_run: say what is there and what is missing, and stop.
        seed, n_bootstrap: of the bootstrap.
    """

    events: str
    methods: tuple[str, ...]
    output: Path
    method_list: str | Path = "benchmark"
    data_sets: tuple[str, ...] = ()
    checkpoints: str = "."
    rollouts: Path | None = None
    model: str = DEFAULT_BACKBONE
    dtype: str = "auto"
    limit: int | None = None
    events_together: int = 32
    train: bool = False
    training_table: Path | None = None
    simulate: bool = True
    validation: bool = False
    disjoint_stories: bool = False
    quick: bool = False
    long_horizon: bool = False
    replay: int | None = None
    report: bool = False
    dry_run: bool = False
    seed: int = 0
    n_bootstrap: int = N_BOOTSTRAP


@ending_on_sigterm()
def run_compare(request: CompareRequest) -> None:
    """Simulates what is missing, judges all methods on the test events, writes the results and prints the table.

    Raises:
        InputError: something that was asked for is not usable.
    """
    methods = load_method_list(request.method_list)
    if not request.methods:
        raise InputError(f"`--methods` must be some of {', '.join(methods.methods)}, got none; nothing was compared.")
    event_sets = _event_sets(request)
    special: dict[str, Any] = {}
    if request.quick:
        methods, special = _quick(methods.for_a_trial(), event_sets)
    elif request.long_horizon:
        special = _long_horizon(event_sets)
    benchmark = Benchmark(
        event_sets=event_sets,
        methods=methods.select(request.methods),
        method_list=methods,
        rollouts=request.rollouts or request.output / "rollouts",
        checkpoints=request.checkpoints,
        base=request.model,
        limit=request.limit or (1 if request.quick else None),
        read=request.simulate,
        **special,
    )
    jobs = benchmark.jobs()
    runs = TrainingRuns(
        load_training_table(request.training_table),
        benchmark.event_sets,
        Path(request.checkpoints),
        model=request.model,
        dtype=request.dtype,
    )
    if request.dry_run:
        _print_departures(jobs)
        print("\n".join(f"{name}, seed {seed}: to be trained" for name, seed in benchmark.runs_to_train(runs)))
        print("\n".join(_state(job) for job in jobs) or "No method needs a simulation.")
        return
    with only_writer(request.output):
        if request.train:
            _train(benchmark, runs)
        if request.validation:
            check_not_seen({Path(job.checkpoint) for job in jobs if job.checkpoint}, benchmark.event_sets)
        if _is_main_process(jobs):
            _print_departures(jobs)
        problems = _make_rollouts(jobs, request) if jobs and request.simulate else []
        if not _is_main_process(jobs):
            return
        comparison = benchmark.compare(seed=request.seed, n_bootstrap=request.n_bootstrap)
        assert comparison.methods is not None
        comparison.summary["command"] = _command(request)
        if request.validation:
            # The bars are asked of the test.
            comparison.summary |= {"splits": ["validation"], "bars": {}}
        else:
            comparison.summary["bars"] = find_bars(comparison.methods, comparison.summary["overall"])
        comparison.save(request.output)
        _save_annotators(benchmark, request.output)
        if request.long_horizon:
            _save_horizon(benchmark, comparison, request.output)
        print(comparison.table(terminal_width()))
        _print_missing(comparison, problems)
        print(f"Results: {request.output / 'results.csv'} and {request.output / 'summary.json'}")
        if request.report:
            _write_report(request, benchmark)


def _event_sets(request: CompareRequest) -> dict[str, list[Event]]:
    sets = load_event_sets(request.events)
    for name in request.data_sets:
        if name not in sets:
            raise InputError(
                f"`--data-sets` must be different names out of {', '.join(sets)}, got {name!r}; nothing was compared."
            )
    sets = {name: events for name, events in sets.items() if not request.data_sets or name in request.data_sets}
    if request.validation:
        sets = validation_sets(sets)
    if request.disjoint_stories:
        sets = story_disjoint_sets(sets)
    if request.replay is not None and not request.long_horizon:
        raise InputError("`--replay` must come with --long-horizon: it is how far the long events are repeated.")
    if request.long_horizon:
        sets = {name: joined_blocks(events) for name, events in sets.items()}
        sets = {name: events for name, events in sets.items() if any(event.split == SPLIT for event in events)}
        if not sets:
            raise InputError(
                f"`--long-horizon` must have test events that are blocks of one group, got none in {request.events}; "
                "nothing can be joined; leave it out."
            )
    if request.replay is not None:
        sets = {
            name: [replayed(event, request.replay) if event.split == SPLIT else event for event in events]
            for name, events in sets.items()
        }
    return sets


def _quick(methods: MethodList, event_sets: dict[str, list[Event]]) -> tuple[MethodList, dict[str, Any]]:
    """Two windows of each event are simulated and judged, by all methods alike."""
    windows, options = {}, {name: dict(methods.data_sets.get(name, {})) for name in event_sets}
    for name, events in event_sets.items():
        chosen = choose_windows(events) if any(event.dimensions for event in events) else None
        if chosen is not None and not chosen.waves:
            windows[name] = replace(chosen, max_labelled=chosen.warm_up + 2 * chosen.window)
            plans = [plan_event(event, windows[name]) for event in events if event.split == SPLIT]
            options[name]["max_actions"] = max((int(plan.rest[-1]) + 1 for plan in plans if plan.n_windows), default=1)
    return replace(methods, data_sets=options), {"windows": windows}


def _long_horizon(event_sets: dict[str, list[Event]]) -> dict[str, Any]:
    """Everything of an event is simulated and judged, in the windows the data set has anyway."""
    windows = {name: replace(choose_windows(events), max_labelled=None) for name, events in event_sets.items()}
    longest = max(len(event.turns) for events in event_sets.values() for event in events)
    return {"windows": windows, "options": {"max_actions": longest}}


def _save_annotators(benchmark: Benchmark, output: Path) -> None:
    replays = [method for method in benchmark.judged_methods if isinstance(method, ReplayMethod)]
    rows = [row for method in replays for row in method.quality_rows()]
    if rows:
        caption = "Agreement with people's labels on the judged texts, 95 % bootstrap over events"
        quality = {method.name: method.quality for method in replays}
        write_json(output / "annotators.json", {"caption": caption, "rows": rows, "quality": quality})


def _save_horizon(benchmark: Benchmark, comparison: Comparison, output: Path) -> None:
    rows = horizon_rows(benchmark, comparison)
    write_csv(output / "horizon.csv", COLUMNS, rows)
    if rows:
        print(f"Horizon: {output / 'horizon.csv'} and {plot_horizon(rows, output / 'horizon.png')}")


def _train(benchmark: Benchmark, runs: TrainingRuns) -> None:
    wanted = benchmark.runs_to_train(runs)
    for number, (name, seed) in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] training {name}, seed {seed}", flush=True)
        runs.train(name, seed)


def _make_rollouts(jobs: list[Job], request: CompareRequest) -> list[tuple[Job, str]]:
    from mf_llm.benchmark.run_jobs import run_jobs

    return run_jobs(jobs, dtype=request.dtype, events_together=request.events_together)


def _is_main_process(jobs: list[Job]) -> bool:
    """Only one of several processes judges; without simulations there is one, and accelerate is not loaded for it."""
    if not jobs:
        return True
    from accelerate import PartialState

    return PartialState().is_main_process


def _state(job: Job) -> str:
    try:
        left = len(job.unfinished_events())
    except InputError as error:
        return f"{job.name}: cannot be made: {error}"
    done = len(job.events) - left
    return f"{job.name}: {'done' if not left else f'{done} of {len(job.events)} events'} ({job.folder})"


def _print_departures(jobs: list[Job]) -> None:
    """Said once per method; a checkpoint that is not there yet says nothing."""
    lines = [
        f"{job.method.name}: trained with {name} {value}, simulated with {getattr(job.config, name)}"
        for job in jobs
        for name, value in job.trained_with.items()
    ]
    for line in dict.fromkeys(lines):
        print(line, file=sys.stderr)


def _print_missing(comparison: Comparison, problems: list[tuple[Job, str]]) -> None:
    for job, reason in problems:
        print(f"not made: {job.name}: {reason}", file=sys.stderr)
    known = {job.method.name for job, _ in problems}
    for entry in comparison.summary["missing"]:
        if entry["method"] not in known:
            print(f"missing: {entry['method']}, {entry['data_set']}: {entry['missing']}", file=sys.stderr)


def _write_report(request: CompareRequest, benchmark: Benchmark) -> None:
    """The page beside the results, or why there is none: they are saved, and stay."""
    from mf_llm.reporting.page import write_report

    try:
        page = write_report(request.output, event_sets=benchmark.event_sets, rollouts=benchmark.rollouts, texts=False)
    except InputError as error:
        print(f"no report: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"no report: {error.name} is not installed: pip install 'mf-llm[eval,plot]'", file=sys.stderr)
    else:
        print(f"Report: {page} (mf-llm report {request.output} --events {request.events} shows texts, too)")


def _command(request: CompareRequest) -> str:
    """The command as anybody could repeat it: folders by their roles, not by where they lie here."""
    source = Path(request.events)
    words: list[Any] = ["mf-llm", "compare", "DATA" if source.exists() else request.events]
    words += ["--methods", ",".join(request.methods)]
    if str(request.method_list) != "benchmark":
        words += ["--method-list", Path(request.method_list).name]
    if request.data_sets:
        words += ["--data-sets", ",".join(request.data_sets)]
    if request.model != DEFAULT_BACKBONE:
        words += ["--model", Path(request.model).name if Path(request.model).exists() else request.model]
    if request.validation:
        words.append("--validation")
    if request.disjoint_stories:
        words.append("--disjoint-stories")
    if request.quick:
        words.append("--quick")
    if request.long_horizon:
        words += ["--long-horizon", *(["--replay", request.replay] if request.replay else [])]
    if request.limit is not None:
        words += ["--limit", request.limit]
    return shlex.join([*map(str, words), "--seed", str(request.seed), "--bootstrap", str(request.n_bootstrap)])
