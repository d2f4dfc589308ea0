"""The `evaluate` module population_kl: how far a simulated population is from the human one, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .divergence import clamp, entropy_ratio, js_divergence, kl_divergence, label_counts, normalise, smooth
from .divergence import total_variation as total_variation_of

_DESCRIPTION = """\
KL(P || Q) in nats between the distribution of human reactions (references, P) and of simulated ones (predictions, Q),
per step and as a mean over steps, with Jensen-Shannon divergence, total variation and entropy ratio beside it.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: simulated reactions: one label (str or int) or one distribution (list of K floats) per row.
    references: human reactions: one label or one distribution per row.
    steps: step of each row. Without it, labels form one step, and each row of two lists of distributions is a step.
    weights: weight of each row (survey weights), >= 0; their unit does not matter.
    categories: the K category names, in order. Needed for distributions beside labels; otherwise the labels seen.
Returns:
    kl, js, total_variation: means over steps. entropy_ratio: H(mean Q) / H(mean P) over all steps.
    kl_per_step, js_per_step, total_variation_per_step, entropy_ratio_per_step: lists, in the order of `steps`.
    steps: the steps, in order of appearance. categories: the K names, or None.
    n_steps: number of steps. n_rows: number of rows.
Examples:
    >>> metric = evaluate.load("src/mf_llm/metrics/population_kl")
    >>> metric.compute(predictions=[[0.5, 0.5]], references=[[0.9, 0.1]])["kl"]
    0.368...
"""

_CITATION = """\
@article{mfllm2025,
  title={MF-LLM: Simulating Population Decision Dynamics via a Mean-Field Large Language Model Framework},
  journal={arXiv preprint arXiv:2504.21582},
  year={2025}
}
"""


def _feature_alternatives() -> list[datasets.Features]:
    """Lists come first: a string feature would swallow them as text."""
    shares = datasets.Sequence(datasets.Value("float64"))
    text, number = datasets.Value("string"), datasets.Value("int64")
    pairs = [(shares, shares), (shares, text), (number, number), (text, text)]
    return [datasets.Features({"predictions": q, "references": p}) for q, p in pairs]


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PopulationKL(evaluate.Metric):
    """KL(P || Q) between human and simulated populations."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=_feature_alternatives(),
            reference_urls=["https://arxiv.org/abs/2504.21582"],
        )

    def _compute(
        self,
        predictions: Sequence[Any],
        references: Sequence[Any],
        steps: Sequence[Any] | None = None,
        weights: Sequence[float] | None = None,
        categories: Sequence[Any] | None = None,
    ) -> dict[str, Any]:
        n_rows = len(references)
        if n_rows == 0:
            raise ValueError("`references` must hold at least one row, got none; there is no population to compare.")
        row_weights = _read_weights(weights, n_rows)
        known, n_categories, rows = _read_rows(predictions, references, categories)
        step_names, groups = _group(steps, n_rows, alone=all(values.ndim == 2 for values in rows.values()))
        real, simulated = [], []
        for step, members in zip(step_names, groups, strict=True):
            if row_weights[members].sum() == 0:
                raise ValueError(f"`weights` must not all be 0 in a step, got only 0 in step {step!r}; leave it out.")
            real.append(_shares(rows["references"], members, row_weights, n_categories, simulated=False))
            simulated.append(_shares(rows["predictions"], members, row_weights, n_categories, simulated=True))
        p, q = np.stack(real), np.stack(simulated)
        per_step = {
            "kl": kl_divergence(p, q),
            "js": js_divergence(p, q),
            "total_variation": total_variation_of(p, q),
        }
        scores: dict[str, Any] = {name: float(values.mean()) for name, values in per_step.items()}
        # A mean of ratios would be ruled by the steps in which nearly everybody agrees.
        scores["entropy_ratio"] = float(entropy_ratio(p.mean(axis=0), q.mean(axis=0)))
        per_step["entropy_ratio"] = entropy_ratio(p, q)
        scores |= {f"{name}_per_step": values.tolist() for name, values in per_step.items()}
        return scores | {
            "steps": step_names,
            "categories": known,
            "n_steps": len(step_names),
            "n_rows": n_rows,
        }


def _read_weights(weights: Sequence[float] | None, n_rows: int) -> np.ndarray:
    if weights is None:
        return np.ones(n_rows)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (n_rows,):
        raise ValueError(f"`weights` must hold one number per row ({n_rows}), got {values.size}; give one per row.")
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise ValueError("`weights` must be finite and >= 0; shares would be meaningless; check the weights.")
    return values


def _group(steps: Sequence[Any] | None, n_rows: int, *, alone: bool) -> tuple[list[Any], list[np.ndarray]]:
    if steps is None:
        return (list(range(n_rows)), list(np.arange(n_rows)[:, None])) if alone else ([0], [np.arange(n_rows)])
    steps = np.asarray(steps).tolist()
    if len(steps) != n_rows:
        raise ValueError(f"`steps` must hold one step per row ({n_rows}), got {len(steps)}; give one per row.")
    members: dict[Any, list[int]] = {}
    for row, step in enumerate(steps):
        members.setdefault(step, []).append(row)
    return list(members), [np.asarray(rows) for rows in members.values()]


def _is_distribution(value: Any) -> bool:
    return isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str)


def _read_rows(
    predictions: Sequence[Any], references: Sequence[Any], categories: Sequence[Any] | None
) -> tuple[list[str] | None, int, dict[str, np.ndarray]]:
    """Category names, K, and the rows as category indices `[n]` (labels) or shares `[n, K]` (distributions)."""
    inputs = {"predictions": predictions, "references": references}
    as_shares = {name: _is_distribution(values[0]) for name, values in inputs.items()}
    known = None if categories is None else [str(category) for category in categories]
    if known is not None and len(set(known)) != len(known):
        raise ValueError(f"`categories` must differ from each other, got {known}; name each category once.")
    if known is None and all(as_shares.values()):
        n_categories = len(references[0])
    elif known is None and any(as_shares.values()):
        raise ValueError(
            "`categories` must be given where distributions stand beside labels, got None; the order of the shares "
            "is unknown; give the category names in the order of the shares."
        )
    else:
        if known is None:
            seen = set(predictions) | set(references)
            known = [str(label) for label in sorted(seen)]
        n_categories = len(known)
    rows = {
        name: _read_shares(name, values, n_categories) if as_shares[name] else _read_labels(name, values, known or [])
        for name, values in inputs.items()
    }
    return known, n_categories, rows


def _read_labels(name: str, labels: Sequence[Any], categories: list[str]) -> np.ndarray:
    index = {category: position for position, category in enumerate(categories)}
    try:
        return np.asarray([index[str(label)] for label in labels], dtype=np.int64)
    except KeyError as error:
        raise ValueError(
            f"`{name}` must use the categories {categories}, got {error.args[0]!r}; its share is undefined; add it to "
            "`categories` or leave the row out."
        ) from None


def _read_shares(name: str, values: Sequence[Any], n_categories: int) -> np.ndarray:
    lengths = {len(row) for row in values}
    if lengths != {n_categories}:
        raise ValueError(
            f"`{name}` must hold lists of {n_categories} shares, got lengths {sorted(lengths)}; the categories do not "
            "line up; give one share per category in every row."
        )
    shares = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(shares)) or np.any(shares < 0) or np.any(np.abs(shares.sum(axis=1) - 1) > 1e-3):
        raise ValueError(
            f"`{name}` must be distributions (>= 0, sum 1), first row {shares[0].tolist()}; KL is undefined "
            "otherwise; divide counts by their sum."
        )
    return normalise(shares)


def _shares(
    rows: np.ndarray, members: np.ndarray, weights: np.ndarray, n_categories: int, *, simulated: bool
) -> np.ndarray:
    """Shares `[K]` of one step. Simulated labels are smoothed and exact simulated shares clamped; people never are."""
    weights = weights[members]
    if rows.ndim == 2:
        shares = np.average(rows[members], axis=0, weights=weights)
        return clamp(shares) if simulated else shares
    counts = label_counts(rows[members], n_categories, weights)
    return smooth(counts) if simulated else normalise(counts)
