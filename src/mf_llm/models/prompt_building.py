"""The prompts of both roles, put together out of their words and of what people wrote, within bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.models.encoding import DataEncoder, newest_that_fit, one_line, share_budget
from mf_llm.models.prompts import NO_SIGNAL_YET, NO_STATE, AnswerFormat, ChatFrame, render_state
from mf_llm.models.wordings import Wording


@dataclass(frozen=True, kw_only=True)
class PromptLimits:
    """How many tokens each part of a prompt may take; longer parts are cut, the instruction and the answer never.

    Attributes:
        max_prompt_tokens: bound of a whole prompt, whatever the history.
        max_state_tokens: bound of a profile; its longest fields are cut first.
        max_action_tokens: bound of one listed action.
    """

    max_prompt_tokens: int = 1024
    max_state_tokens: int = 256
    max_action_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_state_tokens", "max_action_tokens"):
            check_whole(name, getattr(self, name), minimum=8, why=", or no prompt can be built")


class PromptBuilder:
    """Builds prompts out of tokens: token ids of a tokenizer, or pieces of text where a server tokenises.

    What stands around a prompt and how text becomes tokens is the affair of `frame` and `encoder`.
    """

    _words: Wording

    def frame(self, role: str) -> ChatFrame:
        """What stands around the prompts of a role."""
        raise NotImplementedError

    def encoder(self, role: str) -> DataEncoder:
        """Encodes text for a role: no control token can come out of what people wrote."""
        raise NotImplementedError

    def policy_prefix(
        self,
        topic: str,
        signal: str | None,
        answer: AnswerFormat,
        *,
        order: Sequence[int] | None = None,
        limits: PromptLimits | None = None,
    ) -> list[int]:
        """The part of a policy prompt that all people of a step share.

        Args:
            topic: what people react to.
            signal: the population signal, or None for no signal section (the baseline `state`). Its lines are kept.
            answer: what may be answered.
            order: order in which the options are listed.
            limits: bounds; the topic and the signal share what is left of them.

        Returns:
            Token ids, ending at the start of the line where the person begins.
        """
        parts = self.policy_prefix_parts(topic, signal, answer, order=order, limits=limits)
        return [token for part in parts for token in part]

    def policy_prefix_parts(
        self,
        topic: str,
        signal: str | None,
        answer: AnswerFormat,
        *,
        order: Sequence[int] | None = None,
        limits: PromptLimits | None = None,
    ) -> list[list[int]]:
        """`policy_prefix` in pieces, what changes least in front; same arguments.

        Returns:
            Token ids of: instruction and topic; the signal section (left out without a signal); what may be answered,
            up to the line where the person begins. A topic is cut differently under another signal where the two
            together are too long, so that the first piece can differ between the steps of an event.
        """
        limits = limits or PromptLimits()
        encode, frame, words = self.encoder("policy").encode, self.frame("policy"), self._words
        fixed = [
            [*frame.head, *encode(f"{words.topic}\n")],
            encode(f"\n\n{words.signal}\n") if signal is not None else [],
            encode(f"\n\n{answer.task(order)}\n\n{words.person}\n"),
        ]
        used = sum(map(len, fixed)) + len(frame.tail) + len(encode(answer.opening)) + limits.max_state_tokens
        texts = [words.topic_text(topic), _lines(signal or "")]
        data = self._bounded("policy", texts, limits.max_prompt_tokens - used, limits)
        parts = [fixed[0] + data[0], fixed[1] + data[1], fixed[2]]
        return [part for part in parts if part]

    def person_segment(
        self, state: Mapping[str, Any] | str, answer: AnswerFormat, *, limits: PromptLimits | None = None
    ) -> list[int]:
        """The part of a policy prompt that is one person's own: the profile and the opening of the answer.

        Args:
            state: the profile.
            answer: what may be answered; its opening stands at the head of the answer.
            limits: bounds.

        Returns:
            Token ids; prompt = `policy_prefix` + `person_segment`.
        """
        limits = limits or PromptLimits()
        encoder = self.encoder("policy")
        newline = encoder.encode("\n")
        lines = render_state(state) or [NO_STATE]
        fields = [encoder.encode_bounded(line, limits.max_state_tokens) for line in lines]
        budget = limits.max_state_tokens - len(newline) * (len(lines) - 1)
        if sum(map(len, fields)) > budget:
            # A few tokens of a field say nothing: of very many fields the first are kept.
            lines = lines[: max(1, limits.max_state_tokens // (12 + len(newline)))]
            fields = fields[: len(lines)]
            budget = limits.max_state_tokens - len(newline) * (len(lines) - 1)
        kept = share_budget([len(ids) for ids in fields], budget)
        segment: list[int] = []
        for line, ids, length in zip(lines, fields, kept, strict=True):
            if length:
                segment += newline if segment else []
                segment += ids if length == len(ids) else encoder.encode_bounded(line, length)
        return segment + list(self.frame("policy").tail) + encoder.encode(answer.opening)

    def mean_field_prompt(
        self,
        topic: str,
        previous: str | None,
        lines: Sequence[str],
        *,
        tally: str | None = None,
        limits: PromptLimits | None = None,
    ) -> list[int]:
        """The prompt that asks the mean-field model for the next signal.

        Args:
            topic: what people react to.
            previous: the signal so far, or None.
            lines: one line per listed action, oldest first; the oldest are dropped where they do not all fit.
            tally: the shares of this step in words, or None.
            limits: bounds.
        """
        limits = limits or PromptLimits()
        encoder, frame, words = self.encoder("mean_field"), self.frame("mean_field"), self._words
        fixed = [
            [*frame.head, *encoder.encode(f"{words.topic}\n")],
            encoder.encode(f"\n\n{words.previous}\n"),
            encoder.encode(f"\n\n{words.actions}\n"),
            encoder.encode(f"\n{words.task}"),
        ]
        budget = limits.max_prompt_tokens - sum(map(len, fixed)) - len(frame.tail)
        # At most half for topic and summary, so that there is always room for what is new.
        texts = [words.topic_text(topic), _lines(previous or NO_SIGNAL_YET)]
        data = self._bounded("mean_field", texts, budget // 2, limits)
        budget -= sum(map(len, data))
        newline = encoder.encode("\n")
        tally_ids = encoder.encode_bounded(one_line(tally), max(budget // 2, 1)) + newline if tally else []
        listed = [encoder.encode_bounded(f"- {one_line(line)}", limits.max_action_tokens) + newline for line in lines]
        listed = newest_that_fit(listed, budget - len(tally_ids))
        body = [token for ids in (*listed, tally_ids) for token in ids] or encoder.encode("(nothing)\n")
        return fixed[0] + data[0] + fixed[1] + data[1] + fixed[2] + body + fixed[3] + list(frame.tail)

    def mean_field_prior_prompt(self, topic: str, *, limits: PromptLimits | None = None) -> list[int]:
        """The prompt of the prior ``r(m | topic)``: instruction and topic, nothing of what people did.

        Args:
            topic: what people react to.
            limits: bounds.
        """
        limits = limits or PromptLimits()
        encoder, frame, words = self.encoder("mean_field"), self.frame("mean_field"), self._words
        head = [*frame.head, *encoder.encode(f"{words.topic}\n")]
        end = encoder.encode(f"\n\n{words.task}") + list(frame.tail)
        budget = (limits.max_prompt_tokens - len(head) - len(end)) // 2
        return head + self._bounded("mean_field", [words.topic_text(topic)], budget, limits)[0] + end

    def _bounded(self, role: str, texts: Sequence[str], budget: int, limits: PromptLimits) -> list[list[int]]:
        encoder = self.encoder(role)
        if budget < 8 * len(texts):
            raise InputError(
                f"`max_prompt_tokens` must leave room for the topic and the signal, got {limits.max_prompt_tokens}, "
                f"of which {budget} tokens are left beside instruction, options and profile; raise it, or lower "
                "`max_state_tokens`."
            )
        encoded = [encoder.encode_lines_bounded(text, budget) for text in texts]
        kept = share_budget([len(ids) for ids in encoded], budget)
        return [
            ids if length == len(ids) else encoder.encode_lines_bounded(text, length)
            for text, ids, length in zip(texts, encoded, kept, strict=True)
        ]


def _lines(text: str) -> str:
    """A signal keeps its lines (lists of actions); blank lines, which separate the parts of a prompt, go."""
    return "\n".join(one_line(line) for line in text.splitlines() if line.strip())
