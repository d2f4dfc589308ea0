"""One step of the mean-field model: it rewrites the population signal from what people just did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mf_llm.events import Event
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.simulation.bounds import max_new_tokens, prompt_limits
from mf_llm.simulation.generation import generate_keyed
from mf_llm.simulation.keyed_draws import keyed_sample, stream_key
from mf_llm.simulation.rollout import FAILED, ActionRow
from mf_llm.simulation.signals import action_line, count_shares, shares_in_words
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


class MeanFieldStep:
    """Writes the next signal from the last one and the actions of a step.

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
        self.backbone, self.processor = model.backbone("mean_field"), processor
        self.event, self.config, self.plan = event, config, plan
        self.generation_config = model.generation_config_of("mean_field")
        self.max_new_tokens = max_new_tokens(model, "mean_field", config)
        self.prompt_tokens = self.new_tokens = 0

    def prompt(self, step: Step, rows: Sequence[ActionRow], previous: str | None) -> list[int]:
        """The prompt for the signal after `step`; failed rows are left out."""
        counted = [row for row in rows if row.source != FAILED]
        done = [row for row in counted if action_line(row)]  # an unlabelled turn without words says nothing
        key = stream_key(self.config.seed, self.event.event_id, step.index, "listed actions")
        listed = keyed_sample(len(done), self.config.listed_actions, key, np.array([row.weight for row in done]))
        words = any(done[i].text for i in listed)
        tally = None
        shares = count_shares(counted, self.plan.answer.options)
        if shares.normalised is not None:
            tally = f"In total: {shares_in_words(self.plan.answer.options, shares.normalised)}."
        return self.processor.mean_field_prompt(
            self.event.topic,
            previous,
            # Without words of their own, who chose what is all there is to tell.
            [action_line(done[i], with_state=not words) for i in listed],
            tally=tally,
            limits=prompt_limits(self.config),
        )

    def write(self, step: Step, rows: Sequence[ActionRow], previous: str | None) -> tuple[str | None, str | None]:
        """The signal after `step`.

        Args:
            step: the step people just made.
            rows: their actions.
            previous: the signal they saw.

        Returns:
            The new signal and None, or None and why there is none.
        """
        prompt = self.prompt(step, rows, previous)
        generated = generate_keyed(
            self.backbone,
            None,
            [prompt],
            [stream_key(self.config.seed, self.event.event_id, step.index, "signal")],
            generation_config=self.generation_config,
            end_ids=self.processor.frame("mean_field").end_ids,
            max_new_tokens=self.max_new_tokens,
            batch_tokens=self.config.batch_tokens,
        )[0]
        self.prompt_tokens += len(prompt)
        self.new_tokens += len(generated.ids)
        if generated.failure is not None:
            return None, generated.failure
        text = self.processor.read_answer("mean_field", generated.ids)
        return (text, None) if text else (None, "empty_text")
