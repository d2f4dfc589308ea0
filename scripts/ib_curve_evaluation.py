"""Measuring the signals of a mean-field model: rate and relevance of each, transition by transition."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from mf_llm.training.data_collator import DataCollatorForIBTune
from mf_llm.training.ib_tune_trainer import IBTuneTrainer
from mf_llm.training.policy_scores import policy_scores, score_trees

Row = dict[str, Any]


def judge(trainer: IBTuneTrainer, rows: list[Row]) -> list[Row]:
    """Draws K signals for each transition, with the same noise for every model.

    Args:
        trainer: its model writes the signals, its policy reads them.
        rows: transitions with a history.

    Returns:
        For each transition its name and, over its K signals, `rate` (nats per signal), `relevance` (nats per person)
        and `tokens`.
    """
    model = trainer.model
    with torch.no_grad():
        prepared = trainer.preparer.prepare(model, rows, ("mean_field",), "evaluation")
        packed = prepared.mean_field
        output = model(**packed.model_inputs("mean_field", model.device))
        log_q = packed.log_probs(output.mean_field_logits, trainer.args.signal_temperature)
    rate = log_q.view(prepared.log_r.shape) - prepared.log_r
    tokens = torch.bincount(packed.node, minlength=log_q.shape[0]).view(rate.shape[:2])
    values = zip(rate.sum(-1).tolist(), prepared.relevance.tolist(), tokens.tolist(), strict=True)
    return [
        _name(row) | {"rate": one, "relevance": two, "tokens": three}
        for row, (one, two, three) in zip(rows, values, strict=True)
    ]


def judge_without(trainer: IBTuneTrainer, rows: list[Row]) -> list[Row]:
    """Relevance where people see no signal at all."""
    collator = trainer.preparer.collator
    with torch.no_grad():
        trees = collator.policy_trees(rows, [None] * len(rows), "evaluation")
        tokens = trainer.args.scoring_tokens
        values = score_trees(trainer.model, "policy", [one.tree for one in trees], collator, batch_tokens=tokens)
    scored = zip(trees, rows, values, strict=True)
    relevance = [float(policy_scores(tree, row, value.sum(-1)).log_likelihood) for tree, row, value in scored]
    return [
        _name(row) | {"rate": [0.0], "relevance": [value], "tokens": [0]}
        for row, value in zip(rows, relevance, strict=True)
    ]


def _name(row: Row) -> Row:
    return {key: row[key] for key in ("data_set", "event_id", "draw", "warm_up")}


def write_from_the_topic_alone(trainer: IBTuneTrainer) -> None:
    """Lets signals be drawn from the prior: at a rate of 0, they show what a signal is worth that knows nothing."""
    known = trainer.preparer.collator
    collator = TopicAlone(**{field.name: getattr(known, field.name) for field in fields(known)})
    trainer.preparer.collator = trainer.preparer.sampler.collator = collator


class TopicAlone(DataCollatorForIBTune):
    """Prompts of the mean-field model that tell nothing of the past."""

    def mean_field_prompt(self, transition: Row, step: int, previous: str | None) -> list[int]:
        return self.processor.mean_field_prior_prompt(transition["topic"], limits=self.limits)
