"""``mf-llm annotate``: how well an annotator reads what people wrote, and what its errors cost."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.atomic_files import write_csv, write_json
from mf_llm.commands.evaluate_run import terminal_width
from mf_llm.errors import InputError
from mf_llm.events import Event, load_event_sets

if TYPE_CHECKING:
    from mf_llm.annotation import Annotations, Annotator, Dimension
    from mf_llm.annotation.error_correction import CorrectionValidation, ErrorRates
    from mf_llm.annotation.labelled_texts import LabelledTexts
    from mf_llm.annotation.replay import Replay

logger = logging.getLogger(__name__)

ANNOTATORS = ("llm", "classifier", "rule", "endpoint")
KEY_VARIABLE = "MF_LLM_API_KEY"
# Events on which the strength of the correction is chosen; with fewer of them it is the default.
_MAX_CHOOSING, _MIN_CHOOSING = 12, 3


@dataclass(frozen=True, kw_only=True)
class AnnotateRequest:
    """What `run_annotate` is asked for.

    Attributes:
        events: where the events are.
        annotator: one of `ANNOTATORS`.
        model: llm: a causal language model. classifier: a folder written by `ClassifierAnnotator.save` or a
            sequence-classification checkpoint; without it a head is fitted on the train events. endpoint: what the
            server calls its model.
        backbone: what a head is fitted on: a causal language model (default: the default backbone).
        base_url: address of the server (endpoint); its key is read from ``MF_LLM_API_KEY``.
        dimension: what is read (default: the first of the events).
        split: the split on which the annotator is judged.
        output: folder for the results, or None for ``annotations/NAME``.
        limit: judge on no more than this many events of each data set.
        fit_texts: a head is fitted on at most this many texts.
        with_topic, class_weight: how a head is fitted, see `fit_classifier`.
        rate_texts: error rates of an annotator that was not fitted here are counted on this many texts.
        calibrated: divide by likelihoods without content (llm).
        dtype: type of the weights.
        seed: seed of samples and bootstrap.
    """

    events: str
    annotator: str
    model: str | None = None
    backbone: str | None = None
    base_url: str | None = None
    dimension: str | None = None
    split: str = "test"
    output: Path | None = None
    limit: int | None = None
    fit_texts: int = 2000
    with_topic: bool = True
    class_weight: str | None = None
    rate_texts: int = 500
    calibrated: bool = False
    dtype: str = "auto"
    seed: int = 0


def run_annotate(request: AnnotateRequest) -> dict[str, Any]:
    """Judges an annotator on labelled events; writes ``quality.json`` and ``confusion.csv`` and prints tables.

    Returns:
        What stands in ``quality.json``.

    Raises:
        InputError: the annotator is unknown or lacks what it needs, or no data set has labelled texts of the split.
    """
    from mf_llm.annotation.annotator_quality import CONFUSION_COLUMNS
    from mf_llm.evaluation.protocol import PROTOCOL_VERSION
    from mf_llm.evaluation.provenance import versions

    _check(request)
    output = request.output or Path("annotations") / (Path(request.events).name.split(".")[0] or "events")
    shared = _shared_annotator(request)
    sets, skipped, confusion = {}, {}, []
    for name, events in load_event_sets(request.events).items():
        try:
            record, rows = _judge_data_set(name, events, request, shared, output)
        except _Skipped as error:
            skipped[name] = str(error)
            continue
        sets[name] = record
        confusion += [{"dataset": name, **row} for row in rows]
    if not sets:
        raise InputError(
            f"`EVENTS` must hold labelled texts of split {request.split}, got none in {request.events}: "
            + "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            + "; nothing was judged; name another split or dimension."
        )
    summary = {
        "annotator": request.annotator,
        "split": request.split,
        "seed": request.seed,
        "protocol": PROTOCOL_VERSION,
        "versions": versions(("numpy", "torch", "transformers")),
        "data_sets": sets,
        "skipped": skipped,
    }
    write_json(output / "quality.json", summary)
    write_csv(output / "confusion.csv", ("dataset", *CONFUSION_COLUMNS), confusion)
    for name, reason in skipped.items():
        print(f"{name} skipped: {reason}")
    print(f"Results: {output / 'quality.json'} and {output / 'confusion.csv'}")
    return summary


class _Skipped(Exception):
    """A data set that cannot be judged; the message says why."""


def _check(request: AnnotateRequest) -> None:
    if request.annotator not in ANNOTATORS:
        raise InputError(
            f"`--annotator` must be one of {', '.join(ANNOTATORS)}, got {request.annotator!r}; nothing was annotated."
        )
    if request.annotator == "endpoint" and not (request.base_url and request.model):
        raise InputError(
            "`--base-url` and `--model` must be given for the annotator endpoint; nobody can be asked; name the "
            f"server and what it calls its model (its key goes into the variable {KEY_VARIABLE})."
        )
    for option, value in (("--limit", request.limit), ("--fit-texts", request.fit_texts)):
        if value is not None and value < 1:
            raise InputError(f"`{option}` must be at least 1, got {value}; nothing would be read.")


def _shared_annotator(request: AnnotateRequest) -> Annotator | None:
    """The annotator of all data sets; None where one is fitted for each."""
    from mf_llm.annotation import ClassifierAnnotator, EndpointAnnotator, LLMAnnotator, RuleAnnotator
    from mf_llm.annotation.classifier_head import HEAD_FILE
    from mf_llm.models.default_backbone import DEFAULT_BACKBONE

    if request.annotator == "rule":
        return RuleAnnotator()
    if request.annotator == "endpoint":
        return EndpointAnnotator(str(request.base_url), str(request.model), api_key=os.environ.get(KEY_VARIABLE))
    if request.annotator == "llm":
        model = request.model or DEFAULT_BACKBONE
        return LLMAnnotator.from_pretrained(
            model, dtype=request.dtype, calibrated=request.calibrated, seed=request.seed
        )
    if request.model is None:
        return None
    if (Path(request.model) / HEAD_FILE).is_file():
        return ClassifierAnnotator.load(request.model)
    return ClassifierAnnotator.from_checkpoint(request.model)


def _judge_data_set(
    name: str, events: Sequence[Event], request: AnnotateRequest, shared: Annotator | None, output: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from mf_llm.annotation.annotator_quality import quality
    from mf_llm.annotation.labelled_texts import labelled_texts

    dimension = _dimension(events, request)
    judged = [event for event in events if event.split == request.split and _has_words(event, dimension.name)]
    judged = judged[: request.limit]
    if not judged:
        raise _Skipped(f"no labelled text of dimension {dimension.name!r} in split {request.split}")
    annotator, rates = shared, None
    if annotator is None:
        annotator, rates = _fitted(events, dimension, request, output / name)
    texts = labelled_texts(judged, dimension, words=False)
    read = annotator.annotate(texts.texts, texts.topics, dimension)
    record = {"annotator": annotator.name, "fingerprint": annotator.fingerprint()}
    found = quality(read, texts, seed=request.seed, record=record)
    print(f"{name}: {annotator.name}\n{found.table(terminal_width())}")
    done = _replay(name, events, texts, read, annotator, request.seed)
    correction = None
    if done is not None:
        rates = rates or _counted_rates(events, dimension, annotator, request)
        correction = None if rates is None else _validated(name, events, dimension, annotator, rates, done)
    _print_costs(done, correction)
    return {
        "quality": found.to_dict(),
        "replay": None if done is None else done.to_dict(),
        "error_rates": None if rates is None else rates.to_dict(),
        "correction": None if correction is None else correction.to_dict(),
    }, found.confusion_rows()


def _dimension(events: Sequence[Event], request: AnnotateRequest) -> Dimension:
    from mf_llm.annotation import event_dimension

    for event in events:
        if event.dimensions and (request.dimension is None or request.dimension in event.dimensions):
            return event_dimension(event, request.dimension)
    raise _Skipped(f"no event has the dimension {request.dimension!r}" if request.dimension else "no dimension")


def _has_words(event: Event, dimension: str) -> bool:
    return any(dimension in turn.labels and turn.action.strip() for turn in event.turns)


def _fitted(
    events: Sequence[Event], dimension: Dimension, request: AnnotateRequest, folder: Path
) -> tuple[Annotator, ErrorRates]:
    """A head fitted on the train events, and the errors of heads that had not seen a text's event."""
    from mf_llm.annotation import fit_classifier
    from mf_llm.annotation.error_correction import error_rates
    from mf_llm.models.default_backbone import DEFAULT_BACKBONE

    train = [event for event in events if event.split == "train"]
    if request.split == "train" or not any(_has_words(event, dimension.name) for event in train):
        raise _Skipped("a classifier is fitted on train events and judged on others, and there are none")
    made = fit_classifier(
        train,
        dimension,
        backbone=request.backbone or DEFAULT_BACKBONE,
        dtype=request.dtype,
        with_topic=request.with_topic,
        class_weight=request.class_weight,
        limit=request.fit_texts,
        seed=request.seed,
    )
    print(f"Fitted on {len(made.texts)} texts; kept in {made.annotator.save(folder)}")
    return made.annotator, error_rates(made.held_out, made.texts.truth)


def _counted_rates(
    events: Sequence[Event], dimension: Dimension, annotator: Annotator, request: AnnotateRequest
) -> ErrorRates | None:
    """Errors of an annotator on a sample of the train and validation texts."""
    from mf_llm.annotation.error_correction import error_rates
    from mf_llm.annotation.labelled_texts import labelled_texts

    known = [e for e in events if e.split in ("train", "validation") and e.split != request.split]
    if not any(_has_words(event, dimension.name) for event in known):
        return None
    texts = labelled_texts(known, dimension, limit=request.rate_texts, words=False, seed=request.seed)
    read = annotator.annotate(texts.texts, texts.topics, dimension)
    return error_rates(read, texts.truth) if read.answered.any() else None


def _replay(
    name: str, events: Sequence[Event], texts: LabelledTexts, read: Annotations, annotator: Annotator, seed: int
) -> Replay | None:
    """The replay of the events whose texts were read; None where none is long enough."""
    from mf_llm.annotation.replay import judged_people, replay_of
    from mf_llm.evaluation.paired import Resampling
    from mf_llm.evaluation.protocol import choose_windows, plan_event

    windows = choose_windows(events, texts.dimension.name)
    plans, readings = [], {}
    for place, event in enumerate(texts.events):
        plan = plan_event(event, windows, texts.dimension.name)
        rows = {int(texts.turns[row]): int(row) for row in np.flatnonzero(texts.places == place)}
        annotations = read.rows([rows[turn] for turn in judged_people(plan)])
        if plan.n_windows and annotations.answered.any():
            plans.append(plan)
            readings[event.event_id] = annotations
    if not plans:
        return None
    return replay_of(plans, readings, name=annotator.name, data_set=name, resampling=Resampling(seed))


def _validated(
    name: str, events: Sequence[Event], dimension: Dimension, annotator: Annotator, rates: ErrorRates, done: Replay
) -> CorrectionValidation:
    """The correction on the judged events; its strength is chosen on validation events where there are enough."""
    from mf_llm.annotation.error_correction import (
        DEFAULT_STRENGTH,
        choose_strength,
        validate_correction,
        with_strength,
    )
    from mf_llm.annotation.replay import replay

    windows = done.events[0].plan.windows
    judged = {one.plan.event.event_id for one in done.events}
    known = [event for event in events if event.split == "validation" and event.event_id not in judged]
    rates = with_strength(rates, DEFAULT_STRENGTH)
    if len(known) >= _MIN_CHOOSING:
        try:
            kept = replay(known, annotator, dimension, windows=windows, split=None, limit=_MAX_CHOOSING)
        except InputError as error:
            logger.info("%s: the strength of the correction is the default: %s", name, error)
        else:
            rates = choose_strength(kept.events, rates)
    return validate_correction(done.events, rates, data_set=name, resampling=done.resampling)


def _print_costs(done: Replay | None, correction: CorrectionValidation | None) -> None:
    if done is None:
        print("No event is long enough for a window: no replay.\n")
        return
    record = done.to_dict()
    low, high = record["kl"]["low"], record["kl"]["high"]
    bounds = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    print(
        f"Replay: annotation alone costs KL {record['kl']['value']:.3f}{bounds} nats on {record['n_events']} events "
        f"(sampling alone: {record['sampling_alone']:.3f})."
    )
    if correction is not None:
        print(
            f"Correction (strength {correction.strength:g}): KL {correction.before} before, {correction.after} after, "
            f"change {correction.change}: {'it helps' if correction.helps else 'no gain is shown'}.\n"
        )
    else:
        print("No labelled texts of other splits to count errors on: no correction.\n")
