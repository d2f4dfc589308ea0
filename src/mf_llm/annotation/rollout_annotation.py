"""Labels for the free text of a rollout, so that it can be judged like one that was read out of options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mf_llm.annotation.annotator import Annotations, Annotator
from mf_llm.annotation.annotator_quality import AnnotatorQuality
from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.errors import InputError
from mf_llm.simulation.rollout import SIMULATED, ActionRow, Rollout, StepRow

FAILURE_PREFIX = "annotation: "


def annotate_rollout(
    rollout: Rollout,
    annotator: Annotator,
    dimension: Dimension,
    *,
    hard: bool = False,
    quality: AnnotatorQuality | None = None,
) -> Rollout:
    """A copy of a rollout in which the simulated texts carry what an annotator read out of them.

    A generation that failed stays as it is. A text without an answer stays a row without label and probabilities, with
    the reason in `failure` ("annotation: timeout"); scores count both as failed and never replace them.

    Args:
        rollout: a rollout of free text, or one that was annotated before.
        annotator: who reads.
        dimension: what is read; for scores its categories must be those of the event (`event_dimension`).
        hard: keep the likeliest category as a label (a sampled readout) instead of probabilities (an exact one).
        quality: how well the annotator agrees with people; recorded beside its fingerprint in ``versions``, since
            every score of the rollout depends on it.

    Returns:
        The annotated copy, with the shares of its simulated steps.

    Raises:
        InputError: simulated people chose a category of this dimension themselves, or nobody was simulated.
    """
    rows = rollout.actions
    asked = [place for place, row in enumerate(rows) if row.source == SIMULATED]
    own = rollout.dimension == dimension.name and "annotator" not in rollout.versions
    if own and any(_has_answer(rows[place]) for place in asked):
        raise InputError(
            f"`rollout` must hold free text without labels, the people of event {rollout.event_id!r} chose out of "
            f"{list(rollout.categories)} themselves; their own answers would be lost; judge the rollout as it is."
        )
    if not asked:
        raise InputError(
            f"`rollout` must hold a simulated text, got none for event {rollout.event_id!r}; there is nothing to "
            "annotate; simulate it with action text."
        )
    read = annotator.annotate([rows[place].text for place in asked], rollout.topic, dimension)
    if len(read) != len(asked) or read.categories != dimension.ids:
        raise InputError(
            f"`annotator` must return one row for each of {len(asked)} texts on {list(dimension.ids)}, got "
            f"{len(read)} on {list(read.categories)}; labels would be given to others; correct the annotator."
        )
    actions = list(rows)
    for place, row in zip(asked, _labelled([rows[place] for place in asked], read, hard), strict=True):
        actions[place] = row
    record = {"fingerprint": annotator.fingerprint(), "n_failed": read.n_failed, "failures": read.failure_counts}
    record |= {"name": annotator.name, "dimension": dimension.to_dict()}
    record["quality"] = None if quality is None else quality.to_dict()
    return replace(
        rollout,
        dimension=dimension.name,
        categories=dimension.ids,
        config=rollout.config | {"readout": "sampled" if hard else "exact"},
        versions=rollout.versions | {"annotator": record},
        actions=actions,
        steps=[_with_shares(step, actions, dimension) for step in rollout.steps],
    )


def _has_answer(row: ActionRow) -> bool:
    return row.label is not None or row.probabilities is not None


def _labelled(rows: list[ActionRow], read: Annotations, hard: bool) -> list[ActionRow]:
    labelled = []
    for row, label, p, failure in zip(rows, read.labels(), read.probabilities, read.failures, strict=True):
        soft = None if failure is not None or hard else tuple(map(float, p))
        reason = None if failure is None else FAILURE_PREFIX + failure
        labelled.append(replace(row, label=label, probabilities=soft, failure=reason))
    return labelled


def _with_shares(step: StepRow, actions: list[ActionRow], dimension: Dimension) -> StepRow:
    """The step with its shares; those of the warm-up stay what they are."""
    members = [row for row in actions if row.step == step.step and row.source == SIMULATED and _has_answer(row)]
    if step.real or not members:
        return step
    one_hot = np.eye(len(dimension.ids))
    shares = [
        one_hot[dimension.index(str(row.label))] if row.probabilities is None else np.asarray(row.probabilities)
        for row in members
    ]
    mean = np.average(shares, axis=0, weights=[row.weight for row in members])
    return replace(step, shares=tuple(map(float, mean)))
