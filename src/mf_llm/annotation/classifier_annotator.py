"""`ClassifierAnnotator`: categories out of a sequence-classification checkpoint, or out of a head fitted here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mf_llm.annotation.annotator import Annotations, blank_failures, topics_of
from mf_llm.annotation.classifier_head import ClassifierHead
from mf_llm.annotation.dimension_sets import Dimension, name_key
from mf_llm.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mf_llm.models.text_states import TextStates

Floats = NDArray[np.float64]


class TextClassifier(Protocol):
    """Gives texts probabilities over labels of its own."""

    @property
    def labels(self) -> Sequence[str]:
        """The L labels."""
        ...

    def __call__(self, texts: Sequence[str], topics: Sequence[str]) -> Floats:
        """`[n, L]`; not finite where there is no answer."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What a results file records."""
        ...


class HeadClassifier:
    """A fitted head on the states of its backbone.

    Args:
        head: the head.
        states: the states it was fitted on.
    """

    def __init__(self, head: ClassifierHead, states: TextStates) -> None:
        self.head, self.states, self.labels = head, states, head.categories

    def __call__(self, texts: Sequence[str], topics: Sequence[str]) -> Floats:
        """Probabilities `[n, K]`."""
        return self.head.probabilities(self.states(texts, topics))

    def fingerprint(self) -> dict[str, Any]:
        """Backbone, states and training data of the head, and a hash of its weights."""
        digest = hashlib.sha256(np.concatenate([self.head.weight, self.head.bias[:, None]], axis=1).tobytes())
        return {"head": digest.hexdigest()[:16], **self.head.record}


class ClassifierAnnotator:
    """Reads categories with a classifier whose labels stand for them.

    Args:
        classifier: the classifier.
        label_map: label of the classifier -> category id, or None for a label that stands for no category (its
            probability is left out and the rest scaled up). Labels that are not in it must be named like a category;
            capitals, ``_`` and ``-`` do not matter. Several labels may stand for one category.
        name: what tables call it.
    """

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        label_map: Mapping[str, str | None] | None = None,
        name: str = "classifier",
    ) -> None:
        self.classifier, self.label_map, self.name = classifier, dict(label_map or {}), name
        unknown = [label for label in self.label_map if label not in classifier.labels]
        if unknown:
            raise InputError(
                f"`label_map` must map labels of the classifier ({list(classifier.labels)}), got {unknown[0]!r}; it "
                "would be mapped to nothing; correct the label."
            )

    @classmethod
    def from_checkpoint(
        cls,
        name_or_path: str | os.PathLike,
        *,
        label_map: Mapping[str, str | None] | None = None,
        dtype: Any = "float32",
        **options: Any,
    ) -> ClassifierAnnotator:
        """Any checkpoint that `AutoModelForSequenceClassification` loads; see `SequenceClassifier` for `options`."""
        from mf_llm.annotation.sequence_classifier import SequenceClassifier

        classifier = SequenceClassifier.from_pretrained(name_or_path, dtype=dtype, **options)
        return cls(classifier, label_map=label_map)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        backbone: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> ClassifierAnnotator:
        """A head that `save` wrote, on its backbone; scikit-learn is not needed.

        Args:
            folder: where the head is.
            backbone, tokenizer: the backbone, where it is in memory already; else it is loaded as it was for fitting.

        Raises:
            InputError: there is no head, or the backbone has other weights than the one it was fitted on.
        """
        import torch

        from mf_llm.models.backbones import load_backbone, load_tokenizer
        from mf_llm.models.text_states import TextStates
        from mf_llm.simulation.provenance import weights_fingerprint

        head = ClassifierHead.load(folder)
        made = head.record["backbone"]
        if backbone is None:
            backbone = load_backbone(made["name"], dtype=getattr(torch, made["dtype"]), revision=made["revision"])
            backbone = backbone.to("cuda") if torch.cuda.is_available() else backbone  # type: ignore[arg-type]
        if tokenizer is None:
            tokenizer = load_tokenizer(made["name"], revision=made["revision"])
        found = weights_fingerprint(backbone)
        if found != made["weights"]:
            raise InputError(
                f"`backbone` must have the weights the head in {folder} was fitted on ({made['name']}, "
                f"{made['weights']}), got {found}; its categories would be noise; load that backbone or fit again."
            )
        return cls(HeadClassifier(head, TextStates(backbone, tokenizer, **head.record["states"])))

    def save(self, folder: str | Path) -> Path:
        """Writes the head (see `ClassifierHead.save`); the backbone is named, not copied.

        Raises:
            InputError: the classifier is a checkpoint, not a head fitted here.
        """
        if not isinstance(self.classifier, HeadClassifier):
            raise InputError(
                "Only a head fitted with fit_classifier can be saved, this annotator is a checkpoint; name that "
                "checkpoint again instead."
            )
        return self.classifier.head.save(folder)

    def annotate(self, texts: Sequence[str], topic: str | Sequence[str], dimension: Dimension) -> Annotations:
        """Probabilities of the dimension's categories; texts without a word fail.

        Raises:
            InputError: a label stands for no category, or a category has no label.
        """
        stands_for = self._stands_for(dimension)
        topics, failures = topics_of(topic, len(texts)), blank_failures(texts)
        readable = [place for place, failure in enumerate(failures) if failure is None]
        p = np.full((len(texts), len(dimension.ids)), np.nan)
        if readable:
            answers = self.classifier([texts[i] for i in readable], [topics[i] for i in readable])
            p[readable] = answers @ stands_for
        return Annotations.of(dimension.ids, p, failures)

    def fingerprint(self) -> dict[str, Any]:
        """Kind, model, hash of the weights, and what labels stand for."""
        return {"kind": "classifier", **self.classifier.fingerprint(), "label_map": self.label_map}

    def _stands_for(self, dimension: Dimension) -> Floats:
        """`[L, K]`: 1 where a label stands for a category."""
        places = {name_key(category.id): k for k, category in enumerate(dimension.categories)}
        matrix = np.zeros((len(self.classifier.labels), len(dimension.ids)))
        for row, label in enumerate(self.classifier.labels):
            category = self.label_map.get(label, label)
            if category is None:
                continue
            if name_key(category) not in places:
                raise InputError(
                    f"`label_map` must say which category the label {label!r} stands for, one of "
                    f"{list(dimension.ids)} of dimension {dimension.name!r} or None for none; the classifier's labels "
                    f"are {list(self.classifier.labels)}."
                )
            matrix[row, places[name_key(category)]] = 1
        lacking = [category for category, total in zip(dimension.ids, matrix.sum(axis=0), strict=True) if not total]
        if lacking:
            raise InputError(
                f"`label_map` must give each category of dimension {dimension.name!r} a label, {lacking[0]!r} has "
                f"none; its share would always be 0; the classifier's labels are {list(self.classifier.labels)}."
            )
        return matrix
