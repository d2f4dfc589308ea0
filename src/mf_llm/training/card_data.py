"""What a model card says, as data: bases, training data, training and results."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mf_llm.errors import InputError
from mf_llm.models.wheel_backbones import WHEEL_BACKBONES

if TYPE_CHECKING:
    from transformers import Trainer

    from mf_llm.events import Event
    from mf_llm.models import MFLLMConfig

# What of `TrainingArguments` decides the result; everything else is about the machine or about logging.
HYPER_PARAMETERS = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "bf16",
    "seed",
)

_LISTED_SOURCES = 3
_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets")
_BASE_LICENCES = {base: wheel.licence for base, wheel in WHEEL_BACKBONES.items()}


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The base of a role.

    Attributes:
        role: "policy", "mean_field" or "both".
        base: Hub id, or a folder, of which only the last name is shown.
        revision: commit, or the wheel it came from.
        licence: its licence; those of `WHEEL_BACKBONES` are known.
    """

    role: str
    base: str
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """One data set that was trained on.

    Attributes:
        name: its name.
        licence: as its source states it, None if it states none.
        content_hash: SHA-256 of the events that were used.
        events, transitions, people: how many were used. People count once per transition.
        note: anything else ("waves w3 to w5 only").
        hub_id: data set id on the Hub, if it is public there.
    """

    name: str
    licence: str | None
    content_hash: str
    events: int
    transitions: int
    people: int
    note: str = ""
    hub_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured number.

    Attributes:
        data_set: what it was measured on.
        measure: what was measured ("KL, plain", "gain over carry, anchored").
        value: the number.
        low, high: its 95 % interval.
        events: number of events.
        seeds: number of training seeds.
    """

    data_set: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None
    events: int | None = None
    seeds: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """How it was trained.

    Attributes:
        hyper_parameters: name -> plain value.
        steps: optimiser steps.
        tokens: tokens that went through the trained role with a gradient, None if they were not counted.
        command: the command that trained it, None if unknown.
        versions: package -> version.
    """

    hyper_parameters: Mapping[str, Any]
    steps: int = 0
    tokens: int | None = None
    command: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_trainer(
        cls,
        trainer: Trainer,
        *,
        names: Sequence[str] = (),
        tokens: int | None = None,
        command: str | None = None,
        peft_config: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> TrainingSummary:
        """What a trainer of transformers can tell.

        Args:
            trainer: before, during or after training.
            names: further fields of its arguments that count as hyper-parameters.
            tokens: see the attributes; by default what the trainer counted, if it did.
            command: see the attributes.
            peft_config: the LoRA configuration, or None.
            extra: further hyper-parameters.
        """
        from mf_llm.evaluation.provenance import versions

        args, world = trainer.args, trainer.args.world_size
        values = {name: getattr(args, name) for name in (*HYPER_PARAMETERS, *names)}
        if args.max_steps <= 0:
            del values["max_steps"]
        else:
            del values["num_train_epochs"]
        if world > 1:
            values["processes"] = world
        if peft_config is not None:
            values |= {"lora_r": peft_config.r, "lora_alpha": peft_config.lora_alpha}
            values |= {"lora_dropout": peft_config.lora_dropout}
        return cls(
            hyper_parameters=values | dict(extra or {}),
            steps=trainer.state.global_step,
            tokens=tokens or trainer.state.num_input_tokens_seen or None,
            command=command,
            versions=versions(name for name in _PACKAGES if importlib.util.find_spec(name)),
        )


@dataclass(frozen=True, kw_only=True)
class CardData:
    """Everything a model card says.

    Attributes:
        name: the checkpoint's name, or its Hub id.
        summary: one or two sentences: what it is and how it was trained.
        base_models: the base of each role; one entry "both" where they are tied (see `base_models_of`).
        licence: identifier of the Hub ("apache-2.0").
        languages: codes of the languages it was trained on.
        signal: the signal it is to be simulated with.
        data_sets: what it was trained on.
        training: how; None while that is unknown.
        results: measured numbers; empty before it was evaluated.
        results_file: the file the results come from, relative to the project.
        protocol: version of the measurement protocol.
        curve: picture of the training curve, a file beside the card.
        tags: further tags for the Hub.
        limits: further limits, one sentence each.
        size_limit: what the backbone's size means; a sentence that is true of a small one by default.
        adapters: whether the checkpoint holds adapters, not whole weights.
    """

    name: str
    summary: str
    base_models: tuple[BaseModel, ...]
    licence: str = "apache-2.0"
    languages: tuple[str, ...] = ("en",)
    signal: str = "text"
    data_sets: tuple[TrainingData, ...] = ()
    training: TrainingSummary | None = None
    results: tuple[Result, ...] = ()
    results_file: str | None = None
    protocol: str | None = None
    curve: str | None = None
    tags: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    size_limit: str = "The backbone is small: what its people write is often repetitive or off the topic."
    adapters: bool = True

    def __post_init__(self) -> None:
        for name in ("name", "summary", "licence"):
            if not str(getattr(self, name)).strip():
                raise InputError(f"`{name}` must say something, got nothing; a card without it misleads.")
        if not self.base_models:
            raise InputError("`base_models` must name the base of each role, got none; see `base_models_of`.")


def base_models_of(config: MFLLMConfig, licences: Mapping[str, str] | None = None) -> tuple[BaseModel, ...]:
    """The bases of a checkpoint, for its card.

    Args:
        config: of the checkpoint.
        licences: base -> licence; those of `WHEEL_BACKBONES` are known.
    """
    known = {**_BASE_LICENCES, **(licences or {})}
    roles = ("policy",) if config.tie_backbones else ("policy", "mean_field")
    return tuple(
        BaseModel(
            role="both" if config.tie_backbones else role,
            base=(base := getattr(config, f"{role}_base") or "unnamed"),
            revision=getattr(config, f"{role}_revision"),
            licence=known.get(base),
        )
        for role in roles
    )


def training_data_of(
    transitions: Iterable[Mapping[str, Any]],
    event_sets: Mapping[str, Sequence[Event]],
    *,
    licences: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
) -> tuple[TrainingData, ...]:
    """The data sets behind transitions, counted and hashed, for the card.

    Args:
        transitions: rows of `build_transitions`.
        event_sets: the events they were made from, by data set.
        licences, notes: by data set; see `TrainingData`. Without a note, the sources that the events name.
    """
    from mf_llm.evaluation.provenance import data_hash

    used: dict[str, Counter[str]] = {}
    people: Counter[str] = Counter()
    for row in transitions:
        used.setdefault(row["data_set"], Counter())[row["event_id"]] += 1
        people[row["data_set"]] += len(row["people"])
    return tuple(
        TrainingData(
            name=name,
            licence=(licences or {}).get(name),
            content_hash=data_hash(event for event in event_sets[name] if event.event_id in counts),
            events=len(counts),
            transitions=counts.total(),
            people=people[name],
            note=(notes or {}).get(name) or _sources(event for event in event_sets[name] if event.event_id in counts),
        )
        for name, counts in used.items()
    )


def _sources(events: Iterable[Event]) -> str:
    found = list(dict.fromkeys(event.source for event in events if event.source))
    more = f" and {len(found) - _LISTED_SOURCES} more" if len(found) > _LISTED_SOURCES else ""
    return ", ".join(found[:_LISTED_SOURCES]) + more
