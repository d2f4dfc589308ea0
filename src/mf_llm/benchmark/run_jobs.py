"""Making the rollouts of a benchmark: what is finished stays, what was interrupted goes on, processes share events."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mf_llm.atomic_files import write_json
from mf_llm.benchmark.job import RECORD, Job
from mf_llm.errors import InputError
from mf_llm.models.configuration_mf_llm import ROLES, Role
from mf_llm.simulation.journal import Journal

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


def run_jobs(jobs: Sequence[Job], *, dtype: str = "auto", events_together: int = 32) -> list[tuple[Job, str]]:
    """Simulates what is not there yet.

    Under ``accelerate launch`` each process takes a part of the events of each job; all of them wait at the end.

    Args:
        jobs: what is needed.
        dtype: of the weights.
        events_together: events that are simulated side by side.

    Returns:
        The jobs that could not be made, and why.
    """
    from accelerate import PartialState

    state, models, problems = PartialState(), _Models(dtype), []
    for number, job in enumerate(jobs, 1):
        head = f"[{number}/{len(jobs)}] {job.name}"
        try:
            left = job.unfinished_events()
            for folder in [one for event in job.events for one in job.finished(event)]:
                Journal.discard(folder)
            if not left:
                continue
            # By their place among all events: what others finish meanwhile moves nothing.
            places = {event.event_id: place for place, event in enumerate(job.events)}
            mine = [one for one in left if places[one.event_id] % state.num_processes == state.process_index]
            if state.is_main_process:
                print(f"{head}: {len(left)} of {len(job.events)} events to simulate", flush=True)
                write_json(job.folder / RECORD, job.record)
            start = time.perf_counter()
            _simulate(job, mine, models, events_together)
            if state.is_main_process:
                print(f"{head}: finished in {time.perf_counter() - start:.0f} s", flush=True)
        except InputError as error:
            problems.append((job, str(error)))
    state.wait_for_everyone()
    return problems


def _simulate(job: Job, events: Sequence[Any], models: _Models, events_together: int) -> None:
    from mf_llm.simulation import simulate

    if not events:
        return
    model, processor = models.load(job)
    for config in job.configs:
        simulate(
            model,
            processor,
            events,
            config,
            output=job.folder,
            resume=True,
            progress=sys.stderr.isatty(),
            data_set=job.task.data_set,
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
        from mf_llm.models.loading import load_model_and_processor

        key = (job.model, job.method.roles)
        if key != self._key or self._loaded is None:
            self._key = self._loaded = None  # never two models in memory
            model, processor = load_model_and_processor(job.model, dtype=self._dtype, progress=False)
            for role in ROLES:
                if role not in job.method.roles:
                    _silence(model, role, job)
            self._key, self._loaded = key, (model, processor)
        return self._loaded


def _silence(model: MFLLMForSimulation, role: Role, job: Job) -> None:
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
