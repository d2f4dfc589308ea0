"""`MFLLMProcessor`: owns the prompts and the tokenizers of both roles."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

from mf_llm.errors import InputError
from mf_llm.models.checkpoints import MODEL_TYPE, PROCESSOR_CONFIG_FILE, find_local_checkpoint, read_config
from mf_llm.models.encoding import DataEncoder, newest_that_fit, one_line, share_budget
from mf_llm.models.prompts import (
    NO_SIGNAL_YET,
    NO_STATE,
    AnswerFormat,
    ChatFrame,
    chat_frame,
    render_state,
)
from mf_llm.models.wordings import WORDINGS

ROLES = ("policy", "mean_field")
_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffd]")
_QUOTES = {'"': '"', "“": "”", "「": "」"}
_CODE_FENCE = re.compile(r"^```\w*\n(.*?)(\n```|\Z)", re.DOTALL)


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
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 8:
                raise InputError(
                    f"`{name}` must be a whole number of at least 8, got {value!r}; no prompt can be built."
                )


class MFLLMProcessor(ProcessorMixin):
    r"""
    Builds the prompts of both roles and tokenises them; saves both tokenizers in subfolders.

    What people wrote (topic, states, actions, and the signals made from them) is encoded by `DataEncoder`: no text can
    open a chat turn or change an instruction. Lengths are bounded by `PromptLimits`.

    Args:
        policy_tokenizer (`PreTrainedTokenizerBase`): tokenizer of the policy.
        mean_field_tokenizer (`PreTrainedTokenizerBase`, *optional*): tokenizer of the mean-field model; the policy's
            by default.
    """

    def __init__(
        self,
        policy_tokenizer: PreTrainedTokenizerBase | None = None,
        mean_field_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        if policy_tokenizer is None:
            raise InputError("`policy_tokenizer` must be a tokenizer, got None; nothing can be encoded.")
        super().__init__(
            policy_tokenizer, mean_field_tokenizer if mean_field_tokenizer is not None else policy_tokenizer
        )
        self._frames: dict[str, ChatFrame] = {}
        self._encoders: dict[str, DataEncoder] = {}
        self._line_breaks: dict[str, tuple[int, ...]] = {}
        self._words, self._reworded = WORDINGS[0], {0: self}

    def with_wording(self, number: int) -> MFLLMProcessor:
        """The same processor with other words for the same prompts (`mf_llm.models.wordings`).

        Args:
            number: index into `WORDINGS`; models are trained with 0.

        Raises:
            InputError: there is no such wording.
        """
        if number not in range(len(WORDINGS)):
            raise InputError(
                f"`wording` must be 0 to {len(WORDINGS) - 1}, got {number!r}; there are no such words; see "
                "mf_llm.models.wordings."
            )
        if number not in self._reworded:
            other = self._reworded[number] = copy.copy(self)
            other._words, other._frames, other._encoders = WORDINGS[number], {}, {}
        return self._reworded[number]

    @classmethod
    def from_backbones(cls, policy: str, mean_field: str | None = None, **kwargs: Any) -> MFLLMProcessor:
        """The processor of the backbones with these ids or paths (see `mf_llm.models.backbones.load_tokenizer`)."""
        from mf_llm.models.backbones import load_tokenizer

        policy_tokenizer = load_tokenizer(policy, **kwargs)
        return cls(policy_tokenizer, load_tokenizer(mean_field, **kwargs) if mean_field else policy_tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> MFLLMProcessor:
        """Loads the processor of a checkpoint.

        A checkpoint that holds no tokenizers (those that ship with the package do not) has those of its bases, at the
        revisions its configuration names.

        Args:
            pretrained_model_name_or_path: a folder, the name of a packaged checkpoint or a Hub id.
            **kwargs: as in transformers.

        Raises:
            InputError: the base of a checkpoint without tokenizers is not found.
        """
        folder = find_local_checkpoint(pretrained_model_name_or_path)
        if folder is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        inner = folder / kwargs.get("subfolder", "")
        config = read_config(inner) if (inner / "config.json").is_file() else {}
        if (inner / PROCESSOR_CONFIG_FILE).is_file() or config.get("model_type") != MODEL_TYPE:
            return super().from_pretrained(folder, **kwargs)
        from mf_llm.models.backbones import load_tokenizer

        bases = [(config.get(f"{role}_base"), config.get(f"{role}_revision")) for role in ROLES]
        if None in (bases[0][0], bases[1][0]):
            raise InputError(
                f"A checkpoint must hold a {PROCESSOR_CONFIG_FILE} or name its bases, {os.fspath(inner)!r} does "
                "neither; save the processor into it."
            )
        policy, mean_field = bases
        tokenizer = load_tokenizer(policy[0], revision=policy[1])
        return cls(tokenizer, None if mean_field == policy else load_tokenizer(mean_field[0], revision=mean_field[1]))

    def tokenizer_of(self, role: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a role ("policy" or "mean_field")."""
        if role not in ROLES:
            raise InputError(f"`role` must be one of {ROLES}, got {role!r}.")
        return self.policy_tokenizer if role == "policy" else self.mean_field_tokenizer

    def frame(self, role: str) -> ChatFrame:
        """The chat frame of a role, with its instruction."""
        if role not in self._frames:
            self._frames[role] = chat_frame(self.tokenizer_of(role), getattr(self._words, role))
        return self._frames[role]

    def encoder(self, role: str) -> DataEncoder:
        """Encodes data for a role: no control token can come out of it."""
        if role not in self._encoders:
            self._encoders[role] = DataEncoder(self.tokenizer_of(role), self.frame(role).literal)
        return self._encoders[role]

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

    def text_ids(self, text: str, *, limits: PromptLimits | None = None) -> list[int]:
        """What a person wrote, as it stands behind the opening of an answer (or behind its option), with its end.

        A text that is cut has no end: there the length forced it.

        Args:
            text: the action.
            limits: bounds.
        """
        encoder, frame = self.encoder("policy"), self.frame("policy")
        bound = (limits or PromptLimits()).max_action_tokens
        ids = encoder.encode_bounded(" " + one_line(text), bound) if text.strip() else []
        if len(ids) < bound:
            return ids + ([frame.end_ids[0]] if frame.is_chat else encoder.encode("\n"))
        return ids

    def option_ids(self, answer: AnswerFormat) -> list[list[int]]:
        """Token ids of each option with what ends it: the end of the answer for a choice, of the line for a label.

        The end belongs to an option: without it, an option that is the beginning of another would always be likelier.
        """
        encode, frame = self.encoder("policy").encode, self.frame("policy")
        end = [] if answer.kind == "label_text" else [frame.end_ids[0]] if frame.is_chat else encode("\n")
        return [encode(answer.option_text(option)) + end for option in answer.options]

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

    def line_break_ids(self, role: str) -> tuple[int, ...]:
        """The tokens that hold a line break."""
        if role not in self._line_breaks:
            tokenizer = self.tokenizer_of(role)
            spelled = enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
            self._line_breaks[role] = tuple(
                index for index, token in spelled if token and ("\n" in token or "Ċ" in token or token == "<0x0A>")
            )
        return self._line_breaks[role]

    def read_answer(self, role: str, ids: Sequence[int], *, first_line: bool = False) -> str:
        """The text of a generated answer on one line: no control tokens, reasoning block, code fence or quotes around.

        Args:
            role: who wrote it.
            ids: the new tokens.
            first_line: keep only the first line that is not blank.
        """
        text = self.tokenizer_of(role).decode(list(ids), skip_special_tokens=True)
        text = _THINKING.sub("", text).strip()
        fenced = _CODE_FENCE.match(text)
        text = fenced.group(1) if fenced else text
        if first_line:
            text = text.strip().split("\n")[0]
        text = one_line(_UNPRINTABLE.sub("", text))
        quoted = len(text) > 1 and text[0] in _QUOTES and text[-1] == _QUOTES[text[0]]
        return text[1:-1].strip() if quoted and text.count(text[0]) <= 2 else text

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

    def __call__(
        self,
        policy_text: str | list[str] | None = None,
        mean_field_text: str | list[str] | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Tokenises plain text for the model: ``policy_input_ids``, ``mean_field_input_ids`` and masks.

        Args:
            policy_text, mean_field_text: text, or a list of texts, for either role or both.
            kwargs: for the tokenizers (``return_tensors="pt"``, ``padding=True``, ...).
        """
        if policy_text is None and mean_field_text is None:
            raise InputError(
                "`policy_text` or `mean_field_text` must be given, got neither; there is nothing to encode."
            )
        encoded: dict[str, Any] = {}
        for role, text in (("policy", policy_text), ("mean_field", mean_field_text)):
            if text is not None:
                encoding = self.tokenizer_of(role)(text, **kwargs)
                encoded |= {f"{role}_{key}": value for key, value in encoding.items() if key != "token_type_ids"}
        return BatchEncoding(encoded)


def _lines(text: str) -> str:
    """A signal keeps its lines (lists of actions); blank lines, which separate the parts of a prompt, go."""
    return "\n".join(one_line(line) for line in text.splitlines() if line.strip())
