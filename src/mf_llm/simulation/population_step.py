"""One step of a population: every distinct state is asked once, its people are counted, a few of them are heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mf_llm.simulation.generation import Generated
from mf_llm.simulation.keyed_draws import keyed_generator, stream_key, uniform_number
from mf_llm.simulation.policy_step import Decisions, PolicyStep
from mf_llm.simulation.readout import SharedPrefix
from mf_llm.simulation.rollout import ActionRow
from mf_llm.simulation.steps import Step


@dataclass(frozen=True)
class Speaker:
    """One person of the sample whose action is told to the mean-field model.

    Attributes:
        number: which of the N people it is; those of one state stand side by side.
        state: index of the state.
        option: index of what they chose.
    """

    number: int
    state: int
    option: int


@dataclass(frozen=True)
class PopulationDecisions(Decisions):
    """What the people of S states decided. The `writers` are indices into the speakers; nobody else has a label.

    Attributes:
        counts: ``[S, K]`` how many people of a state chose which option; 0 for a state whose reading failed.
        speakers: the sample.
    """

    probabilities: np.ndarray
    counts: np.ndarray
    speakers: tuple[Speaker, ...]


class PopulationStep(PolicyStep):
    """Lets a population act (method, section 2, the mean-field limit); see `PolicyStep`.

    A state is read in every option order, since its people take turns, and what they choose is the mean. How many of
    them choose what is a keyed multinomial draw. Of all people a keyed sample of `listed_actions` (drawn without
    replacement, so that it represents them) is heard: each has a row of their own with what they chose and, where
    actions have texts, a text. The row of a state stands for the rest.
    """

    def decide(
        self, step: Step, signal: str | None, advance: Callable[[int], None] = lambda n: None
    ) -> PopulationDecisions:
        """What everybody decides; see `PolicyStep.act` for the arguments."""
        segments = self.segments(step)
        prefixes = self._prefixes(signal) if self.reads_options or self.plan.answer.kind != "choice" else []
        probabilities = self._probabilities(step, segments, prefixes, advance)
        finite = np.isfinite(probabilities).all(axis=1)
        counts = np.zeros(probabilities.shape, dtype=np.int64)
        for n in np.flatnonzero(finite):
            generator = keyed_generator(self._key(step, step.turns[n], "counts"))
            counts[n] = generator.multinomial(step.counts[n], probabilities[n] / probabilities[n].sum())
        speakers = self._speakers(step, counts)
        return PopulationDecisions(
            step=step,
            segments=segments,
            prefixes=prefixes,
            labels=[None] * len(segments),
            probabilities=probabilities,
            failures=[None if ok else "non_finite_logits" for ok in finite],
            writers=self._speakers_who_write(step, speakers),
            counts=counts,
            speakers=speakers,
        )

    def rows(  # type: ignore[override]
        self,
        decisions: PopulationDecisions,
        generated: Sequence[Generated],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[ActionRow]:
        """One row for each state (its people but for the speakers), then one for each speaker."""
        step, p, rest = decisions.step, decisions.probabilities, decisions.counts.copy()
        written = dict(zip(decisions.writers, map(self._read, generated), strict=True))
        spoken = []
        for place, one in enumerate(decisions.speakers):
            rest[one.state, one.option] -= 1
            text, failure = written.get(place, ("", None))
            row = self._row(step, one.state, one.option, p[one.state], text, failure)
            spoken.append(replace(row, weight=self._weight_each(step, one.state)))
        states = []
        for n, failure in enumerate(decisions.failures):
            row = self._row(step, n, None, p[n], "", failure)
            if failure is None:
                heard = int((decisions.counts[n] - rest[n]).sum())
                weight = self._weight(step, n) - heard * self._weight_each(step, n)
                row = replace(row, weight=weight, counts=tuple(map(int, rest[n])))
            states.append(row)
        return states + spoken

    def text_prompts(  # type: ignore[override]
        self, decisions: PopulationDecisions
    ) -> tuple[list[SharedPrefix], list[list[int]], list[int]]:
        """Shared prefix, own part of the prompt and stream key of each writer."""
        prefixes, prompts, keys = [], [], []
        for place in decisions.writers:
            one = decisions.speakers[place]
            prefixes.append(decisions.prefixes[one.number % len(self.orders)])
            prompts.append(decisions.segments[one.state] + self.options[one.option])
            keys.append(self._person_key(decisions.step, one, "text"))
        self.prompt_tokens += sum(map(len, prompts))
        return prefixes, prompts, keys

    def _probabilities(
        self,
        step: Step,
        segments: Sequence[Sequence[int]],
        prefixes: Sequence[SharedPrefix],
        advance: Callable[[int], None] | None,
    ) -> np.ndarray:
        if not self.reads_options:
            return super()._probabilities(step, segments, prefixes, advance)
        content_free = self._content_free(step) if self.config.calibrated else None
        last = len(prefixes) - 1  # states are counted as done when they were read in the last order
        read = [
            self._in_order(step, o, segments, content_free, advance if o == last else None)
            for o in range(len(prefixes))
        ]
        return np.mean(read, axis=0)

    def segments(self, step: Step) -> list[list[int]]:
        """See `PolicyStep.segments`; the same states act in every step."""
        if self._segments is not None:
            return self._segments[1]
        return super().segments(step)

    def asked_in_orders(self, step: Step) -> list[list[list[int]]]:
        """Every state in every order."""
        return [self.segments(step)] * len(self.orders)

    def _speakers(self, step: Step, counts: np.ndarray) -> tuple[Speaker, ...]:
        """A keyed sample of the N people, without those whose state failed."""
        n_people, size = step.n_people, min(self.config.listed_actions, step.n_people)
        generator = keyed_generator(stream_key(self.config.seed, self.event.event_id, step.index, "speakers"))
        numbers = np.sort(generator.choice(n_people, size, replace=False, shuffle=False))
        ends = np.cumsum(step.counts)
        states = np.searchsorted(ends, numbers, side="right")
        speakers = []
        for number, n in zip(numbers.tolist(), states.tolist(), strict=True):
            # The people of a state stand in the order of what they chose; the sample does not know of it.
            place = number - int(ends[n]) + step.counts[n]
            if counts[n].any():
                option = int(np.searchsorted(np.cumsum(counts[n]), place, side="right"))
                speakers.append(Speaker(number, n, option))
        return tuple(speakers)

    def _speakers_who_write(self, step: Step, speakers: Sequence[Speaker]) -> tuple[int, ...]:
        if self.plan.answer.kind == "choice":
            return ()
        options = self.plan.answer.options
        able = [place for place, one in enumerate(speakers) if options[one.option] not in self.plan.silent]
        by_number = sorted(able, key=lambda i: uniform_number(self._person_key(step, speakers[i], "writer")))
        return tuple(sorted(by_number[: self.config.writers]))

    def _weight(self, step: Step, n: int) -> float:
        """What the people of a state weigh in the shares: exact ones know fractions, counted ones whole people."""
        return self.event.turns[step.turns[n]].weight if self.config.readout == "exact" else float(step.counts[n])

    def _weight_each(self, step: Step, n: int) -> float:
        return self._weight(step, n) / max(step.counts[n], 1)

    def _person_key(self, step: Step, one: Speaker, purpose: str) -> int:
        return stream_key(self.config.seed, self.event.event_id, step.index, "person", one.number, purpose)
