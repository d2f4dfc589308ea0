"""`Engine`: what a simulation needs of whoever answers for its people and for the mean field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mf_llm.events import Event
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.signal_writing import SignalRequest
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step


class Policy(Protocol):
    """The policy of one event.

    Attributes:
        event: the event as it is known at the step; its topic may change between steps.
        max_new_tokens: bound of a person's text.
        prompt_tokens, new_tokens: tokens so far.
    """

    event: Event
    max_new_tokens: int
    prompt_tokens: int
    new_tokens: int

    def recall(self, signal: str | None) -> None:
        """Says what the people of the step before saw, where that step was made in an earlier run."""

    def decide(self, step: Step, signal: str | None, advance: Callable[[int], None]) -> Any:
        """What the people of a step decide; where a server answers, what they will be asked."""

    def rows(self, decisions: Any, written: Any, advance: Callable[[int], None]) -> list[ActionRow]:
        """The actions of the people of a step, in their order."""


class MeanField(Protocol):
    """The mean-field model of one event.

    Attributes:
        event: the event as it is known at the step; its topic may change between steps.
        max_new_tokens: bound of a signal.
        prompt_tokens, new_tokens: tokens so far.
    """

    event: Event
    max_new_tokens: int
    prompt_tokens: int
    new_tokens: int


class Engine(Protocol):
    """Makes policies and mean fields, and lets those of several events write at once."""

    def default_config(self) -> SimulationConfig:
        """How to simulate where nothing is said."""

    def fitted(self, config: SimulationConfig) -> SimulationConfig:
        """The config within what this engine can hold.

        Raises:
            InputError: it cannot simulate like this.
        """

    def versions(self) -> dict[str, Any]:
        """What a rollout says about who made it; equal for equal ones."""

    def running(self, output: Path | None) -> AbstractContextManager[None]:
        """Ready to answer while this lasts.

        Args:
            output: folder of the run, or None.
        """

    def policy(
        self, event: Event, config: SimulationConfig, plan: Plan, anchor: np.ndarray | None, folder: Path | None
    ) -> Policy:
        """The policy of an event, whose rollout goes into `folder`."""

    def mean_field(self, event: Event, config: SimulationConfig, plan: Plan, folder: Path | None) -> MeanField:
        """The mean-field model of an event, whose rollout goes into `folder`."""

    def read_ahead(self, asking: Sequence[tuple[Any, Step, str | None]]) -> Any:
        """Asks at once what policies are about to ask, each in its step and under the signal shown.

        Returns:
            Something to hold until they have decided.
        """

    def write_texts(self, parts: Sequence[tuple[Any, Any]]) -> list[Any]:
        """For each policy with its decisions, what `Policy.rows` needs of what was written."""

    def write_signals(self, requests: Sequence[SignalRequest]) -> list[tuple[str | None, str | None]]:
        """For each request the new signal and None, or None and why there is none."""
