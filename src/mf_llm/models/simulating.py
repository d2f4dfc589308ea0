"""What a model does with people: `MFLLMForSimulation.simulate` and `choice_distribution`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

if TYPE_CHECKING:
    import numpy as np

    from mf_llm.events import Event
    from mf_llm.models.processing_mf_llm import MFLLMProcessor
    from mf_llm.simulation import Rollout, SimulationConfig
    from mf_llm.simulation.run_options import RunOptions


class SimulatingMixin:
    """The part of `MFLLMForSimulation` that asks its roles for people's actions."""

    @overload
    def simulate(
        self,
        event: Event | Sequence[Event],
        processor: MFLLMProcessor,
        config: SimulationConfig | None = None,
        *,
        seeds: Sequence[int],
        **options: Unpack[RunOptions],
    ) -> list[Rollout]: ...
    @overload
    def simulate(
        self,
        event: Event,
        processor: MFLLMProcessor,
        config: SimulationConfig | None = None,
        **options: Unpack[RunOptions],
    ) -> Rollout: ...
    @overload
    def simulate(
        self,
        event: Sequence[Event],
        processor: MFLLMProcessor,
        config: SimulationConfig | None = None,
        **options: Unpack[RunOptions],
    ) -> list[Rollout]: ...
    def simulate(
        self,
        event: Event | Sequence[Event],
        processor: MFLLMProcessor,
        config: SimulationConfig | None = None,
        **options: Any,
    ) -> Rollout | list[Rollout]:
        """Simulates how the population of `event` reacts; see `mf_llm.simulation.simulate`."""
        from mf_llm.simulation import simulate

        model: Any = self
        return simulate(model, processor, event, config, **options)

    def choice_distribution(
        self, processor: MFLLMProcessor, topic: str, states: Sequence[Any], options: Sequence[str], **kwargs: Any
    ) -> np.ndarray:
        """Probabilities of the options of a closed choice; see `mf_llm.simulation.choosing.choice_distribution`."""
        from mf_llm.simulation.choosing import choice_distribution

        return choice_distribution(self, processor, topic, states, options, **kwargs)
