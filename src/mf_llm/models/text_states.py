"""`TextStates`: one vector for each text, its mean hidden state in a frozen causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.models.encoding import DataEncoder, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]
LAYERS = ("middle", "last")


@dataclass(frozen=True, eq=False)
class TextStates:
    """Mean hidden states of texts, `[n, H]`.

    A row is ``first token, topic, text``; the mean goes over the tokens of the text alone. The first position of a
    causal model has a hidden state of its own, many times larger than the others and the same for every text.
    Texts are encoded by `DataEncoder`, so that none can make a control token.

    Attributes:
        backbone: a causal language model.
        tokenizer: its tokenizer.
        layer: "middle" (half of the layers), "last", or the number of layers behind which states are read (1..L).
        with_topic: the text is read behind its topic; otherwise the topic is not looked at.
        max_tokens, max_topic_tokens: longer texts and topics are cut.
        batch_tokens: bound of rows times row length.
    """

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layer: str | int = "middle"
    with_topic: bool = False
    max_tokens: int = 128
    max_topic_tokens: int = 64
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        n_layers = self.backbone.config.get_text_config().num_hidden_layers
        named = {"middle": max(n_layers // 2, 1), "last": n_layers}
        layer = named.get(self.layer, self.layer) if isinstance(self.layer, str) else self.layer
        if not isinstance(layer, int) or isinstance(layer, bool) or not 1 <= layer <= n_layers:
            raise InputError(
                f"`layer` must be one of {', '.join(LAYERS)} or 1..{n_layers}, got {self.layer!r}; the model has no "
                "such states."
            )
        object.__setattr__(self, "layer", layer)
        for name in ("max_tokens", "max_topic_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, got {getattr(self, name)}; nothing could be read.")

    def settings(self) -> dict[str, Any]:
        """What the vectors depend on beside the model; keyword arguments that make the same states again."""
        names = ("layer", "with_topic", "max_tokens", "max_topic_tokens")
        return {name: getattr(self, name) for name in names}

    def __call__(self, texts: Sequence[str], topics: Sequence[str]) -> Floats:
        """`[n, H]`; a row is nan where a text has no token.

        Args:
            texts: n texts.
            topics: the topic of each.
        """
        from tqdm.auto import tqdm

        rows: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for place, (text, topic) in enumerate(zip(texts, topics, strict=True)):
            ids = self._encoder.encode_bounded(one_line(text), self.max_tokens)
            if ids:
                rows.setdefault((self._before(topic), tuple(ids)), []).append(place)
        states = np.full((len(texts), self.backbone.config.get_text_config().hidden_size), np.nan)
        ordered = sorted(rows, key=lambda row: (len(row[0]) + len(row[1]), row))
        batches = self._batches(ordered)
        # Thousands of texts take minutes of a core; disable=None: a bar on a terminal alone.
        for batch in tqdm(batches, "texts read", disable=None if len(batches) > 8 else True, leave=False):
            for row, state in zip(batch, self._mean_states(batch), strict=True):
                states[rows[row]] = state
        return states

    @cached_property
    def _encoder(self) -> DataEncoder:
        return DataEncoder(self.tokenizer)

    def _before(self, topic: str) -> tuple[int, ...]:
        tokenizer = self.tokenizer
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first is None:
            raise InputError(
                f"The tokenizer {tokenizer.name_or_path!r} must have a begin or end token, got neither; texts cannot "
                "be read without one in front; set `bos_token`."
            )
        if not self.with_topic or not topic.strip():
            return (first,)
        return (first, *self._encoder.encode_bounded(one_line(topic), self.max_topic_tokens), *self._newline)

    @cached_property
    def _newline(self) -> list[int]:
        return self._encoder.encode("\n")

    def _batches(self, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[list[Any]]:
        """Rows, shortest first, in batches of at most `batch_tokens`."""
        batches: list[list[Any]] = []
        for row in rows:
            if batches and (len(batches[-1]) + 1) * sum(map(len, row)) <= self.batch_tokens:
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches

    def _mean_states(self, batch: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Floats:
        import torch

        width = max(len(before) + len(ids) for before, ids in batch)
        tokens = torch.zeros(len(batch), width, dtype=torch.long)
        real, inside = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width)
        # Padding stands behind: in a causal model it cannot touch what is read.
        for n, (before, ids) in enumerate(batch):
            end = len(before) + len(ids)
            tokens[n, :end] = torch.tensor([*before, *ids])
            real[n, :end] = 1
            inside[n, len(before) : end] = 1 / len(ids)
        device = self.backbone.device
        with torch.inference_mode():
            # The inner model: nobody reads logits over the vocabulary here.
            outputs = self.backbone.base_model(
                input_ids=tokens.to(device), attention_mask=real.to(device), output_hidden_states=True, use_cache=False
            )
            states = outputs.hidden_states[self.layer].float()
            return (states * inside.to(device)[..., None]).sum(dim=1).double().cpu().numpy()
