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
from typing import Any

from trl import SFTConfig

from mf_llm import InputError, build_transitions
from mf_llm.simulation.bounds import prompt_limits
from mf_llm.training.script_arguments import ScriptArguments, parse_script, train_and_save
from mf_llm.training.sft import PolicySFTTrainer, count_tokens, sft_rows, within_budget

SUMMARY = (
    "The supervised baseline of mf_llm: the policy was fine-tuned on what people did, given topic and profile, "
    "without any signal of the population. Simulate it without a signal, too."
)


@dataclass
class SFTScriptArguments(ScriptArguments):
    """What is trained on what; how is said by `SFTConfig`."""

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
    max_prompt_tokens: int = field(default=1024, metadata={"help": "Bound of a prompt."})


def main() -> None:
    script, args = parse_script(__doc__.splitlines()[0], SFTScriptArguments, SFTConfig)
    try:
        train(script, args)
    except InputError as error:
        sys.exit(f"error: {error}")


def train(script: SFTScriptArguments, args: SFTConfig) -> None:
    """Builds the rows, trains, and leaves checkpoint, model card and training log in ``args.output_dir``."""
    callbacks = script.early_stopping(args)
    event_sets = script.load_events()
    settings = script.transition_settings(args.seed)
    model, processor, simulation = script.load_model(script.max_prompt_tokens)

    def rows_of(transitions: Any) -> Any:
        return sft_rows(transitions, processor, target=script.target, limits=prompt_limits(simulation), seed=args.seed)

    with args.main_process_first():  # one process builds, the others find it in the cache
        transitions = script.limited(build_transitions(event_sets, settings, split=script.split), args.seed)
        rows, eval_rows = rows_of(transitions), None
        if args.eval_strategy != "no":
            validation = build_transitions(event_sets, settings, split="validation")
            eval_rows = rows_of(script.limited(validation, args.seed, validation=True))
    if script.budget_tokens is not None:
        rows = within_budget(rows, script.budget_tokens, seed=args.seed)
        args.num_train_epochs = 1
    if args.should_save:
        print(f"{len(transitions)} transitions, {len(rows)} rows, {count_tokens(rows)} tokens per epoch")

    trainer = PolicySFTTrainer(
        model,
        args,
        processing_class=processor,
        train_dataset=rows,
        eval_dataset=eval_rows,
        peft_config=script.lora(model, ("policy",)),
        card=script.card(
            args,
            model,
            transitions,
            event_sets,
            summary=SUMMARY,
            signal="none",
            tags=("sft",),
            settings={"target": script.target, "budget_tokens": script.budget_tokens},
        ),
        callbacks=callbacks,
    )
    train_and_save(trainer)


if __name__ == "__main__":
    main()
