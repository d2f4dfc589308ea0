"""`Annotator`: reads a category out of a text a person wrote; `Annotations`: what it read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.errors import InputError

Floats = NDArray[np.float64]

EMPTY_TEXT = "empty_text"
NON_FINITE_LOGITS = "non_finite_logits"

_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Annotations:
    """What an annotator read out of n texts.

    Attributes:
        categories: the K category ids.
        probabilities: `[n, K]` float64; a row sums to 1, or is all nan where there is no valid answer.
        failures: per row why there is no answer ("empty_text", "timeout", ...), or None.

    Raises:
        InputError: the shapes do not fit, a row is no distribution, or a row without an answer has no reason.
    """

    categories: tuple[str, ...]
    probabilities: Floats
    failures: tuple[str | None, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, dtype=np.float64))
        object.__setattr__(self, "failures", tuple(self.failures))
        p, shape = self.probabilities, (len(self.failures), len(self.categories))
        if p.shape != shape:
            raise InputError(
                f"`probabilities` must have shape {shape} (texts, categories), got {p.shape}; rows would belong to "
                "other texts; return one row for each text."
            )
        failed = np.asarray([failure is not None for failure in self.failures], dtype=bool)
        fine = np.all(p >= 0, axis=1) & (np.abs(p.sum(axis=1) - 1) <= _SUM_TOLERANCE)
        wrong = np.flatnonzero(np.where(failed, ~np.isnan(p).all(axis=1), ~fine))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"`probabilities` must be a distribution, or nan with a reason in `failures`, got {p[row].tolist()} "
                f"and {self.failures[row]!r} in row {row}; shares would be wrong; correct the annotator."
            )

    def __len__(self) -> int:
        return len(self.failures)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """`[n]`: True where there is an answer."""
        return np.asarray([failure is None for failure in self.failures], dtype=bool)

    @property
    def n_failed(self) -> int:
        """Rows without an answer."""
        return sum(failure is not None for failure in self.failures)

    @property
    def failure_counts(self) -> dict[str, int]:
        """Reason -> number of rows."""
        return dict(sorted(Counter(failure for failure in self.failures if failure is not None).items()))

    def indices(self) -> NDArray[np.int64]:
        """`[n]`: place of the likeliest category (the first of equals), -1 without an answer."""
        return np.where(self.answered, np.nan_to_num(self.probabilities).argmax(axis=1), -1).astype(np.int64)

    def labels(self) -> list[str | None]:
        """The likeliest category of each text, or None."""
        return [self.categories[k] if k >= 0 else None for k in self.indices().tolist()]

    def hard(self) -> Annotations:
        """The same with all probability on the likeliest category."""
        places = self.indices()
        one_hot = np.where((places >= 0)[:, None], np.eye(len(self.categories))[places], np.nan)
        return Annotations(self.categories, one_hot, self.failures)

    def rows(self, places: Sequence[int] | NDArray[np.int64]) -> Annotations:
        """Some of the rows, in the order of `places`."""
        places = np.asarray(places, dtype=np.int64)
        failures = tuple(self.failures[place] for place in places.tolist())
        return Annotations(self.categories, self.probabilities[places], failures)

    @classmethod
    def of(cls, categories: Sequence[str], probabilities: Floats, failures: Sequence[str | None]) -> Annotations:
        """From rows of which those with a failure, and those that are not finite, hold no answer yet.

        Probabilities are divided by their sum; rows that are not finite become "non_finite_logits".
        """
        p = np.asarray(probabilities, dtype=np.float64).reshape(len(failures), len(categories))
        finite = np.asarray(np.isfinite(p).all(axis=1))
        reasons = [
            failure if failure is not None else None if ok else NON_FINITE_LOGITS
            for failure, ok in zip(failures, finite.tolist(), strict=True)
        ]
        failed = np.asarray([reason is not None for reason in reasons], dtype=bool)[:, None]
        with np.errstate(invalid="ignore"):
            return cls(tuple(categories), np.where(failed, np.nan, p / p.sum(axis=1, keepdims=True)), tuple(reasons))


@runtime_checkable
class Annotator(Protocol):
    """Reads a category out of texts. An answer to a text depends on that text, its topic and the dimension alone."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def annotate(self, texts: Sequence[str], topic: str | Sequence[str], dimension: Dimension) -> Annotations:
        """Reads `dimension` out of n texts.

        Args:
            texts: what people wrote.
            topic: what they reacted to: one topic for all, or one for each text.
            dimension: the question and its K categories.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What a cache or a results file records: kind, model, hash of the weights, prompt version; plain values."""
        ...


def topics_of(topic: str | Sequence[str], n: int) -> list[str]:
    """One topic for each of n texts.

    Raises:
        InputError: there are more or fewer topics than texts.
    """
    topics = [topic] * n if isinstance(topic, str) else list(topic)
    if len(topics) != n:
        raise InputError(
            f"`topic` must be one text, or one for each of the {n} texts, got {len(topics)}; a text would be read "
            "under another's topic; give as many."
        )
    return topics


def blank_failures(texts: Sequence[str]) -> list[str | None]:
    """ "empty_text" for every text without a visible character: nothing can be read out of it."""
    return [None if text.strip() else EMPTY_TEXT for text in texts]
