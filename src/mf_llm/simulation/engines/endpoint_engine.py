"""`EndpointEngine`: models behind servers answer, many questions at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mf_llm.atomic_files import write_json
from mf_llm.endpoints.asking_session import AskingSession
from mf_llm.endpoints.chat import Answer, ChatRequest
from mf_llm.endpoints.counters import Counters
from mf_llm.endpoints.endpoint import Endpoint
from mf_llm.errors import InputError
from mf_llm.evaluation.provenance import versions
from mf_llm.events import Event
from mf_llm.models.prompts import PROMPT_VERSION
from mf_llm.simulation.engines.answer_log import AnswerLog, logged_answers
from mf_llm.simulation.engines.chat_answers import LogprobReader
from mf_llm.simulation.engines.chat_prompts import CHAT_PROMPT_VERSION, LETTERS
from mf_llm.simulation.engines.endpoint_mean_field import EndpointMeanField
from mf_llm.simulation.engines.endpoint_policy import Asked, EndpointPolicy
from mf_llm.simulation.engines.question import Question
from mf_llm.simulation.signal_writing import SignalRequest
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step

logger = logging.getLogger(__name__)

ENDPOINT_FILE = "endpoint.json"
# How many rounds of requests the people of a step are, where nothing is said: while the last ones of a step are
# answered the server has less and less to do, and that is to be a small part.
ROUNDS = 6
# So many questions in a row without any reply, or twice as many as are in flight: the server is gone.
_GIVE_UP_AFTER = 20


class EndpointEngine:
    """Asks the people of all events that make a step together at once.

    Each answer is on disk as soon as it is there (`AnswerLog`). What was asked and what it cost stands in
    ``endpoint.json`` of the run folder, whether the run ended or was stopped.

    Args:
        endpoint: whom to ask, and how.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.counters = endpoint, Counters(endpoint.price_per_million)
        give_up_after = max(_GIVE_UP_AFTER, 2 * endpoint.concurrency)
        self._session = AskingSession(endpoint, give_up_after=give_up_after)
        self._logprobs, self._masses = LogprobReader(), _Masses()

    def default_config(self) -> SimulationConfig:
        """Nobody says how the models were trained."""
        return SimulationConfig()

    def fitted(self, config: SimulationConfig) -> SimulationConfig:
        """As it is: how much a server's model can read is not known.

        Raises:
            InputError: the readout needs a model in this process.
        """
        for name in ("anchored", "calibrated"):
            if getattr(config, name):
                raise InputError(
                    f"`{name}` must be False with an endpoint, got True; a server gives no likelihoods under a base "
                    "or without content to compare with; leave it out, or load the model (`MFLLMForSimulation`)."
                )
        if config.choice_temperature != 1:
            raise InputError(
                f"`choice_temperature` must be 1 with an endpoint, got {config.choice_temperature!r}; a server "
                "answers at the temperature it was asked for; leave it out, or load the model (`MFLLMForSimulation`)."
            )
        return config

    def versions(self) -> dict[str, Any]:
        """Packages and models; concurrency and the like are left out, since they change no answer."""
        prompts = {"prompt_version": PROMPT_VERSION, "chat_prompt_version": CHAT_PROMPT_VERSION}
        return versions(("huggingface_hub", "numpy")) | prompts | self.endpoint.fingerprint()

    @contextmanager
    def running(self, output: Path | None) -> Iterator[None]:
        """Connections are open while this lasts; behind it the counters are written and told."""
        for answer in logged_answers(output) if output is not None else ():
            self._count(answer)
        try:
            with self._session:
                yield
        finally:
            logger.info("%s", self.counters.describe())
            if output is not None and output.is_dir():
                told = {"servers": self.endpoint.addresses()} | self.endpoint.fingerprint() | self.counters.to_dict()
                write_json(output / ENDPOINT_FILE, told | {"option_mass": self._masses.to_dict()})

    def policy(
        self, event: Event, config: SimulationConfig, plan: Plan, anchor: np.ndarray | None, folder: Path | None
    ) -> EndpointPolicy:
        """See `Engine.policy`.

        Raises:
            InputError: there are more options than letters.
        """
        if config.readout == "exact" and len(plan.answer.options) > len(LETTERS):
            raise InputError(
                f'`readout` must be "sampled" for more than {len(LETTERS)} options with an endpoint, got '
                f"{len(plan.answer.options)} of event {event.event_id!r}; there is no letter for each of them."
            )
        return EndpointPolicy(self.endpoint, self._logprobs, event, config, plan, folder)

    def mean_field(self, event: Event, config: SimulationConfig, plan: Plan, folder: Path | None) -> EndpointMeanField:
        """See `Engine.mean_field`."""
        return EndpointMeanField(self.endpoint, event, config, plan, folder)

    def read_ahead(self, asking: Sequence[tuple[EndpointPolicy, Step, str | None]]) -> None:
        """Nothing: everybody is asked side by side in `write_texts`."""

    def write_texts(self, parts: Sequence[tuple[EndpointPolicy, Asked]]) -> list[None]:
        """Asks everybody; what they answered is in the `Asked`."""
        logs = [policy.log for policy, _ in parts]
        self._ask(logs, (one for policy, asked in parts for one in policy.first_questions(asked)))
        writers = [policy.writers(asked) for policy, asked in parts]
        writing = zip(parts, writers, strict=True)
        self._ask(logs, (one for (policy, asked), who in writing for one in policy.text_questions(asked, who)))
        return [None] * len(parts)

    def write_signals(self, requests: Sequence[SignalRequest]) -> list[tuple[str | None, str | None]]:
        """Asks for the signals of all events; what several ask alike (one warm-up of an ensemble) is asked once."""
        written: dict[int, tuple[str | None, str | None]] = {}
        asked: dict[str, list[int]] = {}
        questions = [one.mean_field.request(one.step, one.rows, one.previous) for one in requests]
        for place, question in enumerate(questions):
            asked.setdefault(question.key, []).append(place)

        def take_in(places: Sequence[int], answer: Answer) -> None:
            for place in places:
                written[place] = requests[place].mean_field.take_in(answer)

        self._ask(
            [one.mean_field.log for one in requests],
            (
                Question(
                    log=requests[places[0]].mean_field.log,
                    step=requests[places[0]].step.index,
                    turn=None,
                    purpose="signal",
                    request=questions[places[0]],
                    take_in=partial(take_in, places),
                )
                for places in asked.values()
            ),
        )
        return [written[place] for place in range(len(requests))]

    def _ask(self, logs: Sequence[AnswerLog], questions: Iterable[Question]) -> None:
        """Asks what is not known yet. Questions are made when their turn comes: a step may have very many."""
        open_questions: dict[int, Question] = {}

        def requests() -> Iterator[ChatRequest]:
            number = 0
            for question in questions:
                known = question.log.known(question.step, question.request.key)
                if known is not None:  # by an earlier run, and counted
                    question.take_in(known)
                    continue
                open_questions[number] = question
                number += 1
                yield question.request

        def answered(number: int, answer: Answer) -> None:
            one = open_questions.pop(number)
            one.log.add(step=one.step, turn=one.turn, purpose=one.purpose, key=one.request.key, answer=answer)
            self._count(answer)
            one.take_in(answer)

        with ExitStack() as stack:
            for log in logs:
                stack.enter_context(log.open())
            self._session.ask(requests(), answered)

    def _count(self, answer: Answer) -> None:
        self.counters.add(answer)
        if isinstance(answer.value, Mapping) and "mass" in answer.value:
            self._masses.add(answer.value["mass"])


class _Masses:
    """How much of their answers the exact readouts knew about."""

    def __init__(self) -> None:
        self._sum, self._n, self._least = 0.0, 0, 1.0

    def add(self, mass: float) -> None:
        self._sum, self._n, self._least = self._sum + mass, self._n + 1, min(self._least, mass)

    def to_dict(self) -> dict[str, float] | None:
        return {"mean": self._sum / self._n, "least": self._least} if self._n else None
