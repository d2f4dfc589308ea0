"""One step of the mean-field model: it rewrites the population signal from what people just did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mf_llm.events import Event
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.models.prompt_building import PromptBuilder
from mf_llm.simulation.bounds import max_new_tokens, prompt_limits
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step
from mf_llm.simulation.told_actions import listing_key, told_actions

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


class ToldStep:
    """What the mean-field model of one event is told after a step, whoever answers.

    Args:
        prompts: builds its prompts.
        event: its topic is read.
        config, plan: how to simulate.
        max_new_tokens: bound of a signal.
    """

    def __init__(
        self, prompts: PromptBuilder, event: Event, config: SimulationConfig, plan: Plan, max_new_tokens: int
    ) -> None:
        self.prompts, self.event, self.config, self.plan = prompts, event, config, plan
        self.max_new_tokens = max_new_tokens
        self.prompt_tokens = self.new_tokens = 0

    def seed(self, step: Step) -> int:
        """The seed of what is drawn for the signal after `step`."""
        own = self.config.warm_up_seed
        return self.config.seed if own is None or not step.real else own

    def prompt(self, step: Step, rows: Sequence[ActionRow], previous: str | None) -> list[int]:
        """The prompt for the signal after `step`; failed rows are left out."""
        key = listing_key(self.seed(step), self.event.event_id, step.index)
        lines, tally = told_actions(rows, self.plan.answer.options, key=key, listed_actions=self.config.listed_actions)
        return self.prompts.mean_field_prompt(
            self.event.topic, previous, lines, tally=tally, limits=prompt_limits(self.config)
        )


class MeanFieldStep(ToldStep):
    """What the mean-field model of one event is told after a step, and how it is to answer (see `write_signals`).

    Args:
        model, processor: the two models and their prompts.
        event: its topic is read.
        config, plan: how to simulate.
    """

    def __init__(
        self,
        model: MFLLMForSimulation,
        processor: MFLLMProcessor,
        event: Event,
        config: SimulationConfig,
        plan: Plan,
    ) -> None:
        super().__init__(processor, event, config, plan, max_new_tokens(model, "mean_field", config))
        self.backbone, self.processor = model.backbone("mean_field"), processor
        self.generation_config = model.generation_config_of("mean_field")
