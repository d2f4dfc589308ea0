"""What a simulation will ask of a server: requests and tokens, known before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mf_llm.endpoints.chat import ChatRequest
from mf_llm.endpoints.endpoint import Endpoint
from mf_llm.endpoints.text_encoding import TextEncoder
from mf_llm.events import Event
from mf_llm.models.generation_configs import LENGTH_DEFAULTS
from mf_llm.simulation.engines.chat_answers import LogprobReader
from mf_llm.simulation.engines.endpoint_policy import EndpointPolicy
from mf_llm.simulation.estimate import Work
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan

# Tokens of a chat template around two messages, of a signal, and of a listed action; the last two are guesses.
_FRAME_TOKENS, _SIGNAL_TOKENS, _ACTION_TOKENS = 12, 90, 30


@dataclass(frozen=True)
class EndpointEstimate(Work):
    """Work of a server: ``prompt_tokens`` counts each prompt in full; a server that reuses prefixes encodes fewer.

    Attributes:
        requests: questions, without those that have to be asked again.
    """

    requests: int = 0

    def describe(self, endpoint: Endpoint, *, n_seeds: int = 1) -> str:
        """One line for the terminal."""
        cost = ""
        if endpoint.price_per_million is not None:
            prompt, new = endpoint.price_per_million
            cost = f"; cost at most about {(self.prompt_tokens * prompt + self.new_tokens * new) / 1e6:,.4g}"
        return (
            f"{self.counted(n_seeds)} with {endpoint.model} at "
            f"{endpoint.server('policy').public_address}: {self.requests:,} requests, about {self.prompt_tokens:,} "
            f"prompt tokens (by characters: no tokenizer is loaded) and at most {self.new_tokens:,} new tokens{cost}."
        )


def estimate_endpoint(
    events: Sequence[Event], plans: Sequence[Plan], config: SimulationConfig, endpoint: Endpoint
) -> EndpointEstimate:
    """Builds the prompts of everybody, with a signal of usual length, and counts them.

    Args:
        events: the events.
        plans: their plans.
        config: how they are simulated.
        endpoint: who would be asked.
    """
    parts = [_one(event, plan, config, endpoint) for event, plan in zip(events, plans, strict=True)]
    return sum(parts, EndpointEstimate())


def _one(event: Event, plan: Plan, config: SimulationConfig, endpoint: Endpoint) -> EndpointEstimate:
    policy = EndpointPolicy(endpoint, LogprobReader(), event, config, plan, None)
    signal = None if config.signal == "none" else "x" * 4 * _SIGNAL_TOKENS
    options = plan.answer.options
    spoken = next((k for k, option in enumerate(options) if option not in plan.silent), None)
    total = EndpointEstimate(1, len(plan.steps), plan.n_simulated)
    for step in plan.steps:
        if step.real:
            continue
        asked = policy.decide(step, signal)
        for question in policy.first_questions(asked):
            total += _cost(question.request)
        asked.labels = [spoken] * len(asked.labels)
        for question in policy.text_questions(asked, policy.writers(asked)):
            total += _cost(question.request)
    if config.signal in ("text", "both"):
        signals, encode = len(plan.steps) - 1, TextEncoder().encode
        listed = min(config.listed_actions, config.agents_per_step) * _ACTION_TOKENS
        prompt = min(len(encode(event.topic)) + 2 * _SIGNAL_TOKENS + listed, config.max_prompt_tokens)
        new = (config.signal_max_tokens or LENGTH_DEFAULTS["mean_field"]) + endpoint.reasoning_tokens
        total += EndpointEstimate(requests=signals, prompt_tokens=signals * prompt, new_tokens=signals * new)
    return total


def _cost(request: ChatRequest) -> EndpointEstimate:
    encode = TextEncoder().encode
    prompt = _FRAME_TOKENS + sum(len(encode(message["content"])) for message in request.messages)
    return EndpointEstimate(requests=1, prompt_tokens=prompt, new_tokens=request.max_tokens)
