"""`fit_classifier`: a classifier head on frozen text states, fitted on what people labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.annotation.annotator import Annotations
from mf_llm.annotation.classifier_annotator import ClassifierAnnotator, HeadClassifier
from mf_llm.annotation.classifier_head import ClassifierHead
from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.annotation.labelled_texts import LabelledTexts, labelled_texts
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import negative_log_likelihood
from mf_llm.events.event import Event
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.models.text_states import TextStates

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# The score of a category that no fitted text has: e^-30 of the others' probability.
_ABSENT = -30.0


@dataclass(frozen=True, eq=False)
class FittedClassifier:
    """What `fit_classifier` made.

    Attributes:
        annotator: the classifier.
        texts: what it was fitted on.
        held_out: what heads that had not seen a text's event read out of it (cross-validation, chosen penalty). This
            is what error rates may be counted on; on `texts` the annotator itself knows the answers.
        scores: C, the inverse strength of the penalty -> NLL of the held-out readings, in nats per text.
    """

    annotator: ClassifierAnnotator
    texts: LabelledTexts
    held_out: Annotations
    scores: dict[float, float]


def fit_classifier(
    events: Sequence[Event],
    dimension: Dimension,
    *,
    backbone: str | PreTrainedModel = DEFAULT_BACKBONE,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: Any = "auto",
    layer: str | int = "middle",
    with_topic: bool = False,
    limit: int | None = None,
    class_weight: str | None = None,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 0,
) -> FittedClassifier:
    """Fits a multinomial logistic regression on frozen text states.

    The strength of its L2 penalty is the one with the lowest NLL in cross-validation over events: texts of one event
    are alike, so that a random split of texts would choose too weak a penalty.

    Args:
        events: labelled events, of the train split.
        dimension: what was labelled.
        backbone: a causal language model, its folder or its Hub id.
        tokenizer: the tokenizer of a `backbone` that is loaded already.
        dtype: type of the weights of a `backbone` that is named.
        layer, with_topic: see `TextStates`.
        limit: a sample of this many texts.
        class_weight: None; or "balanced", which counts rare categories as much as frequent ones: a higher macro-F1,
            and shares of rare categories that are too large.
        penalties: C (inverse strengths) to choose from, for standardised states.
        folds: parts of the cross-validation; fewer where there are fewer events.
        seed: seed of the sample and of the folds.

    Raises:
        InputError: scikit-learn is not installed, `class_weight` is unknown, there is one event only, or all texts
            have one category.
    """
    _require_sklearn()
    if class_weight not in (None, "balanced"):
        raise InputError(
            f"`class_weight` must be None or 'balanced', got {class_weight!r}; the head cannot be fitted; choose one."
        )
    texts = labelled_texts(events, dimension, limit=limit, seed=seed)
    if len(np.unique(texts.truth)) < 2 or len(np.unique(texts.places)) < 2:
        raise InputError(
            f"`events` must hold two categories of {dimension.name!r} in two events, got {texts.counts} in "
            f"{len(np.unique(texts.places))}; nothing can be told apart; give more events or raise `limit`."
        )
    backbone, tokenizer, made_with = _ready(backbone, tokenizer, dtype)
    states = TextStates(backbone, tokenizer, layer=layer, with_topic=with_topic)
    x = states(texts.texts, texts.topics)
    readable = np.flatnonzero(np.isfinite(x).all(axis=1))
    x, texts = x[readable], texts.rows(readable)
    k = len(dimension.ids)
    readings = {c: _held_out(x, texts, k, c, class_weight, folds, seed) for c in penalties}
    scores = {c: negative_log_likelihood(texts.truth, p) for c, p in readings.items()}
    best = min(scores, key=lambda c: scores[c])
    weight, bias = _fit(x, texts.truth, k, best, class_weight)
    record = {
        "backbone": made_with,
        "states": states.settings(),
        "pooling": "mean",
        "data": {"sha256": texts.content_hash(), "n_texts": len(texts), "counts": texts.counts},
        "penalty": {"C": best, "nll": {f"{c:g}": score for c, score in scores.items()}, "folds": folds},
        "class_weight": class_weight,
        "seed": seed,
        "versions": _versions(),
    }
    head = ClassifierHead(dimension.name, dimension.ids, weight, bias, record)
    held_out = Annotations.of(dimension.ids, readings[best], [None] * len(texts))
    return FittedClassifier(ClassifierAnnotator(HeadClassifier(head, states)), texts, held_out, scores)


def _require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "the package `scikit-learn` is not installed; heads are fitted with it (a saved one is used without); "
            "install it with: pip install 'mf-llm[eval]'"
        ) from error


def _ready(
    backbone: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, dtype: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    import torch

    from mf_llm.models.backbones import load_tokenizer, ready_backbone
    from mf_llm.simulation.provenance import weights_fingerprint

    named = isinstance(backbone, str)
    model = ready_backbone(backbone, dtype=dtype) if named else ready_backbone(backbone)
    if named and torch.cuda.is_available():
        model = model.to("cuda")  # type: ignore[arg-type]
    if tokenizer is None:
        tokenizer = load_tokenizer(backbone if isinstance(backbone, str) else str(model.name_or_path))
    source = getattr(model, "backbone_source", None)
    made_with = {
        "name": model.name_or_path,
        "revision": None if source is None else source.revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": weights_fingerprint(model),
    }
    return model, tokenizer, made_with


def _held_out(
    x: Floats, texts: LabelledTexts, k: int, c: float, class_weight: str | None, folds: int, seed: int
) -> Floats:
    """Probabilities `[n, K]` of each text by a head that was fitted on the other folds' events."""
    from sklearn.model_selection import GroupKFold

    folds = min(folds, len(np.unique(texts.places)))
    p = np.empty((len(x), k))
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(x, groups=texts.places):
        head = ClassifierHead(
            "", tuple(map(str, range(k))), *_fit(x[train], texts.truth[train], k, c, class_weight), {}
        )
        p[test] = head.probabilities(x[test])
    return p


def _fit(x: Floats, truth: NDArray[np.int64], k: int, c: float, class_weight: str | None) -> tuple[Floats, Floats]:
    """Weight `[K, H]` and bias `[K]` on states as they are; standardised while fitting."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    weight, bias = np.zeros((k, x.shape[1])), np.full(k, _ABSENT)
    seen = np.unique(truth)
    if len(seen) == 1:  # a fold may lack all other categories
        bias[seen] = 0.0
        return weight, bias
    model = LogisticRegression(C=c, class_weight=class_weight, max_iter=1000).fit((x - mean) / scale, truth)
    if len(seen) == 2:  # scikit-learn keeps one row for two categories
        weight[seen[1]] = model.coef_[0] / scale
        bias[seen] = 0.0, model.intercept_[0]
    else:
        weight[seen], bias[seen] = model.coef_ / scale, model.intercept_
    bias[seen] -= weight[seen] @ mean
    return weight, bias


def _versions() -> dict[str, str]:
    from mf_llm.evaluation.provenance import versions

    return versions(("numpy", "torch", "transformers", "scikit-learn"))
