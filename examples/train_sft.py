"""Fine-tunes the policy alone on what people did: the supervised baseline that IB-Tune is compared with.

    python examples/train_sft.py --config examples/configs/sft_smollm2_covid.yaml [--learning_rate 1e-4 ...]
    mf-llm simulate EVENTS --model runs/sft-smollm2-covid --signal none

People see topic and profile, no signal. What is given on the command line counts more than the YAML file. The output
folder is a checkpoint of `MFLLMForSimulation` with its model card; a run that was stopped goes on with
``--resume_from_checkpoint last``. Several processes: put ``accelerate launch`` in the place of ``python``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, TrlParser

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_event_sets
from mf_llm.atomic_files import write_csv
from mf_llm.events import Event
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.simulation.bounds import prompt_limits, within_context
from mf_llm.training.card_data import CardData, TrainingSummary, base_models_of, training_data_of
from mf_llm.training.lora import lora_config
from mf_llm.training.sft import PolicySFTTrainer, count_tokens, sft_rows, within_budget
from mf_llm.training.transition_settings import TransitionSettings
from mf_llm.training.transitions import build_transitions

LOG_COLUMNS = ("step", "epoch", "loss", "eval_loss", "learning_rate", "num_input_tokens_seen")


@dataclass
class SFTScriptArguments:
    """What is trained on what; how is said by `SFTConfig`."""

    events: str = field(metadata={"help": "File or folder of events, packaged name, or Hub data set id."})
    data_sets: list[str] | None = field(default=None, metadata={"help": "Only these data sets of a folder."})
    split: str = field(default="train", metadata={"help": "Split of the events that are trained on."})
    target: str = field(
        default="label",
        metadata={
            "help": "What is learned of a person: the label, or the whole action.",
            "choices": ["label", "action"],
        },
    )
    budget_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens (prompts and answers) of the whole run, as many as another method got; the data are gone "
            "through as often as it takes, and num_train_epochs is set to 1."
        },
    )
    dimension: str | None = field(default=None, metadata={"help": "Dimension of the labels; default: the first."})
    action: str = field(default="auto", metadata={"help": "What an action is: auto, text, choice or label_text."})
    agents_per_step: int = field(default=16, metadata={"help": "People in a step."})
    horizon: str = field(default="next", metadata={"help": "Who is learned from: the next step, or all after it."})
    transitions_per_event: int = field(default=1, metadata={"help": "Ends of warm-ups drawn per event."})
    transitions_per_survey: int = field(default=16, metadata={"help": "The same for an event with waves."})
    max_states: int = field(default=16, metadata={"help": "Distinct profiles kept of a transition."})
    max_people: int = field(default=64, metadata={"help": "People kept of a transition."})
    backbone: str = field(default=DEFAULT_BACKBONE, metadata={"help": "Folder or Hub id of both roles' base."})
    backbone_revision: str | None = field(default=None, metadata={"help": "Its branch, tag, commit or wheel."})
    dtype: str = field(default="auto", metadata={"help": "Type of the base's weights."})
    max_prompt_tokens: int = field(default=1024, metadata={"help": "Bound of a prompt."})
    lora_r: int = field(default=8, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale of the adapters."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapters."})
    lora_layers: list[int] | None = field(
        default=None, metadata={"help": "Decoder layers with adapters; default: all."}
    )
    patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a lower loss (with load_best_model_at_end)."},
    )
    card_name: str | None = field(default=None, metadata={"help": "Name in the model card; default: the folder's."})
    licences: list[str] | None = field(default=None, metadata={"help": "Licences of data sets, as NAME=LICENCE."})


def main() -> None:
    parser = TrlParser((SFTScriptArguments, SFTConfig), description=__doc__.splitlines()[0])
    script, args = parser.parse_args_and_config()
    try:
        train(script, args)
    except InputError as error:
        sys.exit(f"error: {error}")


def train(script: SFTScriptArguments, args: SFTConfig) -> None:
    """Builds the rows, trains, and leaves checkpoint, model card and training log in ``args.output_dir``."""
    event_sets = load_event_sets(script.events)
    if script.data_sets:
        unknown = sorted(set(script.data_sets) - set(event_sets))
        if unknown:
            raise InputError(f"`data_sets` must be some of {', '.join(event_sets)}, got {unknown}; leave them out.")
        event_sets = {name: event_sets[name] for name in script.data_sets}
    model = MFLLMForSimulation.from_backbones(
        script.backbone, policy_revision=script.backbone_revision, dtype=script.dtype
    )
    processor = MFLLMProcessor.from_backbones(script.backbone, revision=model.config.policy_revision)
    # The bounds that a simulation with this backbone has.
    simulation = within_context(model, SimulationConfig(max_prompt_tokens=script.max_prompt_tokens))
    settings = TransitionSettings(
        dimension=script.dimension,
        action=script.action,
        agents_per_step=script.agents_per_step,
        horizon=script.horizon,
        transitions_per_event=script.transitions_per_event,
        transitions_per_survey=script.transitions_per_survey,
        max_states=script.max_states,
        max_people=script.max_people,
        seed=args.seed,
    )

    def rows_of(transitions: Any) -> Any:
        return sft_rows(transitions, processor, target=script.target, limits=prompt_limits(simulation), seed=args.seed)

    with args.main_process_first():  # one process builds, the others find it in the cache
        transitions = build_transitions(event_sets, settings, split=script.split)
        rows, eval_rows = rows_of(transitions), None
        if args.eval_strategy != "no":
            eval_rows = rows_of(build_transitions(event_sets, settings, split="validation"))
    if script.budget_tokens is not None:
        rows = within_budget(rows, script.budget_tokens, seed=args.seed)
        args.num_train_epochs = 1
    if args.should_save:
        print(f"{len(transitions)} transitions, {len(rows)} rows, {count_tokens(rows)} tokens per epoch")

    lora = lora_config(
        model,
        r=script.lora_r,
        alpha=script.lora_alpha,
        dropout=script.lora_dropout,
        roles=("policy",),
        layers=script.lora_layers,
    )
    trainer = PolicySFTTrainer(
        model,
        args,
        processing_class=processor,
        train_dataset=rows,
        eval_dataset=eval_rows,
        peft_config=lora,
        card=card_of(script, args, model, transitions, event_sets),
        callbacks=[EarlyStoppingCallback(script.patience)] if script.patience else None,
    )
    resume = args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir) if resume == "last" else resume)
    trainer.save_model(args.output_dir)
    if args.should_save:
        log = [{column: entry.get(column) for column in LOG_COLUMNS} for entry in trainer.state.log_history]
        write_csv(Path(args.output_dir) / "training_log.csv", LOG_COLUMNS, log)
        print(f"Checkpoint: {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()


def card_of(
    script: SFTScriptArguments,
    args: SFTConfig,
    model: MFLLMForSimulation,
    transitions: Any,
    event_sets: dict[str, list[Event]],
) -> CardData:
    """What the model card says, except for what the trainer adds."""
    licences = dict(entry.partition("=")[::2] for entry in script.licences or [])
    used = set(transitions["event_id"])
    languages = {event.language for events in event_sets.values() for event in events if event.event_id in used}
    settings = {name: getattr(script, name) for name in ("target", "budget_tokens", "horizon", "agents_per_step")}
    return CardData(
        name=script.card_name or args.hub_model_id or Path(args.output_dir).name,
        summary=(
            "The supervised baseline of mf_llm: the policy was fine-tuned on what people did, given topic and "
            "profile, without any signal of the population. Simulate it without a signal, too."
        ),
        base_models=base_models_of(model.config),
        languages=tuple(sorted(filter(None, languages))),
        signal="none",
        data_sets=training_data_of(transitions, event_sets, licences=licences),
        training=TrainingSummary(
            hyper_parameters={key: value for key, value in settings.items() if value is not None},
            command=f"python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        ),
        tags=("sft",),
    )


if __name__ == "__main__":
    main()
