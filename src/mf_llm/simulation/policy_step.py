"""One step of the policy: everybody in the step acts on their own profile and on the shared signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from mf_llm.events import Event
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.simulation.bounds import max_new_tokens, prompt_limits
from mf_llm.simulation.generation import Generated, generate_keyed
from mf_llm.simulation.keyed_draws import draw_categories
from mf_llm.simulation.people_step import PeopleStep
from mf_llm.simulation.prefix_chunks import Parts, PrefixStems, encode_prefix
from mf_llm.simulation.readout import (
    SharedPrefix,
    anchored_probabilities,
    normalise,
    option_log_likelihoods,
)
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.shared_readings import Asked, SharedReadings
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation

# A topic without content (Zhao et al. 2021, arXiv 2102.09690), for `SimulationConfig.calibrated`.
CONTENT_FREE_TOPIC = "N/A"


@dataclass(frozen=True)
class Decisions:
    """What the N people of a step decided before anybody writes.

    Attributes:
        step: the step.
        segments: N token lists, each person's own part of the prompt.
        prefixes: the shared part of the prompts, one for each option order.
        labels: N indices of options, None where there is none.
        probabilities: ``[N, K]`` of the options, or None for free text.
        failures: N reasons why there is no decision, None where there is one.
        writers: who writes a text, indices into the N.
    """

    step: Step
    segments: list[list[int]]
    prefixes: list[SharedPrefix]
    labels: list[int | None]
    probabilities: np.ndarray | None
    failures: list[str | None]
    writers: tuple[int, ...]


class PolicyStep(PeopleStep):
    """Lets the people of a step act: they decide (`decide`), then some of them write (`write_texts`).

    Args:
        model, processor: the two models and their prompts.
        event: topic, states, weights and waves are read from it, nothing else.
        config, plan: how to simulate.
        anchor: ``[K]`` shares for the anchored readout, or None.
        shared: what is read in common with other events and seeds; by default with none.
    """

    def __init__(
        self,
        model: MFLLMForSimulation,
        processor: MFLLMProcessor,
        event: Event,
        config: SimulationConfig,
        plan: Plan,
        anchor: np.ndarray | None,
        shared: SharedReadings | None = None,
    ) -> None:
        super().__init__(event, config, plan)
        self._shared = shared or SharedReadings()
        self.backbone, self.model, self.processor, self.anchor = model.backbone("policy"), model, processor, anchor
        self.limits = prompt_limits(config)
        self.generation_config = model.generation_config_of("policy")
        self.max_new_tokens = max_new_tokens(model, "policy", config)
        options = plan.answer.options
        self.options = processor.option_ids(plan.answer) if options else []
        # Anchored, the model says how far to go from `anchor`: nowhere without adapters, and then it is not asked.
        self.reads_options = bool(options) and (anchor is None or model.has_adapters("policy"))
        self._tuned: dict[Parts, SharedPrefix] = {}
        self._base: dict[Parts, SharedPrefix] = {}
        self.stems = PrefixStems(self.backbone, self._shared.tuned)
        self.base_stems = PrefixStems(self.backbone, self._shared.base)
        self._counted: list[Parts] = []
        self._free: list[np.ndarray] | None = None
        self._segments: tuple[Step, list[list[int]]] | None = None

    def recall(self, signal: str | None) -> None:
        """Says what the people of the step before saw, where that step was made in an earlier run.

        An uninterrupted run would still hold its shared prefixes; the tokens of a resumed one are counted likewise.
        """
        self._counted = self.prefix_parts(signal)

    def act(self, step: Step, signal: str | None, advance: Callable[[int], None] = lambda n: None) -> list[ActionRow]:
        """The actions of the people of `step`, in their order.

        Args:
            step: a step after the warm-up.
            signal: what they see of the population, or None for nothing.
            advance: told how many people are done, now and then.
        """
        decisions = self.decide(step, signal, advance)
        return self.rows(decisions, write_texts([(self, decisions)])[0], advance)

    def decide(self, step: Step, signal: str | None, advance: Callable[[int], None] = lambda n: None) -> Decisions:
        """What everybody in `step` decides; see `act` for the arguments."""
        segments = self.segments(step)
        # A choice that is drawn from `anchor` alone needs no prompt.
        prefixes = self._prefixes(signal) if self.reads_options or self.plan.answer.kind != "choice" else []
        labels: list[int | None] = [None] * len(segments)
        probabilities: np.ndarray | None = None
        failures: list[str | None] = [None] * len(segments)
        if self.options:
            told = advance if self.plan.answer.kind == "choice" else None
            probabilities = self._probabilities(step, segments, prefixes, told)
            finite = np.isfinite(probabilities).all(axis=1)
            failures = [None if ok else "non_finite_logits" for ok in finite]
            keys = [self._key(step, i, "label") for i in step.turns]
            drawn = draw_categories(np.where(finite[:, None], probabilities, 1.0 / len(self.options)), keys)
            labels = [int(k) if ok else None for k, ok in zip(drawn, finite, strict=True)]
        writers = self._writers(step, labels, failures)
        return Decisions(step, segments, prefixes, labels, probabilities, failures, writers)

    def rows(
        self,
        decisions: Decisions,
        generated: Sequence[Generated],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[ActionRow]:
        """The actions of the people of a step.

        Args:
            decisions: from `decide`.
            generated: what each of its writers wrote.
            advance: told how many people are done.
        """
        texts, failures = [""] * len(decisions.segments), list(decisions.failures)
        for n, one in zip(decisions.writers, generated, strict=True):
            texts[n], failures[n] = self._read(one)
        if self.plan.answer.kind != "choice":
            advance(len(texts))
        p = decisions.probabilities
        return [
            self._row(decisions.step, n, decisions.labels[n], p[n] if p is not None else None, texts[n], failures[n])
            for n in range(len(texts))
        ]

    def text_prompts(self, decisions: Decisions) -> tuple[list[SharedPrefix], list[list[int]], list[int]]:
        """Shared prefix, own part of the prompt and stream key of each writer."""
        prefixes, prompts, keys = [], [], []
        for n in decisions.writers:
            turn, label = decisions.step.turns[n], decisions.labels[n]
            prefixes.append(decisions.prefixes[self._order_of(turn)])
            prompts.append(decisions.segments[n] + (self.options[label] if label is not None else []))
            keys.append(self._key(decisions.step, turn, "text"))
        self.prompt_tokens += sum(map(len, prompts))
        return prefixes, prompts, keys

    def _prefixes(self, signal: str | None) -> list[SharedPrefix]:
        """One shared prefix per option order; kept while the signal stays the same (the baseline without one)."""
        orders = self.prefix_parts(signal)
        anchored = self.anchor is not None and self.reads_options
        new = set(orders) - set(self._counted)
        self.prompt_tokens += sum(map(_length, new)) * (2 if anchored else 1)
        self._tuned = _renewed(self._tuned, self.stems, orders)
        if anchored:
            with self.model.adapters_disabled("policy"):
                self._base = _renewed(self._base, self.base_stems, orders)
        self._counted = orders
        return [self._tuned[parts] for parts in orders]

    def prefix_parts(self, signal: str | None, topic: str | None = None) -> list[Parts]:
        """The pieces of the shared part of the prompts, for each option order."""
        topic, answer = self.event.topic if topic is None else topic, self.plan.answer
        build = partial(self.processor.policy_prefix_parts, topic, signal, answer, limits=self.limits)
        return [tuple(map(tuple, build(order=order))) for order in self.orders]

    def _probabilities(
        self,
        step: Step,
        segments: Sequence[Sequence[int]],
        prefixes: Sequence[SharedPrefix],
        advance: Callable[[int], None] | None,
    ) -> np.ndarray:
        if not self.reads_options:
            if advance is not None:
                advance(len(segments))
            assert self.anchor is not None  # without an anchor options are read
            return np.tile(self.anchor, (len(segments), 1))  # f = 0: nothing was tuned
        result = np.empty((len(segments), len(self.options)))
        content_free = self._content_free(step) if self.config.calibrated else None
        for o, asked in enumerate(self.asked_in_orders(step)):
            if asked:
                rows = self._rows_in_order(step, o)
                result[rows] = self._in_order(step, o, asked, content_free, advance)
        return result

    def segments(self, step: Step) -> list[list[int]]:
        """Each person's own part of the prompt, encoded once for the step."""
        if self._segments is None or self._segments[0] is not step:
            states, answer = [self.event.turns[i].state for i in step.profiles], self.plan.answer
            self._segments = step, [self.processor.person_segment(one, answer, limits=self.limits) for one in states]
        return self._segments[1]

    def asked_in_orders(self, step: Step) -> list[list[list[int]]]:
        """For each option order the segments of those who are asked in it: the people of a step take turns."""
        segments = self.segments(step)
        return [[segments[n] for n in self._rows_in_order(step, o)] for o in range(len(self.orders))]

    def take_in(self, prefix: SharedPrefix, segments: Sequence[Sequence[int]], step: Step, scores: np.ndarray) -> None:
        """Keeps log-likelihoods that were read ahead (`mf_llm.simulation.joint_reading`) until people decide."""
        self._shared.take_in(prefix, self._asked(segments), step.index, scores)

    def _asked(self, segments: Sequence[Sequence[int]]) -> Asked:
        return segments, self.options, self.config.batch_tokens

    def _rows_in_order(self, step: Step, o: int) -> list[int]:
        return [n for n, turn in enumerate(step.turns) if self._order_of(turn) == o]

    def _in_order(
        self,
        step: Step,
        o: int,
        segments: Sequence[Sequence[int]],
        content_free: Sequence[np.ndarray] | None,
        advance: Callable[[int], None] | None,
    ) -> np.ndarray:
        """``[N, K]`` probabilities of the options, listed in order `o`, of the people with these segments."""
        scores = self._scores(step, self._tuned[self._counted[o]], segments, advance)
        if self.anchor is not None:
            with self.model.adapters_disabled("policy"):
                base = self._scores(step, self._base[self._counted[o]], segments)
            return anchored_probabilities(self.anchor, scores, base)
        temperature = self.config.choice_temperature
        if content_free is not None:
            return calibrated_probabilities(scores / temperature, content_free[o] / temperature)
        return normalise(scores / temperature)

    def _content_free(self, step: Step) -> list[np.ndarray]:
        """``[K]`` log-likelihoods of the options where there is nothing to go by, for each option order."""
        # In one piece: once for an event there is little to spare.
        prompts = [(tuple(chain.from_iterable(parts)),) for parts in self.prefix_parts(None, CONTENT_FREE_TOPIC)]
        segment = self.processor.person_segment({}, self.plan.answer, limits=self.limits)
        if step.index == next(one.index for one in self.plan.steps if not one.real):
            # Once for the event, and in that step; a resumed run asks again but counts like an uninterrupted one.
            own = len(segment) + sum(map(len, self.options))
            self.prompt_tokens += sum(_length(parts) + own for parts in prompts)
        if self._free is None:
            prefixes = [encode_prefix(PrefixStems(self.backbone), parts) for parts in prompts]
            self._free = [option_log_likelihoods(self.backbone, p, [segment], self.options)[0] for p in prefixes]
        return self._free

    def _scores(
        self,
        step: Step,
        prefix: SharedPrefix,
        segments: Sequence[Sequence[int]],
        advance: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        # The tokens that the rollout needs, whether or not another one has read them already.
        self.prompt_tokens += sum(len(s) + sum(map(len, self.options)) for s in {tuple(s) for s in segments})
        told = 0

        def read() -> np.ndarray:
            nonlocal told
            told = len(segments)
            backbone, batch_tokens = self.backbone, self.config.batch_tokens
            return option_log_likelihoods(
                backbone, prefix, segments, self.options, batch_tokens=batch_tokens, advance=advance
            )

        scores = self._shared.scores(prefix, self._asked(segments), step.index, read)
        if advance is not None:
            advance(len(segments) - told)
        return scores

    def _read(self, generated: Generated) -> tuple[str, str | None]:
        self.new_tokens += len(generated.ids)
        text = "" if generated.failure else self.processor.read_answer("policy", generated.ids, first_line=True)
        if generated.failure is None and not text and self.plan.answer.kind == "text":
            return "", "empty_text"  # with a label in front, an answer without words is an answer
        return text, generated.failure


def write_texts(parts: Sequence[tuple[PolicyStep, Decisions]]) -> list[list[Generated]]:
    """Lets the writers of several events write at once, each behind the shared prefix of their own event and order.

    Args:
        parts: events of one simulation, with what their people decided: the same model and settings.

    Returns:
        For each part, what its writers wrote.
    """
    if not parts:
        return []
    asked = [policy.text_prompts(decisions) for policy, decisions in parts]
    policy = parts[0][0]
    written = generate_keyed(
        policy.backbone,
        [prefix for prefixes, _, _ in asked for prefix in prefixes],
        [prompt for _, prompts, _ in asked for prompt in prompts],
        [key for _, _, keys in asked for key in keys],
        generation_config=policy.generation_config,
        end_ids=policy.processor.frame("policy").end_ids,
        max_new_tokens=policy.max_new_tokens,
        line_break_ids=policy.processor.line_break_ids("policy"),
        batch_tokens=policy.config.batch_tokens,
    )
    rest = iter(written)
    return [[next(rest) for _ in keys] for _, _, keys in asked]


def _renewed(
    known: Mapping[Parts, SharedPrefix], stems: PrefixStems, orders: Sequence[Parts]
) -> dict[Parts, SharedPrefix]:
    """The prefixes of the option orders, those that are `known` as they are; the others are let go."""
    return {parts: known.get(parts) or encode_prefix(stems, parts) for parts in dict.fromkeys(orders)}


def _length(parts: Parts) -> int:
    return sum(map(len, parts))


def calibrated_probabilities(scores: np.ndarray, content_free: np.ndarray) -> np.ndarray:
    """Content-free calibration, ``p(k) proportional to pi(k | prompt) / pi(k | content-free prompt)``.

    Source: Zhao et al. 2021, arXiv 2102.09690, with the whole text of an option in place of its first token.

    Args:
        scores: ``[N, K]`` log-likelihoods of the options under the prompts.
        content_free: ``[K]`` the same under a prompt without content, in the same option order.

    Returns:
        ``[N, K]`` probabilities; not finite where a log-likelihood is not.
    """
    return normalise(scores - content_free)
