"""Signals of transitions, drawn from the current mean-field model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mf_llm.simulation.generation import Generated, answer_ends
from mf_llm.simulation.keyed_draws import stream_key, uniform_number
from mf_llm.simulation.signal_draws import draw_signals
from mf_llm.training.data_collator import DataCollatorForIBTune, Transition

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class DrawnSignals:
    """K signals of one transition.

    Attributes:
        prompt: the tokens they were drawn from.
        ids: K token lists, the end token included where it was drawn.
        texts: K texts, as people see them ("" for an empty one).
        carried: index of the one that is handed on, drawn uniformly.
    """

    prompt: list[int]
    ids: list[list[int]]
    texts: list[str]
    carried: int


class SignalSampler:
    """Draws signals by the rules of training: exactly from the q that is scored.

    Args:
        backbone: the mean-field model.
        collator: prompts.
        temperature, max_new_tokens: of q.
        seed: of the keyed draws.
        batch_tokens: tokens per batch.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        collator: DataCollatorForIBTune,
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        batch_tokens: int,
    ) -> None:
        self.backbone, self.collator = backbone, collator
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.seed, self.batch_tokens = seed, batch_tokens
        self.tokens_drawn = 0

    def draw(self, transitions: Sequence[Transition], count: int, turn: str | int) -> list[DrawnSignals | None]:
        """K signals for each transition; None for one without a history.

        The signals of the earlier steps of a history are drawn first, one each and all transitions together; each is
        what the next step's prompt calls the summary so far. No gradient flows through them.

        Args:
            transitions: rows of `build_transitions`.
            count: K.
            turn: names the draw (the optimiser step); the same name gives the same noise.
        """
        previous: list[str | None] = [None] * len(transitions)
        for step in range(max((len(t["history"]) for t in transitions), default=0) - 1):
            going = [i for i, t in enumerate(transitions) if step < len(t["history"]) - 1]
            drawn = self._draw([transitions[i] for i in going], [step] * len(going), previous, going, 1, turn)
            for i, one in zip(going, drawn, strict=True):
                previous[i] = one.texts[0] or previous[i]
        going = [i for i, t in enumerate(transitions) if t["history"]]
        last = [len(transitions[i]["history"]) - 1 for i in going]
        result: list[DrawnSignals | None] = [None] * len(transitions)
        drawn = self._draw([transitions[i] for i in going], last, previous, going, count, turn)
        for i, one in zip(going, drawn, strict=True):
            result[i] = one
        return result

    def _draw(
        self,
        transitions: Sequence[Transition],
        steps: Sequence[int],
        previous: Sequence[str | None],
        places: Sequence[int],
        count: int,
        turn: str | int,
    ) -> list[DrawnSignals]:
        if not transitions:
            return []
        names = [(self.seed, t["data_set"], t["event_id"], t["draw"], turn) for t in transitions]
        prompts = [
            self.collator.mean_field_prompt(t, step, previous[i])
            for t, step, i in zip(transitions, steps, places, strict=True)
        ]
        processor = self.collator.processor
        drawn = draw_signals(
            self.backbone,
            prompts,
            [
                [stream_key(*name, step, k, "signal") for k in range(count)]
                for name, step in zip(names, steps, strict=True)
            ],
            temperature=self.temperature,
            end_ids=answer_ends(processor.frame("mean_field").end_ids, self.backbone.generation_config),
            max_new_tokens=self.max_new_tokens,
            batch_tokens=self.batch_tokens,
        )
        result = []
        for transition, name, prompt, answers in zip(transitions, names, prompts, drawn, strict=True):
            if any(answer.failure for answer in answers):
                raise FloatingPointError(
                    f"The mean-field model gave no distribution for a signal of event {transition['event_id']!r}: its "
                    "logits are not finite; the weights have diverged; go back to a checkpoint with a lower "
                    "`learning_rate`."
                )
            self.tokens_drawn += sum(len(answer.ids) for answer in answers)
            result.append(
                DrawnSignals(
                    prompt=prompt,
                    ids=[_with_end(answer) for answer in answers],
                    texts=[processor.read_answer("mean_field", answer.ids) for answer in answers],
                    carried=min(int(uniform_number(stream_key(*name, "carried")) * count), count - 1),
                )
            )
        return result


def _with_end(answer: Generated) -> list[int]:
    # At the length cap the end is forced: it has no probability, in q as in the prior.
    return [*answer.ids, *([] if answer.end is None else [answer.end])]
