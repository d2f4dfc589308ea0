"""Frozen features of texts: mean-pooled hidden states of a backbone, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.models.default_backbone import DEFAULT_BACKBONE, cache_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from mf_llm.models.backbones import BackboneSource
    from mf_llm.models.text_states import TextStates

logger = logging.getLogger(__name__)

FOLDER = "text-features"
_VERSION = 1

Floats = NDArray[np.float64]


def features_folder() -> Path:
    """Where features are kept unless told otherwise: ``text-features`` in the cache of this package."""
    return cache_folder() / FOLDER


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Mean hidden state of a backbone's last layer, for an event's topic and for its warm-up texts.

    Texts are read as by `TextStates`, and cut at `max_tokens`.

    The key of the cache is a hash over what was read (topic and warm-up texts, in order) and with what (backbone,
    revision, type of the weights, bound). Whatever else an event holds is no part of it.

    Attributes:
        backbone: folder or Hub id of a causal language model.
        max_tokens: tokens of a text that are read.
        batch_tokens: bound of rows times row length of the texts that are read together.
        cache: folder of the cache; None: nothing is read from or written to the disk.
    """

    backbone: str | os.PathLike = DEFAULT_BACKBONE
    max_tokens: int = 64
    batch_tokens: int = 4096
    cache: Path | None = field(default_factory=features_folder)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, got {getattr(self, name)}; nothing could be read.")

    def __call__(self, topic: str, texts: Sequence[str]) -> Floats:
        """Features `[2, H]`: of the topic, and the mean over the texts that are not empty.

        A row is nan where there is no text.
        """
        path = None if self.cache is None else self.cache / f"{self._key(topic, texts)}.safetensors"
        if path is not None and path.is_file():
            from safetensors.numpy import load_file

            return load_file(path)["features"].astype(np.float64)
        features = np.stack([self._mean([topic]), self._mean(texts)]).astype(np.float32)
        if path is not None:
            from safetensors.numpy import save

            from mf_llm.atomic_files import write_bytes

            write_bytes(path, save({"features": features}))
        # What was just made is rounded like what is read.
        return features.astype(np.float64)

    def _mean(self, texts: Sequence[str]) -> Floats:
        """Mean over the texts of their mean hidden state, `[H]`."""
        states = self._states(texts, [""] * len(texts))
        read = ~np.isnan(states).any(axis=1)
        return states[read].mean(axis=0) if read.any() else np.full(states.shape[1], np.nan)

    def _key(self, topic: str, texts: Sequence[str]) -> str:
        parts = [_VERSION, self._identity, str(self._dtype), self.max_tokens, topic, list(texts)]
        text = json.dumps(parts, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def _source(self) -> BackboneSource:
        from mf_llm.models.backbones import find_backbone

        return find_backbone(self.backbone)

    @cached_property
    def _identity(self) -> str:
        """Name and revision of the backbone; of a folder, which has no revision, the hash of its files."""
        if self._source.revision is not None:
            return f"{self._source.base}@{self._source.revision}"
        digest = hashlib.sha256()
        for path in sorted(self._source.folder.iterdir()):
            if path.suffix in (".json", ".safetensors"):
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def _dtype(self) -> torch.dtype:
        from mf_llm.models.backbones import preferred_dtype

        return preferred_dtype()

    @cached_property
    def _model(self) -> PreTrainedModel:
        import torch

        from mf_llm.models.backbones import load_backbone

        logger.info("Texts are read with %s; features are kept in %s.", self.backbone, self.cache or "memory only")
        model = load_backbone(self.backbone, dtype=self._dtype)
        return model.to("cuda") if torch.cuda.is_available() else model  # type: ignore[arg-type]

    @cached_property
    def _states(self) -> TextStates:
        from mf_llm.models.backbones import load_tokenizer
        from mf_llm.models.text_states import TextStates

        tokenizer = load_tokenizer(self.backbone)
        return TextStates(self._model, tokenizer, "last", max_tokens=self.max_tokens, batch_tokens=self.batch_tokens)
