"""What the training scripts have in common: which events, which backbone, which adapters, what the card says."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.atomic_files import write_csv
from mf_llm.errors import InputError
from mf_llm.events import Event, load_event_sets
from mf_llm.folder_lock import only_writer
from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.redaction import redacted
from mf_llm.simulation.bounds import within_context
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.training.card_data import CardData, TrainingSummary, base_models_of, training_data_of
from mf_llm.training.last_checkpoint import last_checkpoint
from mf_llm.training.lora import ROLES, lora_config
from mf_llm.training.transition_settings import TransitionSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import Trainer, TrainingArguments

    from mf_llm.training.callbacks import EarlyStopping

TRAINING_LOG_FILE = "training_log.csv"


@dataclass
class ScriptArguments:
    """Options of the training scripts beside those of their trainer; the texts of the fields are their help."""

    events: str = field(metadata={"help": "File or folder of events, packaged name, or Hub data set id."})
    data_sets: list[str] | None = field(default=None, metadata={"help": "Only these data sets of a folder."})
    split: str = field(default="train", metadata={"help": "Split of the events that are trained on."})
    dimension: str | None = field(default=None, metadata={"help": "Dimension of the labels; default: the first."})
    action: str = field(default="auto", metadata={"help": "What an action is: auto, text, choice or label_text."})
    agents_per_step: int = field(default=16, metadata={"help": "People in a step."})
    horizon: str = field(
        default="next",
        metadata={"help": "Who is learned from: the next step, or all after it.", "choices": ["next", "all"]},
    )
    transitions_per_event: int = field(default=1, metadata={"help": "Ends of warm-ups drawn per event."})
    transitions_per_survey: int = field(default=16, metadata={"help": "The same for an event with waves."})
    max_transitions: int | None = field(
        default=None, metadata={"help": "At most so many transitions, drawn at random; default: all."}
    )
    max_eval_transitions: int | None = field(
        default=None, metadata={"help": "The same for the validation transitions; default: all."}
    )
    max_history_steps: int = field(default=3, metadata={"help": "Steps before the target that are told."})
    max_states: int = field(default=16, metadata={"help": "Distinct profiles kept of a transition."})
    max_people: int = field(default=64, metadata={"help": "People kept of a transition."})
    backbone: str = field(default=DEFAULT_BACKBONE, metadata={"help": "Folder or Hub id of both roles' base."})
    backbone_revision: str | None = field(default=None, metadata={"help": "Its branch, tag, commit or wheel."})
    dtype: str = field(default="auto", metadata={"help": "Type of the base's weights."})
    lora_r: int = field(default=8, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale of the adapters."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapters."})
    lora_layers: list[int] | None = field(
        default=None, metadata={"help": "Decoder layers with adapters; default: all."}
    )
    patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a better one (with load_best_model_at_end)."},
    )
    card_name: str | None = field(default=None, metadata={"help": "Name in the model card; default: the folder's."})
    licences: list[str] | None = field(default=None, metadata={"help": "Licences of data sets, as NAME=LICENCE."})
    notes: list[str] | None = field(
        default=None, metadata={"help": "Remarks on data sets for the card, as NAME=TEXT."}
    )

    def load_events(self) -> dict[str, list[Event]]:
        """The data sets that were asked for.

        Raises:
            InputError: one of `data_sets` is not there.
        """
        event_sets = load_event_sets(self.events)
        unknown = sorted(set(self.data_sets or ()) - set(event_sets))
        if unknown:
            raise InputError(f"`data_sets` must be some of {', '.join(event_sets)}, got {unknown}; leave them out.")
        return {name: event_sets[name] for name in self.data_sets or event_sets}

    def load_model(self, max_prompt_tokens: int) -> tuple[MFLLMForSimulation, MFLLMProcessor, SimulationConfig]:
        """The backbone as both roles, its processor, and the bounds that a simulation with it has."""
        model = MFLLMForSimulation.from_backbones(
            self.backbone, policy_revision=self.backbone_revision, dtype=self.dtype
        )
        processor = MFLLMProcessor.from_backbones(self.backbone, revision=model.config.policy_revision)
        return model, processor, within_context(model, SimulationConfig(max_prompt_tokens=max_prompt_tokens))

    def transition_settings(self, seed: int) -> TransitionSettings:
        """Which transitions are made."""
        return TransitionSettings(
            dimension=self.dimension,
            action=self.action,
            agents_per_step=self.agents_per_step,
            horizon=self.horizon,
            transitions_per_event=self.transitions_per_event,
            transitions_per_survey=self.transitions_per_survey,
            max_history_steps=self.max_history_steps,
            max_states=self.max_states,
            max_people=self.max_people,
            seed=seed,
        )

    def limited(self, transitions: Dataset, seed: int, *, validation: bool = False) -> Dataset:
        """At most `max_transitions` of them (of the validation split: `max_eval_transitions`)."""
        most = self.max_eval_transitions if validation else self.max_transitions
        if most is None or len(transitions) <= most:
            return transitions
        return transitions.shuffle(seed=seed).select(range(most))

    def lora(self, model: MFLLMForSimulation, roles: Sequence[str] = ROLES) -> LoraConfig:
        """The adapters."""
        options: dict[str, Any] = {"r": self.lora_r, "alpha": self.lora_alpha, "dropout": self.lora_dropout}
        return lora_config(model, roles=tuple(roles), layers=self.lora_layers, **options)

    def early_stopping(self, args: TrainingArguments) -> list[EarlyStopping]:
        """The callback for `patience`, to be added behind all that measure; none without patience.

        Raises:
            InputError: nothing is measured that could get better.
        """
        if not self.patience:
            return []
        strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
        if strategy == "no" or args.metric_for_best_model is None:
            raise InputError(
                f"`patience` must be left out without evaluations and a `metric_for_best_model`, got {self.patience} "
                f"with eval_strategy={strategy!r} and metric_for_best_model="
                f"{args.metric_for_best_model!r}; nothing could get better; set both, or patience 0."
            )
        from mf_llm.training.callbacks import EarlyStopping

        return [EarlyStopping(self.patience)]

    def card(
        self,
        args: TrainingArguments,
        model: MFLLMForSimulation,
        transitions: Dataset,
        event_sets: Mapping[str, Sequence[Event]],
        *,
        summary: str,
        signal: str,
        tags: tuple[str, ...],
        settings: Mapping[str, Any],
    ) -> CardData:
        """What the model card says, except for what the trainer adds.

        Args:
            args: of the trainer.
            model, transitions, event_sets: what is trained on what.
            summary, signal, tags: see `CardData`.
            settings: further hyper-parameters.
        """
        used = set(zip(transitions["data_set"], transitions["event_id"], strict=True))
        languages = {
            event.language for name, events in event_sets.items() for event in events if (name, event.event_id) in used
        }
        names = ("horizon", "agents_per_step", "lora_layers")
        hyper_parameters = dict(settings) | {name: getattr(self, name) for name in names}
        launcher = "accelerate launch" if args.world_size > 1 else "python"
        return CardData(
            name=self.card_name or args.hub_model_id or Path(str(args.output_dir)).name,
            summary=summary,
            base_models=base_models_of(model.config),
            languages=tuple(sorted(filter(None, languages))),
            signal=signal,
            data_sets=training_data_of(
                transitions, event_sets, licences=_pairs(self.licences), notes=_pairs(self.notes)
            ),
            training=TrainingSummary(
                hyper_parameters={key: value for key, value in hyper_parameters.items() if value is not None},
                command=redacted(f"{launcher} {' '.join([f'examples/{Path(sys.argv[0]).name}', *sys.argv[1:]])}"),
            ),
            tags=tags,
        )


def parse_script(description: str, *classes: type) -> tuple[Any, ...]:
    """The dataclasses of a script out of its command line and the YAML file of ``--config``.

    A mistake ends the program with one line; ``--help`` with the help.
    """
    from trl import TrlParser
    from yaml import YAMLError

    try:
        return TrlParser(classes, description=description).parse_args_and_config()  # type: ignore[arg-type]
    except (InputError, ValueError, TypeError, OSError, YAMLError) as error:
        sys.exit(f"error: {' '.join(redacted(str(error)).split())}")


def train_and_save(trainer: Trainer) -> None:
    """Trains, or goes on with it, and leaves checkpoint, model card and training log in the output folder."""
    args = trainer.args
    resume = args.resume_from_checkpoint
    with only_writer(str(args.output_dir)):
        trainer.train(resume_from_checkpoint=last_checkpoint(str(args.output_dir)) if resume == "last" else resume)
        trainer.save_model(args.output_dir)
        if args.should_save:
            write_training_log(trainer)
            print(f"Checkpoint: {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()


def write_training_log(trainer: Trainer) -> Path:
    """Writes everything that was logged as `TRAINING_LOG_FILE` into the output folder, one row per step."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in trainer.state.log_history:
        rows.setdefault(int(entry["step"]), {}).update(entry)
    columns = sorted({name for row in rows.values() for name in row} - {"step", "epoch"})
    path = Path(str(trainer.args.output_dir)) / TRAINING_LOG_FILE
    names = ("step", "epoch", *columns)
    write_csv(path, names, [{name: row.get(name) for name in names} for row in rows.values()])
    return path


def _pairs(entries: Sequence[str] | None) -> dict[str, str]:
    for entry in entries or ():
        if "=" not in entry:
            raise InputError(
                f"`licences` and `notes` must be written NAME=TEXT, got {entry!r}; nobody would be meant."
            )
    return dict(entry.partition("=")[::2] for entry in entries or ())
