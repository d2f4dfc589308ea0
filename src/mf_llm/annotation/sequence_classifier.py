"""`SequenceClassifier`: a sequence-classification checkpoint of transformers that reads texts as data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.models.encoding import DataEncoder, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]


class SequenceClassifier:
    """Labels of texts by a checkpoint. Topics are not looked at; no text can make a control token.

    Args:
        model: a sequence-classification model with one label a text.
        tokenizer: its tokenizer.
        max_tokens: tokens of a text that are read; at most what the model takes.
        batch_tokens: bound of rows times row length.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = 256,
        batch_tokens: int = 4096,
    ) -> None:
        config = model.config
        if config.problem_type == "multi_label_classification" or (config.num_labels or 0) < 2:
            raise InputError(
                f"The checkpoint {model.name_or_path!r} must choose one label out of several, it has "
                f"{config.num_labels} and problem type {config.problem_type!r}; probabilities would not sum to 1; use "
                "another checkpoint."
            )
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        names: Any = config.id2label
        self.labels = [str(names[k]) for k in range(len(names))]
        self._encoder = DataEncoder(tokenizer)
        self._head, self._tail = special_frame(tokenizer)
        longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 10**9)
        # Two positions are kept for models (RoBERTa) that count positions from the padding id.
        self.max_tokens = min(max_tokens, longest - len(self._head) - len(self._tail) - 2)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, *, dtype: Any = "float32", **options: Any
    ) -> SequenceClassifier:
        """Loads a checkpoint from a folder, the Hugging Face cache or the Hub.

        Raises:
            InputError: there is none, or it does not classify sequences.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from mf_llm.models.backbones import find_backbone

        folder = find_backbone(name_or_path).folder
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{os.fspath(name_or_path)!r} cannot be loaded as a sequence classifier: {error}"
            ) from error
        if info["missing_keys"]:
            raise InputError(
                f"{os.fspath(name_or_path)!r} must hold the weights of a sequence classifier, "
                f"{sorted(info['missing_keys'])[0]!r} is missing and would be random; its answers would be noise; "
                "name a fine-tuned checkpoint."
            )
        model.name_or_path = os.fspath(name_or_path)
        return cls(model.eval().to("cuda") if torch.cuda.is_available() else model.eval(), tokenizer, **options)

    def __call__(self, texts: Sequence[str], topics: Sequence[str]) -> Floats:
        """Probabilities `[n, L]` of the labels."""
        rows: dict[tuple[int, ...], list[int]] = {}
        for place, text in enumerate(texts):
            ids = self._encoder.encode_bounded(one_line(text), self.max_tokens)
            rows.setdefault((*self._head, *ids, *self._tail), []).append(place)
        p = np.full((len(texts), len(self.labels)), np.nan)
        for batch in self._batches(sorted(rows, key=lambda row: (len(row), row))):
            for row, probabilities in zip(batch, self._read(batch), strict=True):
                p[rows[row]] = probabilities
        return p

    def fingerprint(self) -> dict[str, Any]:
        """Name of the checkpoint and hash of its weights."""
        from mf_llm.simulation.provenance import weights_fingerprint

        return {
            "model": self.model.name_or_path,
            "weights": weights_fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "max_tokens": self.max_tokens,
        }

    def _batches(self, rows: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Rows of one length, so that nothing is padded and a text's answer is the same beside any others."""
        if self.model.config.pad_token_id is None:
            return [[row] for row in rows]  # decoders look for the last token before the padding and refuse a batch
        batches: list[list[tuple[int, ...]]] = []
        for row in rows:
            last = batches[-1] if batches else []
            if last and len(last[0]) == len(row) and (len(last) + 1) * len(row) <= self.batch_tokens:
                last.append(row)
            else:
                batches.append([row])
        return batches

    def _read(self, batch: Sequence[tuple[int, ...]]) -> Floats:
        import torch

        ids = torch.tensor(batch, device=self.model.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return torch.softmax(logits.double(), dim=-1).cpu().numpy()


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens a tokenizer puts before and behind a single text (``[CLS]`` and ``[SEP]``)."""
    framed, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []
