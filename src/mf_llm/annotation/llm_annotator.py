"""`LLMAnnotator`: categories out of the likelihoods a causal language model gives them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.annotation.annotation_prompts import (
    ANNOTATION_PROMPT_VERSION,
    CONTENT_FREE,
    definitions,
    opening,
    option_texts,
    words_of,
)
from mf_llm.annotation.annotator import Annotations, blank_failures, topics_of
from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.errors import InputError
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.models.encoding import DataEncoder, one_line
from mf_llm.models.prompts import chat_frame
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.simulation.policy_step import calibrated_probabilities
from mf_llm.simulation.prefix_chunks import Parts, PrefixStems, encode_prefix
from mf_llm.simulation.readout import normalise, option_log_likelihoods, option_orders

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]


class LLMAnnotator:
    """Asks a causal language model, and reads the likelihood of the whole text of each category.

    Question, definitions and topic are encoded once for all texts of a topic. Categories are listed in several orders,
    of which each text gets one that follows from its words, so that no category gains from its place. A model without
    a chat template gets the same prompt as plain text. Texts are encoded as data: none can open a chat turn.

    Args:
        backbone: a causal language model.
        tokenizer: its tokenizer.
        orders: number of orders in which categories are listed; 2 are an order and its reverse.
        calibrated: divide by the likelihoods of the categories under a topic and a text without content (Zhao et al.
            2021, arXiv 2102.09690).
        seed: seed of the first order.
        max_text_tokens, max_topic_tokens: longer texts and topics are cut.
        batch_tokens: see `option_log_likelihoods`.
        name: what tables call it.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        orders: int = 2,
        calibrated: bool = False,
        seed: int = 0,
        max_text_tokens: int = 128,
        max_topic_tokens: int = 128,
        batch_tokens: int = 8192,
        name: str = "llm",
    ) -> None:
        limits = {"orders": orders, "max_text_tokens": max_text_tokens, "max_topic_tokens": max_topic_tokens}
        for option, value in limits.items():
            if value < 1:
                raise InputError(f"`{option}` must be at least 1, got {value}; nothing could be asked.")
        self.backbone, self.tokenizer, self.name = backbone, tokenizer, name
        self.orders, self.calibrated, self.seed, self.batch_tokens = orders, calibrated, seed, batch_tokens
        self.max_text_tokens, self.max_topic_tokens = max_text_tokens, max_topic_tokens

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike = DEFAULT_BACKBONE,
        *,
        dtype: Any = "auto",
        revision: str | None = None,
        **options: Any,
    ) -> LLMAnnotator:
        """Any causal language model; see `load_backbone` for where it is looked for."""
        import torch

        from mf_llm.models.backbones import load_backbone, load_tokenizer

        backbone = load_backbone(name_or_path, dtype=dtype, revision=revision)
        if torch.cuda.is_available():
            backbone = backbone.to("cuda")  # type: ignore[arg-type]
        return cls(backbone, load_tokenizer(name_or_path, revision=revision), **options)

    def annotate(self, texts: Sequence[str], topic: str | Sequence[str], dimension: Dimension) -> Annotations:
        """Probabilities of the dimension's categories; texts without a word fail."""
        from tqdm.auto import tqdm

        topics, failures = topics_of(topic, len(texts)), blank_failures(texts)
        prompt = _Prompt(self, dimension)
        groups: dict[tuple[int, str], list[int]] = {}
        for place, failure in enumerate(failures):
            if failure is None:
                groups.setdefault((self._order_of(texts[place], len(prompt.orders)), topics[place]), []).append(place)
        p = np.full((len(texts), len(dimension.ids)), np.nan)
        stems = PrefixStems(self.backbone)
        # Order by order: the definitions, which all its topics share, are then encoded once.
        # Minutes of a core for many topics; disable=None: a bar on a terminal alone.
        ordered = tqdm(sorted(groups), "topics read", disable=None if len(groups) > 1 else True, leave=False)
        for order, one_topic in ordered:
            places = groups[order, one_topic]
            scores = prompt.read(stems, order, one_topic, [texts[place] for place in places])
            if self.calibrated:
                p[places] = calibrated_probabilities(scores, prompt.content_free(order))
            else:
                p[places] = normalise(scores)
        return Annotations.of(dimension.ids, p, failures)

    def fingerprint(self) -> dict[str, Any]:
        """Kind, model, hash of its weights, prompt version and what else an answer depends on."""
        from mf_llm.simulation.provenance import weights_fingerprint

        source = getattr(self.backbone, "backbone_source", None)
        options = ("orders", "calibrated", "seed", "max_text_tokens", "max_topic_tokens")
        return {
            "kind": "llm",
            "model": self.backbone.name_or_path,
            "revision": None if source is None else source.revision,
            "weights": weights_fingerprint(self.backbone),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "prompt_version": ANNOTATION_PROMPT_VERSION,
            **{option: getattr(self, option) for option in options},
        }

    def _order_of(self, text: str, n_orders: int) -> int:
        return stream_key(self.seed, text, "annotation order") % n_orders


class _Prompt:
    """The prompts of one dimension."""

    def __init__(self, annotator: LLMAnnotator, dimension: Dimension) -> None:
        self.annotator, self.dimension, self.words = annotator, dimension, words_of(dimension)
        self.frame = chat_frame(annotator.tokenizer, self.words.instruction)
        self.encoder = DataEncoder(annotator.tokenizer, self.frame.literal)
        first = permutation(len(dimension.ids), stream_key(annotator.seed, dimension.name, "annotation orders"))
        self.orders = option_orders(first, annotator.orders)
        # The end belongs to an option: without it, one that is the beginning of another would always be likelier.
        end = [self.frame.end_ids[0]] if self.frame.is_chat else self.encoder.encode("\n")
        self.options = [self.encoder.encode(text) + end for text in option_texts(dimension)]
        self._free: dict[int, Floats] = {}

    def read(self, stems: PrefixStems, order: int, topic: str, texts: Sequence[str]) -> Floats:
        """Log-likelihoods of the categories `[n, K]`."""
        prefix = encode_prefix(stems, self._prefix(order, topic))
        segments = [self._segment(text) for text in texts]
        return option_log_likelihoods(
            self.annotator.backbone, prefix, segments, self.options, batch_tokens=self.annotator.batch_tokens
        )

    def content_free(self, order: int) -> Floats:
        """Log-likelihoods `[K]` where there is nothing to go by."""
        if order not in self._free:
            stems = PrefixStems(self.annotator.backbone)
            self._free[order] = self.read(stems, order, CONTENT_FREE, [CONTENT_FREE])[0]
        return self._free[order]

    def _prefix(self, order: int, topic: str) -> Parts:
        encode = self.encoder.encode
        bounded = self.encoder.encode_bounded(one_line(topic) or CONTENT_FREE, self.annotator.max_topic_tokens)
        return (
            (*self.frame.head, *encode(definitions(self.dimension, self.orders[order]))),
            (*encode(f"\n\n{self.words.topic}\n"), *bounded, *encode(f"\n\n{self.words.text}\n")),
        )

    def _segment(self, text: str) -> list[int]:
        bounded = self.encoder.encode_bounded(one_line(text), self.annotator.max_text_tokens)
        return bounded + list(self.frame.tail) + self.encoder.encode(opening(self.dimension))
