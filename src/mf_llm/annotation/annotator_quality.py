"""`AnnotatorQuality`: how well an annotator agrees with people, with intervals over events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.annotation.annotator import Annotations, Annotator
from mf_llm.annotation.labelled_texts import LabelledTexts
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import clamp
from mf_llm.evaluation.intervals import N_BOOTSTRAP, Interval, event_draws, generator, interval
from mf_llm.evaluation.provenance import data_hash

Floats = NDArray[np.float64]

N_BINS = 10


@dataclass(frozen=True)
class AnnotatorQuality:
    """Agreement with people's labels.

    A text without an answer is a miss: it lowers accuracy, recall and F1. Calibration scores are over answered texts.

    Attributes:
        dimension, categories: what was read.
        n_texts, n_events: how much it was read out of.
        failures: reason -> number of texts without an answer.
        accuracy: share of texts whose likeliest category is the people's.
        macro_f1: mean F1 of the categories that occur.
        f1, precision, recall: per category.
        ece: expected calibration error of the likeliest category, in `N_BINS` bins of equal mass.
        brier: mean squared distance to the people's category, 0 to 2.
        nll: mean -log probability of the people's category, in nats, clamped at 1e-4.
        confusion: `[K][K]` texts: people's category by likeliest category.
        record: fingerprint of the annotator, hash of the events, seed of the bootstrap.
    """

    dimension: str
    categories: tuple[str, ...]
    n_texts: int
    n_events: int
    failures: dict[str, int]
    accuracy: Interval
    macro_f1: Interval
    f1: dict[str, Interval]
    precision: dict[str, Interval]
    recall: dict[str, Interval]
    ece: Interval | None
    brier: Interval | None
    nll: Interval | None
    confusion: tuple[tuple[int, ...], ...]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def n_failed(self) -> int:
        """Texts without an answer."""
        return sum(self.failures.values())

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        bounds = {name: None if (one := getattr(self, name)) is None else one.to_dict() for name in _SCORES}
        classes = {
            name: {category: one.to_dict() for category, one in getattr(self, name).items()} for name in _PER_CLASS
        }
        return {
            "dimension": self.dimension,
            "categories": list(self.categories),
            "n_texts": self.n_texts,
            "n_events": self.n_events,
            "n_failed": self.n_failed,
            "failures": self.failures,
            **bounds,
            **classes,
            "confusion": [list(row) for row in self.confusion],
            **self.record,
        }

    def confusion_rows(self) -> list[dict[str, Any]]:
        """One row per pair of categories, for a CSV file with the columns `CONFUSION_COLUMNS`."""
        return [
            {"dimension": self.dimension, "people": true, "annotator": read, "n": count}
            for true, row in zip(self.categories, self.confusion, strict=True)
            for read, count in zip(self.categories, row, strict=True)
        ]

    def table(self, width: int = 120) -> str:
        """Scores with 95 % bootstrap over events, scores per category and the confusion matrix as text."""
        from mf_llm.evaluation.tables import render, score

        def cells(one: Interval | None) -> tuple[str, str]:
            bounds = "" if one is None or one.low is None else f"{one.low:.3f} to {one.high:.3f}"
            return score(None if one is None else one.value), bounds

        failed = f", {self.n_failed} without an answer {self.failures}" if self.n_failed else ""
        title = f"{self.dimension} ({len(self.categories)}): {self.n_texts} texts of {self.n_events} events{failed}"
        rows = [(label, *cells(getattr(self, name))) for name, label in _SCORES.items()]
        parts = [title, render("Scores", ["score", "value", "95 %"], rows, width)]
        per_class = [
            (category, *(score(getattr(self, name)[category].to_dict(), bounds=True) for name in _PER_CLASS))
            for category in self.categories
        ]
        parts.append(render("Categories", ["category", *_PER_CLASS], per_class, width))
        counts = [(name, *map(str, row)) for name, row in zip(self.categories, self.confusion, strict=True)]
        parts.append(render("Confusion", ["people \\ annotator", *self.categories], counts, width))
        return "\n".join(part.rstrip() + "\n" for part in parts)


CONFUSION_COLUMNS = ("dimension", "people", "annotator", "n")
_SCORES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "ece": "calibration error",
    "brier": "Brier score",
    "nll": "NLL (nats)",
}
_PER_CLASS = ("f1", "precision", "recall")


def assess_annotator(
    annotator: Annotator, texts: LabelledTexts, *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> AnnotatorQuality:
    """Lets an annotator read texts whose categories people gave, and compares.

    Args:
        annotator: the annotator.
        texts: held-out texts: of events it was not fitted on.
        seed: seed of the bootstrap.
        n_bootstrap: bootstrap samples.
    """
    annotations = annotator.annotate(texts.texts, texts.topics, texts.dimension)
    record = {"annotator": annotator.name, "fingerprint": annotator.fingerprint()}
    return quality(annotations, texts, seed=seed, n_bootstrap=n_bootstrap, record=record)


def quality(
    annotations: Annotations,
    texts: LabelledTexts,
    *,
    seed: int = 0,
    n_bootstrap: int = N_BOOTSTRAP,
    record: dict[str, Any] | None = None,
) -> AnnotatorQuality:
    """Compares annotations with the labels of people.

    Args:
        annotations: one row for each of `texts`.
        texts: the labelled texts.
        seed: seed of the bootstrap.
        n_bootstrap: bootstrap samples.
        record: what else the result should carry.

    Raises:
        InputError: the annotations have other rows or categories than the texts.
    """
    categories = texts.dimension.ids
    if len(annotations) != len(texts) or annotations.categories != categories:
        raise InputError(
            f"`annotations` must be of the {len(texts)} texts on {list(categories)}, got {len(annotations)} on "
            f"{list(annotations.categories)}; rows would be compared with other texts; annotate these texts."
        )
    places, events = _events_of(texts)
    sums = _sums(annotations, texts.truth, places, len(events))
    # The bins are those of all texts: only what falls into them is resampled.
    draws = event_draws(events, generator(seed, "annotator quality", texts.dimension.name), n_bootstrap)
    times = np.stack([np.bincount(draw, minlength=len(events)) for draw in draws]).astype(np.float64)
    one = _scores({name: values.sum(axis=0)[None] for name, values in sums.items()})
    many = _scores({name: np.tensordot(times, values, axes=1) for name, values in sums.items()})

    def bounded(name: str, *place: int) -> Interval | None:
        value = float(one[name][0, *place])
        where: Any = (slice(None), *place)
        return None if np.isnan(value) else interval(value, many[name][where])

    scores: dict[str, Any] = {name: bounded(name) for name in _SCORES}
    scores |= {
        name: {
            category: bounded(name, k) or Interval(float("nan"), None, None) for k, category in enumerate(categories)
        }
        for name in _PER_CLASS
    }
    return AnnotatorQuality(
        dimension=texts.dimension.name,
        categories=categories,
        n_texts=len(texts),
        n_events=len(events),
        failures=annotations.failure_counts,
        **scores,
        confusion=tuple(tuple(map(int, row)) for row in sums["confusion"].sum(axis=0)),
        record={"data_hash": data_hash(events), "seed": seed, "n_bootstrap": n_bootstrap, **(record or {})},
    )


def _events_of(texts: LabelledTexts) -> tuple[NDArray[np.int64], list[Any]]:
    """Each text's place among the events that have any."""
    used, places = np.unique(texts.places, return_inverse=True)
    return places, [texts.events[place] for place in used]


def _sums(
    annotations: Annotations, truth: NDArray[np.int64], places: NDArray[np.int64], n_events: int
) -> dict[str, Floats]:
    """Per event E what all scores follow from: counts and sums that add up over events."""
    k, ok, read = len(annotations.categories), annotations.answered, annotations.indices()
    confusion, missed = np.zeros((n_events, k, k)), np.zeros((n_events, k))
    np.add.at(confusion, (places[ok], truth[ok], read[ok]), 1)
    np.add.at(missed, (places[~ok], truth[~ok]), 1)
    p, true = annotations.probabilities[ok], truth[ok]
    squares = ((p - np.eye(k)[true]) ** 2).sum(axis=1)
    losses = -np.log(clamp(p)[np.arange(len(true)), true]) if len(true) else np.zeros(0)
    sure, hit = p.max(axis=1, initial=0.0), (read[ok] == true).astype(np.float64)
    bins = np.zeros((n_events, N_BINS, 2))
    np.add.at(bins, (places[ok], equal_mass_bins(sure, N_BINS)), np.stack([sure, hit], axis=1))
    answers = np.zeros((n_events, 3))
    np.add.at(answers, places[ok], np.stack([np.ones(len(true)), squares, losses], axis=1))
    return {"confusion": confusion, "missed": missed, "bins": bins, "answers": answers}


def _scores(sums: dict[str, Floats]) -> dict[str, Floats]:
    """Scores `[B]` and `[B, K]` of summed counts; nan where nothing was counted."""
    confusion, missed, answers = sums["confusion"], sums["missed"], sums["answers"]
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    true, read = confusion.sum(axis=2) + missed, confusion.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / (true + read)
        occurs = (true + read) > 0
        return {
            "accuracy": hits.sum(axis=1) / true.sum(axis=1),
            "macro_f1": np.where(occurs, np.nan_to_num(f1), 0).sum(axis=1) / occurs.sum(axis=1),
            "f1": f1,
            "precision": hits / read,
            "recall": hits / true,
            "ece": np.abs(sums["bins"][..., 0] - sums["bins"][..., 1]).sum(axis=1) / answers[:, 0],
            "brier": answers[:, 1] / answers[:, 0],
            "nll": answers[:, 2] / answers[:, 0],
        }


def equal_mass_bins(values: Floats, n_bins: int) -> NDArray[np.int64]:
    """Bin of each value `[n]` so that bins hold as many values each as can be; equal values share a bin.

    Examples:
        >>> equal_mass_bins(np.array([0.9, 0.1, 0.5, 0.5]), 2).tolist()
        [1, 0, 0, 0]
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    first = np.searchsorted(ordered, values, side="left")
    return first * n_bins // max(len(ordered), 1)
