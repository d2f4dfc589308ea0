"""The signals of several events, written at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mf_llm.simulation.generation import generate_keyed
from mf_llm.simulation.keyed_draws import stream_key
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.steps import Step


@dataclass(frozen=True)
class SignalRequest:
    """One signal to be written.

    Attributes:
        mean_field: of the event, as the engine made it.
        step: the step people just made.
        rows: their actions.
        previous: the signal before, or None.
    """

    mean_field: Any
    step: Step
    rows: Sequence[ActionRow]
    previous: str | None


def write_signals(requests: Sequence[SignalRequest]) -> list[tuple[str | None, str | None]]:
    """The next signals of several events; each is what its event alone would give.

    Args:
        requests: from events of one simulation: the same model and settings.

    Returns:
        For each request the new signal and None, or None and why there is none.
    """
    if not requests:
        return []
    prompts = [one.mean_field.prompt(one.step, one.rows, one.previous) for one in requests]
    first = requests[0].mean_field
    # Rollouts that set out from one warm-up ask for the same signal with the same key: it is written once.
    asked = [(_key(one), tuple(prompt)) for one, prompt in zip(requests, prompts, strict=True)]
    places = {question: place for place, question in enumerate(dict.fromkeys(asked))}
    written = generate_keyed(
        first.backbone,
        None,
        [list(prompt) for _, prompt in places],
        [key for key, _ in places],
        generation_config=first.generation_config,
        end_ids=first.processor.frame("mean_field").end_ids,
        max_new_tokens=first.max_new_tokens,
        batch_tokens=first.config.batch_tokens,
    )
    signals: list[tuple[str | None, str | None]] = []
    for one, prompt, question in zip(requests, prompts, asked, strict=True):
        generated = written[places[question]]
        one.mean_field.prompt_tokens += len(prompt)
        one.mean_field.new_tokens += len(generated.ids)
        text = "" if generated.failure else first.processor.read_answer("mean_field", generated.ids)
        signals.append((text, None) if text else (None, generated.failure or "empty_text"))
    return signals


def _key(request: SignalRequest) -> int:
    mean_field = request.mean_field
    return stream_key(mean_field.seed(request.step), mean_field.event.event_id, request.step.index, "signal")
