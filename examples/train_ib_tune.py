"""Fine-tunes policy and mean field with an information bottleneck (IB-Tune).

    accelerate launch examples/train_ib_tune.py --config examples/configs/smollm2_covid.yaml [--beta 16 ...]
    mf-llm simulate EVENTS --model runs/ib-tune-smollm2-covid --signal both

What is given on the command line counts more than the YAML file. The output folder is a checkpoint of
`MFLLMForSimulation` with its model card; a run that was stopped goes on with ``--resume_from_checkpoint last``.
``--dry_run true`` counts tokens, estimates the time and stops.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from mf_llm import IBTuneConfig, IBTuneTrainer, InputError, build_transitions
from mf_llm.training.callbacks import RolloutCallback
from mf_llm.training.ib_tune_estimate import estimate_training
from mf_llm.training.script_arguments import ScriptArguments, parse_script, train_and_save

SUMMARY = (
    "A policy and a mean-field model that were fine-tuned with an information bottleneck: the mean field keeps of "
    "what people did what predicts how the next ones act, and the policy learns to act on it."
)


@dataclass
class IBTuneScriptArguments(ScriptArguments):
    """What is trained on what; how is said by `IBTuneConfig`."""

    rollout_events: int = field(
        default=4,
        metadata={
            "help": "Validation events of each data set that every evaluation rolls out for eval_gain; 0: none."
        },
    )
    rollout_max_actions: int | None = field(
        default=None, metadata={"help": "At most so many actions of each of them; default: as the protocol says."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Print tokens and an estimate of the time, and stop."})


def main() -> None:
    script, args = parse_script(__doc__.splitlines()[0], IBTuneScriptArguments, IBTuneConfig)
    try:
        train(script, args)
    except InputError as error:
        sys.exit(f"error: {error}")


def train(script: IBTuneScriptArguments, args: IBTuneConfig) -> None:
    """Builds the transitions, trains, and leaves checkpoint, model card and training log in ``args.output_dir``."""
    evaluates, patience = args.eval_strategy != "no", script.early_stopping(args)
    if "gain" in (args.metric_for_best_model or "") and not (evaluates and script.rollout_events):
        raise InputError(
            f"`metric_for_best_model` must not be {args.metric_for_best_model!r} without rollouts, got eval_strategy="
            f"{args.eval_strategy.value!r} and rollout_events={script.rollout_events}; the gain would not be known; "
            "take eval_loss, or roll out events."
        )
    event_sets = script.load_events()
    settings = script.transition_settings(args.seed)
    with args.main_process_first():  # one process builds, the others find it in the cache
        transitions = script.limited(build_transitions(event_sets, settings, split=script.split), args.seed)
        validation = None
        if evaluates:
            every = build_transitions(event_sets, settings, split="validation")
            validation = script.limited(every, args.seed, validation=True)
    model, processor, simulation = script.load_model(args.max_prompt_tokens)
    args.max_prompt_tokens = simulation.max_prompt_tokens
    trainer = IBTuneTrainer(
        model,
        args,
        processing_class=processor,
        train_dataset=transitions,
        eval_dataset=validation,
        peft_config=script.lora(model, args.trains),
        events=event_sets,
        transition_settings=settings,
        card=script.card(
            args,
            model,
            transitions,
            event_sets,
            summary=SUMMARY,
            signal=args.signal,
            tags=("ib-tune",),
            settings={"action": script.action},
        ),
    )
    if evaluates and script.rollout_events:
        trainer.add_callback(
            RolloutCallback(
                trainer,
                event_sets,
                max_events=script.rollout_events,
                max_actions=script.rollout_max_actions,
                seed=args.seed,
            )
        )
    for callback in patience:  # behind the rollouts, whose gain it looks at
        trainer.add_callback(callback)
    if args.should_save:
        print(estimate_training(trainer), flush=True)
    if not script.dry_run:
        train_and_save(trainer)


if __name__ == "__main__":
    main()
