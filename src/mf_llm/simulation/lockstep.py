"""Several events at once: each makes its next step, and what is written for all of them is written at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mf_llm.simulation.engines.engine import Engine
from mf_llm.simulation.event_run import EventRun
from mf_llm.simulation.rollout import Rollout


def run_in_lockstep(
    engine: Engine,
    make: Sequence[Callable[[], EventRun]],
    *,
    events_together: int,
    resume: bool,
    read_together: bool = False,
) -> list[Rollout]:
    """Runs events to their end, at most `events_together` at a time; where one ends, the next begins.

    Args:
        engine: who answers in all of them.
        make: makes the run of each event. Called when its turn comes, so that memory does not grow with the number of
            events (but for the rollouts themselves).
        events_together: how many share a batch.
        resume: go on with what is on disk.
        read_together: whether people of all of them are asked in one batch as well.

    Returns:
        The rollouts, in the order of `make`.
    """
    rollouts: dict[int, Rollout] = {}
    active: dict[int, EventRun] = {}
    begun = 0
    try:
        while True:
            while len(active) < events_together and begun < len(make):
                run = active[begun] = make[begun]()
                run.open(resume=resume)
                begun += 1
                _settle(active, rollouts)
            if not active:
                return [rollouts[i] for i in range(len(make))]
            _make_a_step(engine, list(active.values()), read_together)
            _settle(active, rollouts)
    finally:
        for run in active.values():
            run.close()


def _settle(active: dict[int, EventRun], rollouts: dict[int, Rollout]) -> None:
    """Puts the events that are through among the rollouts."""
    for i in [i for i, run in active.items() if not run.waiting]:
        rollouts[i] = active.pop(i).rollout


def _make_a_step(engine: Engine, runs: Sequence[EventRun], read_together: bool) -> None:
    asking = [one for run in runs if (one := run.begin()) is not None]
    start = time.perf_counter()
    held = engine.read_ahead(asking) if read_together else []
    together = time.perf_counter() - start
    decided = [run.decide() for run in runs]
    del held  # until here somebody might have asked for it
    start = time.perf_counter()
    writing = [i for i, decisions in enumerate(decided) if decisions is not None]
    texts = engine.write_texts([(runs[i].policy, decisions) for i in writing if (decisions := decided[i]) is not None])
    together += time.perf_counter() - start
    written = dict(zip(writing, texts, strict=True))
    for i, run in enumerate(runs):
        run.act(decided[i], written.get(i, []))
    start = time.perf_counter()
    requests = [run.signal_request() for run in runs]
    signals = iter(engine.write_signals([request for request in requests if request is not None]))
    together += time.perf_counter() - start
    for run, request in zip(runs, requests, strict=True):
        text, failure = next(signals) if request is not None else (None, None)
        run.finish(text, failure, together / len(runs))
