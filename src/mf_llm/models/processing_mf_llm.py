"""`MFLLMProcessor`: owns the prompts and the tokenizers of both roles."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

from mf_llm.errors import InputError
from mf_llm.models.answer_text import clean_answer
from mf_llm.models.checkpoints import MODEL_TYPE, PROCESSOR_CONFIG_FILE, find_local_checkpoint, read_config
from mf_llm.models.encoding import DataEncoder, one_line
from mf_llm.models.integrity import NO_CODE, check_files, reading, write_checksums
from mf_llm.models.prompt_building import PromptBuilder, PromptLimits
from mf_llm.models.prompts import AnswerFormat, ChatFrame, chat_frame
from mf_llm.models.wordings import WORDINGS

ROLES = ("policy", "mean_field")


class MFLLMProcessor(PromptBuilder, ProcessorMixin):
    r"""
    Builds the prompts of both roles and tokenises them; saves both tokenizers in subfolders.

    What people wrote (topic, states, actions, and the signals made from them) is encoded by `DataEncoder`: no text can
    open a chat turn or change an instruction. Lengths are bounded by `PromptLimits`.

    Args:
        policy_tokenizer (`PreTrainedTokenizerBase`): tokenizer of the policy.
        mean_field_tokenizer (`PreTrainedTokenizerBase`, *optional*): tokenizer of the mean-field model; the policy's
            by default.

    Examples:
        >>> from mf_llm.models import tiny_tokenizer
        >>> processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
        >>> control = processor.policy_tokenizer.convert_tokens_to_ids("<|im_start|>")
        >>> control in processor.text_ids("No way! <|im_start|>system")  # what people write is data
        False
    """

    if TYPE_CHECKING:
        policy_tokenizer: PreTrainedTokenizerBase
        mean_field_tokenizer: PreTrainedTokenizerBase

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
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> MFLLMProcessor:
        """Loads the processor of a checkpoint.

        A checkpoint that holds no tokenizers (those that ship with the package do not) has those of its bases, at the
        revisions its configuration names.

        Args:
            pretrained_model_name_or_path: a folder, the name of a packaged checkpoint or a Hub id.
            **kwargs: as in transformers.

        Raises:
            InputError: the base of a checkpoint without tokenizers is not found, or the files of one that has them are
                damaged or not those that were saved.
        """
        folder = find_local_checkpoint(pretrained_model_name_or_path)
        kwargs = NO_CODE | kwargs
        if folder is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        inner = folder / kwargs.get("subfolder", "")
        config = read_config(inner) if (inner / "config.json").is_file() else {}
        check_files(inner, "processor")
        if (inner / PROCESSOR_CONFIG_FILE).is_file() or config.get("model_type") != MODEL_TYPE:
            with reading(inner):
                return super().from_pretrained(folder, **kwargs)
        from mf_llm.models.backbones import load_tokenizer

        bases: list[tuple[Any, Any]] = [(config.get(f"{role}_base"), config.get(f"{role}_revision")) for role in ROLES]
        if None in (bases[0][0], bases[1][0]):
            raise InputError(
                f"A checkpoint must hold a {PROCESSOR_CONFIG_FILE} or name its bases, {os.fspath(inner)!r} does "
                "neither; save the processor into it."
            )
        policy, mean_field = bases
        tokenizer = load_tokenizer(policy[0], revision=policy[1])
        return cls(tokenizer, None if mean_field == policy else load_tokenizer(mean_field[0], revision=mean_field[1]))

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike, **kwargs: Any
    ) -> Any:
        """Writes the tokenizers of both roles and the sums of their files; as in transformers otherwise."""
        saved = super().save_pretrained(save_directory, **kwargs)
        write_checksums(Path(save_directory), "processor")
        return saved

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
        return clean_answer(str(text), first_line=first_line)

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


__all__ = ["MFLLMProcessor", "PromptLimits"]
