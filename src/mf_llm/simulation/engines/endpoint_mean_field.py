"""`EndpointMeanField`: the mean-field model of one event, asked of a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mf_llm.endpoints.chat import Answer, ChatRequest
from mf_llm.endpoints.endpoint import Endpoint
from mf_llm.events import Event
from mf_llm.models.generation_configs import LENGTH_DEFAULTS, SAMPLING_DEFAULTS
from mf_llm.simulation.engines.answer_log import AnswerLog
from mf_llm.simulation.engines.chat_answers import read_text
from mf_llm.simulation.engines.chat_prompts import ChatPrompts
from mf_llm.simulation.keyed_draws import stream_key
from mf_llm.simulation.mean_field_step import ToldStep
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step


class EndpointMeanField(ToldStep):
    """Asks for the signal behind a step.

    Args:
        endpoint: how the server is asked.
        event: its topic is read.
        config, plan: how to simulate.
        folder: where the rollout goes, or None.
    """

    def __init__(
        self, endpoint: Endpoint, event: Event, config: SimulationConfig, plan: Plan, folder: Path | None
    ) -> None:
        length = config.signal_max_tokens or LENGTH_DEFAULTS["mean_field"]
        self.chat = ChatPrompts(config.wording, system_role=endpoint.system_role)
        super().__init__(self.chat, event, config, plan, length)
        self.endpoint, self.log = endpoint, AnswerLog(folder)
        self.server = endpoint.server("mean_field")

    def request(self, step: Step, rows: Sequence[ActionRow], previous: str | None) -> ChatRequest:
        """The question for the signal behind `step`."""
        sampling = SAMPLING_DEFAULTS["mean_field"]
        return ChatRequest(
            server=self.server,
            messages=self.chat.messages("mean_field", self.prompt(step, rows, previous)),
            read=read_text,
            max_tokens=self.max_new_tokens + self.endpoint.reasoning_tokens,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            seed=stream_key(self.seed(step), self.event.event_id, step.index, "signal") % 2**31,
            extra_body=dict(self.endpoint.extra_body or {}),
            second_chances=1,
        )

    def take_in(self, answer: Answer) -> tuple[str | None, str | None]:
        """The new signal and None, or None and why there is none."""
        self.prompt_tokens += answer.prompt_tokens
        self.new_tokens += answer.new_tokens
        return (None, answer.failure) if answer.failure is not None else (answer.value["text"], None)
