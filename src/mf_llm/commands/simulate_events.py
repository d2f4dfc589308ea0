"""``mf-llm simulate``."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.atomic_files import write_json
from mf_llm.endpoints.counters import Counters
from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import MAX_LABELLED, Windows, choose_windows, labelled_length
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.events import Event, load_event_sets
from mf_llm.folder_lock import only_writer
from mf_llm.json_records import read_record
from mf_llm.models.checkpoints import options_beside, trained_options
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.estimate import Estimate, estimate, remember_speed, remembered_speed
from mf_llm.simulation.journal import check_same_run
from mf_llm.simulation.population_plan import plan_population
from mf_llm.simulation.run_folder import check_distinct_ids, write_run_tables
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, plan_simulation
from mf_llm.termination import ending_on_sigterm

# How many seeds of an event are simulated side by side where nothing else is said.
ENSEMBLE_TOGETHER = 32

if TYPE_CHECKING:
    from mf_llm.endpoints import Endpoint
    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
    from mf_llm.simulation.population import Population


@dataclass(frozen=True, kw_only=True)
class SimulateRequest:
    """What the command line asked for.

    `options` are fields of `SimulationConfig`; None counts as not given. What is not given is simulated as the
    checkpoint was trained, or by default. With an `endpoint`, models behind it take the place of `model`; with a
    `population`, it acts after the warm-up in `n_steps` steps.
    """

    events: str
    output: Path | None = None
    split: str | None = None
    event_ids: tuple[str, ...] = ()
    limit: int | None = None
    model: str | None = None
    dtype: str = "auto"
    endpoint: Endpoint | None = None
    population: Population | None = None
    n_steps: int | None = None
    seeds: tuple[int, ...] = (0,)
    events_together: int | None = None
    read_together: bool = False
    resume: bool = False
    dry_run: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The events of one data set that are simulated alike; `planned` end in a population where there is one."""

    data_set: str
    config: SimulationConfig
    events: list[Event]
    planned: list[Event]
    plans: list[Plan]
    skipped: list[str]


@ending_on_sigterm()
def run_simulate(request: SimulateRequest) -> None:
    """Plans, estimates, loads the model, simulates, and says where the run folder is."""
    sets = load_event_sets(request.events)
    _check_event_ids(request, sets)
    request = _with_defaults(request)
    model_name = str(request.model)
    request, trained = _as_trained(request, model_name)
    jobs = [_job(name, events, request, trained) for name, events in sets.items()]
    for reason in [reason for job in jobs for reason in job.skipped][:5]:
        print(f"left out: {reason}", file=sys.stderr)
    n_skipped = sum(len(job.skipped) for job in jobs)
    if n_skipped > 5:
        print(f"left out: {n_skipped - 5} more", file=sys.stderr)
    jobs = [job for job in jobs if job.events]
    if not jobs:
        raise InputError(
            f"`EVENTS` must hold an event that can be simulated like this, got none in {request.events} "
            f"({n_skipped} left out); change --split, --event or --warm-up."
        )
    check_distinct_ids([event for job in jobs for event in job.events])
    used = [name for name, value in trained.items() if any(getattr(job.config, name) == value for job in jobs)]
    if used:
        print(f"As {Path(model_name).name} was trained: {', '.join(f'{n} {_word(trained[n])}' for n in used)}.")
    for job in jobs:
        if request.options.get("anchor") not in (None, job.config.anchor):
            why = (
                "no text helps"
                if job.config.anchor != "carry"
                else "the other needs 10 training events, and no survey"
            )
            print(f"{job.data_set}: the anchor is {job.config.anchor}: {why}.")
    print(_expected(request, model_name, jobs))
    if request.dry_run:
        return
    output = request.output or Path("runs") / _default_name(request.events)
    with only_writer(output):
        if (output / "run.json").exists() and not request.resume:
            raise InputError(
                f"`--output` must be a new folder, but {output} holds a run already; nothing was overwritten; go on "
                "with it with --resume, or name another folder."
            )
        record = _run_record(request, model_name, jobs)
        if (output / "run.json").exists():
            found = read_record(output / "run.json", "`mf-llm simulate`", {"data_sets": dict})
            _check_resumed(record, found, output)
        write_json(output / "run.json", record)
        _simulate(request, model_name, jobs, output)


def _simulate(request: SimulateRequest, model_name: str, jobs: Sequence[_Job], output: Path) -> None:
    from mf_llm.models.loading import load_model_and_processor
    from mf_llm.simulation.runner import simulate

    model: MFLLMForSimulation | Endpoint
    processor: MFLLMProcessor | None
    if request.endpoint is not None:
        model, processor = request.endpoint, None
    else:  # the simulation has a progress bar of its own
        model, processor = load_model_and_processor(model_name, dtype=request.dtype, progress=False)
    start, rollouts = time.perf_counter(), []
    for job in jobs:
        rollouts += simulate(
            model,
            processor,
            job.events,
            job.config,
            output=output,
            resume=request.resume,
            data_set=job.data_set,
            events_together=request.events_together or 1,
            read_together=request.read_together,
            population=request.population,
            n_steps=request.n_steps,
            seeds=request.seeds,
        )
    write_run_tables(output, rollouts)
    seconds = time.perf_counter() - start
    if not request.resume and request.endpoint is None and request.population is None:
        remember_speed(_batched_name(request, model_name), request.dtype, Estimate.of_rollouts(rollouts), seconds)
    people = sum(step.n_people for rollout in rollouts for step in rollout.steps if not step.real)
    score = "" if request.population is not None else f"\nScore it: mf-llm evaluate {shlex.quote(str(output))}"
    failed = sum(rollout.n_failed for rollout in rollouts)
    if request.endpoint is not None:
        print(Counters.from_dict(json.loads((output / "endpoint.json").read_text(encoding="utf-8"))).describe())
    print(
        f"{len(rollouts)} rollouts, {people:,} people simulated in {seconds:.0f} s "
        f"({people / seconds:,.1f} people/s), {failed} failed generations.\nRun folder: {output}{score}"
    )


def _expected(request: SimulateRequest, model_name: str, jobs: Sequence[_Job]) -> str:
    """What the run will take, for the terminal."""
    n_seeds = len(request.seeds)
    if request.endpoint is not None:
        from mf_llm.simulation.engines.endpoint_estimate import EndpointEstimate, estimate_endpoint

        parts = [estimate_endpoint(job.events, job.plans, job.config, request.endpoint) for job in jobs]
        return sum(parts * n_seeds, EndpointEstimate()).describe(request.endpoint, n_seeds=n_seeds)
    # Side by side is faster; where that was never measured, the speed of one after the other is on the safe side.
    speed = remembered_speed(_batched_name(request, model_name), request.dtype)
    speed = speed or remembered_speed(model_name, request.dtype)
    total = Estimate.total([estimate(job.planned, job.plans, job.config) for job in jobs for _ in request.seeds])
    return total.describe(model_name, speed, n_seeds=n_seeds)


def _with_defaults(request: SimulateRequest) -> SimulateRequest:
    """The request with a model, and with as many events side by side as keep it busy."""
    endpoint = request.endpoint
    if endpoint is None:
        # The seeds of an event are an ensemble, which is what side by side pays most for.
        together = request.events_together or min(len(request.seeds), ENSEMBLE_TOGETHER)
        return replace(request, model=request.model or DEFAULT_BACKBONE, events_together=together)
    if request.model is not None:
        raise InputError(
            f"`--model` must be left out with --endpoint, got {request.model!r}; models behind a server are named by "
            "--endpoint-model."
        )
    from mf_llm.simulation.engines.endpoint_engine import ROUNDS

    people = request.options.get("agents_per_step") or SimulationConfig.agents_per_step
    together = request.events_together or max(1, -(-ROUNDS * endpoint.concurrency // people))
    return replace(request, model=endpoint.model, dtype="server", events_together=together)


def _as_trained(request: SimulateRequest, model_name: str) -> tuple[SimulateRequest, dict[str, Any]]:
    """The request with what was not given taken from the checkpoint, and what that is."""
    given = {name: value for name, value in request.options.items() if value is not None}
    known = {} if request.endpoint else trained_options(model_name)  # a server does not say
    trained = options_beside(known, given)
    return replace(request, options=trained | given), trained


def _job(name: str, events: list[Event], request: SimulateRequest, trained: dict[str, Any]) -> _Job:
    first = next((d for event in events for d in event.dimensions), None)
    dimension = None if request.options.get("action") == "text" else request.options.get("dimension") or first
    if dimension is not None and not any(dimension in event.dimensions for event in events):
        raise InputError(
            f"`--dimension` must be one that the events of {name} have, got {dimension!r}; it cannot be read; leave "
            "it out for the first."
        )
    windows = choose_windows(events, dimension) if dimension is not None else None
    if dimension is not None:
        config = protocol_config(events, request.options)
    else:
        # Without labels there are no shares to anchor or to tell: an error only where they were asked for.
        plain: dict[str, Any] = {"anchored": False, "option_orders": SimulationConfig.option_orders}
        instead = {name: value for name, value in plain.items() if name in trained}
        if trained.get("signal") == "both":
            instead["signal"] = "text"
        config = SimulationConfig(**{"max_actions": MAX_LABELLED} | request.options | instead)
    chosen: list[Event] = []
    planned, plans, skipped = [], [], []
    for event in events:
        if request.split is not None and event.split != request.split:
            continue
        if request.event_ids and event.event_id not in request.event_ids:
            continue
        if request.limit is not None and len(chosen) == request.limit:
            break
        judged = not request.event_ids and request.population is None
        reason = _too_short(event, windows, dimension, request) if judged else None
        if reason is None:
            try:
                one, plan = _planned(event, config, request)
                planned.append(one)
                plans.append(plan)
                chosen.append(event)
            except InputError as error:
                if request.event_ids or len(events) == 1:
                    raise
                reason = str(error)
        if reason is not None:
            skipped.append(reason)
    return _Job(data_set=name, config=config, events=chosen, planned=planned, plans=plans, skipped=skipped)


def _planned(event: Event, config: SimulationConfig, request: SimulateRequest) -> tuple[Event, Plan]:
    """The plan of an event, and the event it is of: with a population, one that ends in its people."""
    if request.population is not None:
        return plan_population(event, request.population, config, request.n_steps or 1)
    return event, plan_simulation(event, config)


def _too_short(event: Event, windows: Windows | None, dimension: str | None, request: SimulateRequest) -> str | None:
    """Why an event could not be judged, where the protocol chose the warm-up; None if it can."""
    if windows is None or windows.waves or dimension is None or request.options.get("warm_up") is not None:
        return None
    needed, length = windows.warm_up + windows.window, labelled_length(event, dimension)
    if length == 0 or length >= needed:
        return None
    return f"{event.event_id}: has {length} labelled actions, and one window needs {needed}"


def _check_event_ids(request: SimulateRequest, sets: dict[str, list[Event]]) -> None:
    known = {event.event_id for events in sets.values() for event in events}
    for event_id in request.event_ids:
        if event_id not in known:
            raise InputError(
                f"`--event` must be the id of an event in {request.events}, got {event_id!r}; there are {len(known)}, "
                f"such as {sorted(known)[0]!r}."
            )


def _run_record(request: SimulateRequest, model_name: str, jobs: Sequence[_Job]) -> dict[str, Any]:
    source, people = Path(request.events), None
    if request.population is not None:
        people = {"states": len(request.population), "people": request.population.n_people}
    return {
        "events": str(source.resolve()) if source.exists() else request.events,
        "model": model_name,
        "dtype": request.dtype,
        "endpoint": request.endpoint.fingerprint() if request.endpoint is not None else None,
        "population": None if people is None else people | {"steps": request.n_steps or 1},
        "seeds": list(request.seeds),
        "data_sets": {
            job.data_set: {
                "config": job.config.to_dict(),
                "events": {event.event_id: event.content_hash() for event in job.events},
                "left_out": job.skipped,
            }
            for job in jobs
        },
    }


def _check_resumed(record: dict[str, Any], found: dict[str, Any], output: Path) -> None:
    """A run may be resumed with more events or seeds, never with another model or other settings."""
    for key in ("model", "dtype", "endpoint", "population"):
        check_same_run({key: record[key]}, {key: found.get(key)}, output)
    for name in record["data_sets"].keys() & found["data_sets"].keys():
        ours, theirs = record["data_sets"][name], found["data_sets"][name]
        theirs = theirs.get("config") if isinstance(theirs, dict) else None
        check_same_run({"config": ours["config"]}, {"config": theirs}, output)


def _batched_name(request: SimulateRequest, model_name: str) -> str:
    """What a measured speed is remembered under."""
    return model_name if request.events_together == 1 else f"{model_name} x{request.events_together}"


def _word(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _default_name(events: str) -> str:
    return Path(events).name.split(".")[0] or "events"
