"""`ClassifierHead`: a multinomial logistic regression on text states, kept as safetensors and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.atomic_files import write_bytes, write_json
from mf_llm.errors import InputError

Floats = NDArray[np.float64]

HEAD_SCHEMA_VERSION = 1
HEAD_FILE, WEIGHTS_FILE = "classifier_head.json", "classifier_head.safetensors"


@dataclass(frozen=True, eq=False)
class ClassifierHead:
    """``p = softmax(W h + b)``.

    Attributes:
        dimension: name of the dimension.
        categories: the K category ids.
        weight: W, `[K, H]`, on states as they are (a standardisation is folded in).
        bias: b, `[K]`.
        record: where it comes from: backbone, states, training data, strength of the penalty, versions.
    """

    dimension: str
    categories: tuple[str, ...]
    weight: Floats
    bias: Floats
    record: Mapping[str, Any]

    def __post_init__(self) -> None:
        k = len(self.categories)
        if self.weight.ndim != 2 or len(self.weight) != k or self.bias.shape != (k,):
            raise InputError(
                f"`weight` and `bias` must be [{k}, H] and [{k}], got {self.weight.shape} and {self.bias.shape}; they "
                "belong to other categories; fit the head again."
            )

    def probabilities(self, states: Floats) -> Floats:
        """`[n, K]` for states `[n, H]`; nan where a state is not finite."""
        if states.shape[1:] != self.weight.shape[1:]:
            raise InputError(
                f"`states` must have {self.weight.shape[1]} numbers, got {states.shape[1]}; the head was fitted on "
                "another backbone; load that one."
            )
        with np.errstate(invalid="ignore"):
            scores = states @ self.weight.T + self.bias
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            return scores / scores.sum(axis=1, keepdims=True)

    def save(self, folder: str | Path) -> Path:
        """Writes the weights and then ``classifier_head.json``, which marks a whole head."""
        from safetensors.numpy import save

        folder = Path(folder)
        write_bytes(folder / WEIGHTS_FILE, save({"weight": self.weight, "bias": self.bias}))
        head = {
            "schema_version": HEAD_SCHEMA_VERSION,
            "dimension": self.dimension,
            "categories": list(self.categories),
            **self.record,
        }
        write_json(folder / HEAD_FILE, head)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> ClassifierHead:
        """Reads what `save` wrote.

        Raises:
            InputError: a file is missing, cannot be read, or was written by another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        try:
            record = json.loads((folder / HEAD_FILE).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS_FILE)
            version = record.pop("schema_version")
            dimension, categories = str(record.pop("dimension")), tuple(record.pop("categories"))
            weight, bias = weights["weight"], weights["bias"]
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
            raise InputError(
                f"`folder` must hold a classifier head written by ClassifierHead.save, got {folder} ({error}); it "
                "cannot be loaded; fit it again with fit_classifier."
            ) from error
        if version != HEAD_SCHEMA_VERSION:
            raise InputError(
                f"{folder / HEAD_FILE} must have schema_version {HEAD_SCHEMA_VERSION}, got {version!r}; it was "
                "written by another version of mf_llm; fit it again or install that version."
            )
        return cls(dimension, categories, weight, bias, record)
