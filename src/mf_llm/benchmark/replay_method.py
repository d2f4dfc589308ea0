"""`ReplayMethod`: what annotation alone costs, as a row beside methods: people's real texts, read by an annotator."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.judging_task import JudgingTask
from mf_llm.evaluation.method_table import Cell
from mf_llm.evaluation.paired import MethodScores
from mf_llm.json_records import read_record

if TYPE_CHECKING:
    from mf_llm.annotation import Annotations, Annotator, Dimension

ANNOTATORS = ("rule", "classifier", "llm")
FIT_TEXTS = 2000
_BEHAVIOUR = "behaviour"


class ReplayMethod:
    """Reads the texts of the judged people with an annotator; a classifier is fitted on the train events first.

    What was read is kept without the texts: one JSON file per data set, named by a hash of annotator, texts and
    judged people.

    Args:
        name: of the row.
        annotator: "rule", "classifier" (a head on frozen features of the backbone) or "llm" (option likelihoods).
        folder: where readings and heads are kept.
        base: the backbone.
        read: read what is not there yet; without it that is missing.
        seed: of samples.

    Attributes:
        readout: "exact": probabilities are summed.
        quality: data set -> agreement with people's labels on the judged texts, as a JSON object.
    """

    readout = "exact"

    def __init__(
        self,
        name: str,
        annotator: str,
        folder: Path,
        *,
        base: str,
        read: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.annotator, self.folder = name, annotator, folder
        self.base, self.read, self.seed = base, read, seed
        self.quality: dict[str, Any] = {}

    def judge(self, task: JudgingTask) -> Cell:
        """The judged events as the annotator reads them."""
        from mf_llm.annotation import event_dimension
        from mf_llm.annotation.replay import judge_annotated, judged_people

        plans = task.plans
        turns = [plan.event.turns[turn] for plan in plans for turn in judged_people(plan)]
        if not any(turn.action.strip() for turn in turns):
            return Cell(None, "people wrote nothing")
        if self.annotator == "rule" and task.training.dimension != _BEHAVIOUR:
            return Cell(None, f"the rule reads {_BEHAVIOUR} alone")
        dimension = event_dimension(plans[0].event, task.training.dimension)
        path = self._path(task)
        if not path.is_file():
            if not self.read:
                return Cell(None, "not annotated")
            try:
                self._annotate(task, dimension, path)
            except InputError as error:
                return Cell(None, str(error))
        record = read_record(path, "`mf-llm compare`", {"quality": dict, "probabilities": list, "failures": list})
        self.quality[task.data_set] = record["quality"]
        read = _annotations(record, dimension)
        judged, place = [], 0
        for plan in plans:
            n_people = len(judged_people(plan))
            judged.append(judge_annotated(plan, read.rows(np.arange(place, place + n_people))))
            place += n_people
        return Cell(MethodScores(self.name, task.label, {0: judged}))

    def quality_rows(self) -> list[dict[str, Any]]:
        """The scores that tell most, one row per data set."""
        columns = ("annotator", "data_set", "n_texts", "accuracy", "macro_f1", "ece", "nll", "n_failed")
        return [{column: one[column] for column in columns} for one in self.quality.values()]

    def _path(self, task: JudgingTask) -> Path:
        from mf_llm.annotation.replay import judged_people

        train = [event.content_hash() for event in task.training.train] if self.annotator == "classifier" else []
        people = [(plan.event.content_hash(), judged_people(plan)) for plan in task.plans]
        made = [self.annotator, self.base, self.seed, task.training.dimension, train, people]
        digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]
        return self.folder / self.name / f"{task.data_set}-{digest}" / "annotations.json"

    def _annotate(self, task: JudgingTask, dimension: Dimension, path: Path) -> None:
        from mf_llm.annotation.annotator_quality import quality
        from mf_llm.annotation.labelled_texts import LabelledTexts
        from mf_llm.annotation.replay import judged_people

        people = [(place, int(turn)) for place, plan in enumerate(task.plans) for turn in judged_people(plan)]
        places, turns = np.asarray(people, dtype=np.int64).T
        truth = np.asarray([task.plans[place].labels[turn] for place, turn in people], dtype=np.int64)
        texts = LabelledTexts(dimension, tuple(plan.event for plan in task.plans), places, turns, truth)
        annotator = self._annotator(task, dimension, path.parent)
        read = annotator.annotate(texts.texts, texts.topics, dimension)
        found = quality(read, texts, seed=self.seed, record={"fingerprint": annotator.fingerprint()})
        write_json(
            path,
            {
                "categories": list(dimension.ids),
                "probabilities": np.nan_to_num(read.probabilities).round(6),
                "failures": list(read.failures),
                "quality": {"annotator": self.annotator, "data_set": task.data_set, **found.to_dict()},
            },
        )

    def _annotator(self, task: JudgingTask, dimension: Dimension, folder: Path) -> Annotator:
        from mf_llm.annotation import LLMAnnotator, RuleAnnotator, fit_classifier

        if self.annotator == "rule":
            return RuleAnnotator()
        if self.annotator == "llm":
            return LLMAnnotator.from_pretrained(self.base, seed=self.seed)
        made = fit_classifier(
            task.training.train, dimension, backbone=self.base, with_topic=True, limit=FIT_TEXTS, seed=self.seed
        )
        made.annotator.save(folder)
        return made.annotator


def _annotations(record: dict[str, Any], dimension: Dimension) -> Annotations:
    from mf_llm.annotation import Annotations

    return Annotations.of(dimension.ids, np.asarray(record["probabilities"]), record["failures"])
