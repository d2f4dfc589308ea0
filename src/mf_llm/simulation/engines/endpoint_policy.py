"""`EndpointPolicy`: the people of one event, each of them a question to a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mf_llm.endpoints.chat import Answer, ChatRequest
from mf_llm.endpoints.endpoint import Endpoint
from mf_llm.endpoints.exchange import response_format
from mf_llm.events import Event
from mf_llm.models.generation_configs import LENGTH_DEFAULTS, SAMPLING_DEFAULTS
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation.bounds import prompt_limits
from mf_llm.simulation.engines.answer_log import AnswerLog
from mf_llm.simulation.engines.chat_answers import LogprobReader, read_json
from mf_llm.simulation.engines.chat_prompts import ChatPrompts, JsonAnswer, asked_for, lettered
from mf_llm.simulation.engines.question import Question
from mf_llm.simulation.keyed_draws import draw_categories
from mf_llm.simulation.people_step import PeopleStep
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step

# Room for a letter with marks around it, and for the braces, names and quotes of a JSON object.
_LETTER_TOKENS, _JSON_TOKENS = 3, 32


@dataclass
class Asked:
    """The people of a step, what they are asked, and what they have answered so far.

    Attributes:
        step: the step.
        signal: what they see of the population.
        advance: told how many people are done.
        labels, probabilities, texts, failures: of the N people.
    """

    step: Step
    signal: str | None
    advance: Callable[[int], None]
    labels: list[int | None] = field(init=False)
    probabilities: list[np.ndarray | None] = field(init=False)
    texts: list[str] = field(init=False)
    failures: list[str | None] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.step.turns)
        self.labels, self.probabilities, self.texts, self.failures = [None] * n, [None] * n, [""] * n, [None] * n


class EndpointPolicy(PeopleStep):
    """Asks the people of a step what they do: a label, a text, or both at once.

    With the exact readout a label is drawn here, from the probabilities of the options' letters, and a text is a
    question of its own behind it. With the sampled readout a person answers both at once, unless `writers` bounds who
    writes.

    Args:
        endpoint: how the server is asked.
        logprobs: reads letters; one for all events, since it learns what the server can do.
        event: topic, states, weights and waves are read from it, nothing else.
        config, plan: how to simulate.
        folder: where the rollout goes, or None.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        logprobs: LogprobReader,
        event: Event,
        config: SimulationConfig,
        plan: Plan,
        folder: Path | None,
    ) -> None:
        super().__init__(event, config, plan)
        self.endpoint, self.server, self.logprobs = endpoint, endpoint.server("policy"), logprobs
        self.prompts = ChatPrompts(config.wording, system_role=endpoint.system_role)
        self.limits, self.log = prompt_limits(config), AnswerLog(folder)
        self.max_new_tokens = config.max_new_tokens or LENGTH_DEFAULTS["policy"]
        kind, exact = plan.answer.kind, config.readout == "exact"
        self.at_once = kind == "text" or (kind == "label_text" and not exact and config.writers is None)
        self.exact = exact and kind != "text"

    def recall(self, signal: str | None) -> None:
        """Nothing is kept from step to step."""

    def decide(self, step: Step, signal: str | None, advance: Callable[[int], None] = lambda n: None) -> Asked:
        """What everybody in `step` will be asked; nothing is sent yet."""
        return Asked(step, signal, advance)

    def rows(self, asked: Asked, written: None, advance: Callable[[int], None]) -> list[ActionRow]:
        """The actions of the people of a step, in their order."""
        people = zip(asked.labels, asked.probabilities, asked.texts, asked.failures, strict=True)
        return [self._row(asked.step, n, *person) for n, person in enumerate(people)]

    def first_questions(self, asked: Asked) -> Iterator[Question]:
        """What everybody is asked first: the whole action where that is one answer, else the label."""
        answer, purpose = self.plan.answer, "action" if self.at_once else "label"
        fields = ("text",) if answer.kind == "text" else ("label", "text") if self.at_once else ("label",)
        form = lettered(answer) if self.exact else asked_for(answer, fields)
        is_last = self.at_once or answer.kind == "choice"
        yield from self._questions(asked, range(len(asked.step.turns)), purpose, lambda n: form, is_last)

    def writers(self, asked: Asked) -> tuple[int, ...]:
        """Who is asked for a text behind the label; the others are through."""
        if self.at_once or self.plan.answer.kind == "choice":
            return ()
        writers = self._writers(asked.step, asked.labels, asked.failures)
        asked.advance(len(asked.labels) - len(writers))
        return writers

    def text_questions(self, asked: Asked, writers: Sequence[int]) -> Iterator[Question]:
        """What the writers are asked behind their label."""
        answer = self.plan.answer

        def form(n: int) -> AnswerFormat:
            label = asked.labels[n]
            return asked_for(answer, ("text",), None if label is None else answer.options[label])

        yield from self._questions(asked, writers, "text", form, True)

    def _take_in(self, asked: Asked, n: int, is_last: bool, answer: Answer) -> None:
        """What a person answered."""
        value = answer.value
        self.prompt_tokens += answer.prompt_tokens
        self.new_tokens += answer.new_tokens
        asked.failures[n] = answer.failure
        if is_last:
            asked.advance(1)
        if answer.failure is not None:
            return
        if "p" in value:
            p = np.asarray(value["p"])
            key = self._key(asked.step, asked.step.turns[n], "label")
            asked.probabilities[n], asked.labels[n] = p, int(draw_categories(p[None, :], [key])[0])
        if "label" in value:
            asked.labels[n] = self.plan.answer.options.index(value["label"])
        if "text" in value:
            silent = value.get("label") in self.plan.silent  # who chooses this writes nothing
            asked.texts[n] = "" if silent else value["text"]

    def _questions(
        self, asked: Asked, people: Sequence[int], purpose: str, form: Callable[[int], AnswerFormat], is_last: bool
    ) -> Iterator[Question]:
        shared: dict[tuple[int, AnswerFormat], list[Any]] = {}
        for n in people:
            turn, answer = asked.step.turns[n], form(n)
            order = self._order_of(turn)
            if (order, answer) not in shared:
                shared[order, answer] = self._shared(asked.signal, answer, order)
            state = self.event.turns[asked.step.profiles[n]].state
            pieces = shared[order, answer] + self.prompts.person_segment(state, answer, limits=self.limits)
            seed = self._key(asked.step, turn, purpose) % 2**31
            yield Question(
                log=self.log,
                step=asked.step.index,
                turn=turn,
                purpose=purpose,
                request=self._request(answer, pieces, self.orders[order], seed),
                take_in=partial(self._take_in, asked, n, is_last),
            )

    def _shared(self, signal: str | None, answer: AnswerFormat, order: int) -> list[Any]:
        return self.prompts.policy_prefix(
            self.event.topic, signal, answer, order=self.orders[order], limits=self.limits
        )

    def _request(
        self, answer: AnswerFormat, pieces: Sequence[Any], order: Sequence[int] | None, seed: int
    ) -> ChatRequest:
        endpoint = self.endpoint
        common: dict[str, Any] = {
            "server": self.server,
            "messages": self.prompts.messages("policy", pieces),
            "seed": seed,
            "extra_body": dict(endpoint.extra_body or {}),
        }
        if not isinstance(answer, JsonAnswer):
            return ChatRequest(
                **common,
                read=partial(self.logprobs.read, order or ()),
                max_tokens=_LETTER_TOKENS + endpoint.reasoning_tokens,
                temperature=1.0,
                top_p=1.0,
                fields={"logprobs": True, "top_logprobs": endpoint.top_logprobs},
            )
        # A label that is drawn at another temperature would be of another distribution.
        sampling: dict[str, Any] = {} if "label" in answer.fields else SAMPLING_DEFAULTS["policy"]
        length = _JSON_TOKENS + (2 * self.max_new_tokens if "text" in answer.fields else 0)
        return ChatRequest(
            **common,
            read=partial(read_json, answer),
            max_tokens=length + endpoint.reasoning_tokens,
            temperature=sampling.get("temperature", 1.0),
            top_p=sampling.get("top_p", 1.0),
            fields={"response_format": response_format(answer.schema)},
            second_chances=1,
        )
