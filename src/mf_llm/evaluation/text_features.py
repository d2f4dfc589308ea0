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
    from mf_llm.models.encoding import DataEncoder

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

    A text stands behind one control token, which takes no part in the mean: what a causal model makes of the first
    position is much the same for every text. Texts are encoded by `DataEncoder`, so that none can make a control
    token, and cut at `max_tokens`.

    The key of the cache is a hash over what was read (topic and warm-up texts, in order) and with what (backbone,
    revision, type of the weights, bound). Whatever else an event holds is no part of it.

    Attributes:
        backbone: folder or Hub id of a causal language model.
        max_tokens: tokens of a text that are read.
        batch_size: texts of one event that are read together, those of like length first.
        cache: folder of the cache; None: nothing is read from or written to the disk.
    """

    backbone: str | os.PathLike = DEFAULT_BACKBONE
    max_tokens: int = 64
    batch_size: int = 32
    cache: Path | None = field(default_factory=features_folder)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_size"):
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
        rows = [ids for text in texts if (ids := self._encode(text))]
        if not rows:
            return np.full(self._model.config.get_text_config().hidden_size, np.nan)
        rows.sort(key=len)
        batches = [rows[first : first + self.batch_size] for first in range(0, len(rows), self.batch_size)]
        return np.mean([row for batch in batches for row in self._pooled(batch)], axis=0)

    def _encode(self, text: str) -> list[int]:
        from mf_llm.models.encoding import one_line

        return self._encoder.encode_bounded(one_line(text), self.max_tokens)

    def _pooled(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Mean hidden state of each row of tokens, `[n, H]`."""
        import torch

        tokenizer, device = self._encoder.tokenizer, self._model.device
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        longest = max(map(len, rows))
        ids = torch.tensor([[first, *row, *[first] * (longest - len(row))] for row in rows], device=device)
        mask = torch.tensor([[1] * (1 + len(row)) + [0] * (longest - len(row)) for row in rows], device=device)
        with torch.inference_mode():
            outputs = self._model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        states = outputs.last_hidden_state.float()
        inside = mask.float()
        inside[:, 0] = 0
        return ((states * inside[..., None]).sum(dim=1) / inside.sum(dim=1, keepdim=True)).double().cpu().numpy()

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
        return model.to("cuda") if torch.cuda.is_available() else model

    @cached_property
    def _encoder(self) -> DataEncoder:
        from mf_llm.models.backbones import load_tokenizer
        from mf_llm.models.encoding import DataEncoder

        return DataEncoder(load_tokenizer(self.backbone))
