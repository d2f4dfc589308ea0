"""The progress bar of a simulation: people, ETA, people and tokens per second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from tqdm.auto import tqdm

from mf_llm.events import Event
from mf_llm.simulation.steps import Plan, Step


class Progress:
    """A bar over the people who are simulated, in all events together.

    Args:
        plans: the plans of the events.
        enabled: False hides it.
    """

    def __init__(self, plans: Sequence[Plan], *, enabled: bool = True) -> None:
        self._bar = tqdm(
            total=sum(plan.n_simulated for plan in plans),
            unit="state" if any(plan.is_population for plan in plans) else "person",
            disable=not enabled,
            dynamic_ncols=True,
            smoothing=0.1,
        )
        self._tokens = 0
        self._start = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def describe(self, event: Event, plan: Plan, step: Step) -> None:
        """Says which event and step is on."""
        phase = "warm-up" if step.real else "rollout"
        self._bar.set_description(f"{event.event_id[:24]} {phase} {step.index + 1}/{len(plan.steps)}")

    def advance(self, people: int) -> None:
        """Counts simulated people."""
        self._bar.update(people)

    def tokens(self, count: int) -> None:
        """Counts tokens, encoded and generated."""
        self._tokens += count
        self._bar.set_postfix_str(f"{self._tokens / max(time.perf_counter() - self._start, 1e-9):,.0f} tokens/s")
