"""One step of the policy: everybody in the step acts on their own profile and on the shared signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mf_llm.events import Event
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.models.prompts import render_state
from mf_llm.simulation.bounds import max_new_tokens, prompt_limits
from mf_llm.simulation.generation import Generated, generate_keyed
from mf_llm.simulation.keyed_draws import draw_categories, permutation, stream_key
from mf_llm.simulation.readout import (
    SharedPrefix,
    anchored_probabilities,
    encode_prefix,
    normalise,
    option_log_likelihoods,
    option_orders,
)
from mf_llm.simulation.rollout import FAILED, SIMULATED, ActionRow
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


class PolicyStep:
    """Lets the people of a step act.

    Args:
        model, processor: the two models and their prompts.
        event: topic, states, weights and waves are read from it, nothing else.
        config, plan: how to simulate.
        carry: ``[K]`` carry-forward shares for the anchored readout, or None.
    """

    def __init__(
        self,
        model: MFLLMForSimulation,
        processor: MFLLMProcessor,
        event: Event,
        config: SimulationConfig,
        plan: Plan,
        carry: np.ndarray | None,
    ) -> None:
        self.backbone, self.model, self.processor = model.backbone("policy"), model, processor
        self.event, self.config, self.plan, self.carry = event, config, plan, carry
        self.limits = prompt_limits(config)
        self.generation_config = model.generation_config_of("policy")
        self.max_new_tokens = max_new_tokens(model, "policy", config)
        options = plan.answer.options
        first = permutation(len(options), stream_key(config.seed, event.event_id, "option order"))
        self.orders: list[list[int] | None] = [*option_orders(first, config.option_orders)] if options else [None]
        self.options = processor.option_ids(plan.answer) if options else []
        self.prompt_tokens = self.new_tokens = 0
        self._prefixes: dict[tuple[int, ...], SharedPrefix] = {}
        self._counted: set[tuple[int, ...]] = set()

    def recall(self, signal: str | None) -> None:
        """Says what the people of the step before saw, where that step was made in an earlier run.

        An uninterrupted run would still hold its shared prefixes; the tokens of a resumed one are counted likewise.
        """
        self._counted = {tuple(ids) for ids in self._prefix_ids(signal)}

    def act(self, step: Step, signal: str | None, advance: Callable[[int], None] = lambda n: None) -> list[ActionRow]:
        """The actions of the people of `step`, in their order.

        Args:
            step: a step after the warm-up.
            signal: what they see of the population, or None for nothing.
            advance: told how many people are done, now and then.
        """
        states = [self.event.turns[i].state for i in step.turns]
        segments = [self.processor.person_segment(state, self.plan.answer, limits=self.limits) for state in states]
        prefixes = self._encode_prefixes(signal)
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
        texts = self._texts(step, segments, prefixes, labels, failures)
        if self.plan.answer.kind != "choice":
            advance(len(segments))
        return [
            self._row(
                step, n, labels[n], probabilities[n] if probabilities is not None else None, texts[n], failures[n]
            )
            for n in range(len(segments))
        ]

    def _order_of(self, turn: int) -> int:
        return turn % len(self.orders)

    def _key(self, step: Step, turn: int, purpose: str) -> int:
        return stream_key(self.config.seed, self.event.event_id, step.index, turn, purpose)

    def _encode_prefixes(self, signal: str | None) -> list[SharedPrefix]:
        """One shared prefix per option order; kept while the signal stays the same (the baseline without one)."""
        all_ids = [tuple(ids) for ids in self._prefix_ids(signal)]
        self.prompt_tokens += sum(len(ids) for ids in set(all_ids) - self._counted)
        self._prefixes = {ids: self._prefixes.get(ids) or encode_prefix(self.backbone, ids) for ids in set(all_ids)}
        self._counted = set(all_ids)
        return [self._prefixes[ids] for ids in all_ids]

    def _prefix_ids(self, signal: str | None) -> list[list[int]]:
        """The shared part of the prompts, one for each option order."""
        topic, answer = self.event.topic, self.plan.answer
        return [
            self.processor.policy_prefix(topic, signal, answer, order=order, limits=self.limits)
            for order in self.orders
        ]

    def _probabilities(
        self,
        step: Step,
        segments: Sequence[Sequence[int]],
        prefixes: Sequence[SharedPrefix],
        advance: Callable[[int], None] | None,
    ) -> np.ndarray:
        if self.carry is not None and not self.model.has_adapters("policy"):
            if advance is not None:
                advance(len(segments))
            return np.tile(self.carry, (len(segments), 1))  # f = 0: nothing was tuned
        result = np.empty((len(segments), len(self.options)))
        for o, prefix in enumerate(prefixes):
            rows = [n for n, turn in enumerate(step.turns) if self._order_of(turn) == o]
            if not rows:
                continue
            chosen = [segments[n] for n in rows]
            scores = self._scores(prefix, chosen, advance)
            if self.carry is None:
                result[rows] = normalise(scores)
            else:
                self.prompt_tokens += len(prefix.ids)
                with self.model.adapters_disabled("policy"):
                    base = self._scores(encode_prefix(self.backbone, prefix.ids), chosen)
                result[rows] = anchored_probabilities(self.carry, scores, base)
        return result

    def _scores(
        self,
        prefix: SharedPrefix,
        segments: Sequence[Sequence[int]],
        advance: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        self.prompt_tokens += sum(len(s) + sum(map(len, self.options)) for s in {tuple(s) for s in segments})
        return option_log_likelihoods(
            self.backbone,
            prefix,
            segments,
            self.options,
            batch_tokens=self.config.batch_tokens,
            advance=advance,
        )

    def _texts(
        self,
        step: Step,
        segments: Sequence[list[int]],
        prefixes: Sequence[SharedPrefix],
        labels: Sequence[int | None],
        failures: list[str | None],
    ) -> list[str]:
        """What each person writes; `failures` is filled in where a generation failed."""
        answer, texts = self.plan.answer, [""] * len(segments)
        if answer.kind == "choice":
            return texts
        silent = {k for k, option in enumerate(answer.options) if option in self.plan.silent}
        for o, prefix in enumerate(prefixes):
            rows = [
                n
                for n, turn in enumerate(step.turns)
                if self._order_of(turn) == o and failures[n] is None and labels[n] not in silent
            ]
            if not rows:
                continue
            prompts = [segments[n] + (self.options[k] if (k := labels[n]) is not None else []) for n in rows]
            self.prompt_tokens += sum(map(len, prompts))
            generated = generate_keyed(
                self.backbone,
                prefix,
                prompts,
                [self._key(step, step.turns[n], "text") for n in rows],
                generation_config=self.generation_config,
                end_ids=self.processor.frame("policy").end_ids,
                max_new_tokens=self.max_new_tokens,
                line_break_ids=self.processor.line_break_ids("policy"),
                batch_tokens=self.config.batch_tokens,
            )
            for n, one in zip(rows, generated, strict=True):
                texts[n], failures[n] = self._read(one)
        return texts

    def _read(self, generated: Generated) -> tuple[str, str | None]:
        self.new_tokens += len(generated.ids)
        text = "" if generated.failure else self.processor.read_answer("policy", generated.ids, first_line=True)
        if generated.failure is None and not text and self.plan.answer.kind == "text":
            return "", "empty_text"  # with a label in front, an answer without words is an answer
        return text, generated.failure

    def _row(
        self,
        step: Step,
        n: int,
        label: int | None,
        probabilities: np.ndarray | None,
        text: str,
        failure: str | None,
    ) -> ActionRow:
        turn = self.event.turns[step.turns[n]]
        exact = probabilities is not None and self.config.readout == "exact" and failure is None
        return ActionRow(
            step=step.index,
            turn=step.turns[n],
            weight=turn.weight,
            wave=turn.wave,
            state="; ".join(render_state(turn.state)),
            text=text if failure is None else "",
            label=self.plan.answer.options[label] if label is not None and failure is None else None,
            probabilities=tuple(float(p) for p in probabilities) if exact and probabilities is not None else None,
            source=SIMULATED if failure is None else FAILED,
            failure=failure,
        )
