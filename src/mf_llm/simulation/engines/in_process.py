"""`InProcessEngine`: an `MFLLMForSimulation` in this process answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.models.prompts import PROMPT_VERSION
from mf_llm.simulation.bounds import within_context
from mf_llm.simulation.generation import Generated
from mf_llm.simulation.joint_reading import read_together
from mf_llm.simulation.mean_field_step import MeanFieldStep
from mf_llm.simulation.policy_step import Decisions, PolicyStep, write_texts
from mf_llm.simulation.population_step import PopulationStep
from mf_llm.simulation.provenance import versions_of
from mf_llm.simulation.readout import SharedPrefix
from mf_llm.simulation.shared_readings import SharedReadings
from mf_llm.simulation.signal_writing import SignalRequest, write_signals
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


class InProcessEngine:
    """Policies and mean fields of a model and its processor.

    Args:
        model, processor: the two models and their prompts.

    Raises:
        InputError: the two do not belong together, or the model was made for other prompts.
    """

    def __init__(self, model: MFLLMForSimulation, processor: MFLLMProcessor) -> None:
        _check_model(model, processor)
        self.model, self.processor = model, processor
        self._shared = SharedReadings()

    def default_config(self) -> SimulationConfig:
        """As the model was trained."""
        return self.model.config.simulation_config()

    def fitted(self, config: SimulationConfig) -> SimulationConfig:
        """`max_prompt_tokens` within what the backbones' positions leave."""
        return within_context(self.model, config)

    def versions(self) -> dict[str, Any]:
        """Packages, bases and weights."""
        return versions_of(self.model)

    @contextmanager
    def running(self, output: Path | None) -> Iterator[None]:
        """The model does not drop out meanwhile."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    def policy(
        self, event: Event, config: SimulationConfig, plan: Plan, anchor: np.ndarray | None, folder: Path | None
    ) -> PolicyStep:
        """See `Engine.policy`."""
        step = PopulationStep if plan.is_population else PolicyStep
        return step(self.model, self.processor.with_wording(config.wording), event, config, plan, anchor, self._shared)

    def mean_field(self, event: Event, config: SimulationConfig, plan: Plan, folder: Path | None) -> MeanFieldStep:
        """See `Engine.mean_field`."""
        return MeanFieldStep(self.model, self.processor.with_wording(config.wording), event, config, plan)

    def read_ahead(self, asking: Sequence[tuple[PolicyStep, Step, str | None]]) -> list[SharedPrefix]:
        """See `mf_llm.simulation.joint_reading.read_together`."""
        return read_together(asking)

    def write_texts(self, parts: Sequence[tuple[PolicyStep, Decisions]]) -> list[list[Generated]]:
        """One batch for all events."""
        return write_texts(parts)

    def write_signals(self, requests: Sequence[SignalRequest]) -> list[tuple[str | None, str | None]]:
        """One batch for all events."""
        return write_signals(requests)


def _check_model(model: MFLLMForSimulation, processor: MFLLMProcessor) -> None:
    if model.config.prompt_version != PROMPT_VERSION:
        raise InputError(
            f"`model` must have prompt_version {PROMPT_VERSION}, got {model.config.prompt_version}; it was made for "
            "other prompts and its answers would mean something else; use the version of mf_llm it was made with."
        )
    for role in ("policy", "mean_field"):
        backbone, tokenizer = model.backbone(role), processor.tokenizer_of(role)
        embeddings: Any = backbone.get_input_embeddings()
        size = embeddings.weight.shape[0]
        if len(tokenizer) > size:
            raise InputError(
                f"`processor` must belong to `model`: its {role} tokenizer has {len(tokenizer)} tokens, the {role} "
                f"backbone {size}; prompts could not be read; load both from the same checkpoint."
            )
