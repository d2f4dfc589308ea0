"""What a user writes against the public API, with the types a checker must see; it is checked, never run.

`assert_type` fails where a name is hidden from the checker (it would be Any), as lazily imported names easily are.
"""

from __future__ import annotations

from typing import Any, assert_type

import mf_llm
from mf_llm import (
    Endpoint,
    EvaluationReport,
    Event,
    Forecast,
    IBTuneConfig,
    IBTuneTrainer,
    InputError,
    MFLLMConfig,
    MFLLMForSimulation,
    MFLLMOutput,
    MFLLMProcessor,
    PolicySFTTrainer,
    Population,
    Rollout,
    SimulationConfig,
    TransitionSettings,
    Turn,
    build_transitions,
    compare,
    evaluate_rollouts,
    iter_events,
    load_event_sets,
    load_events,
    load_metric,
    load_rollouts,
    lora_config,
    packaged_events,
    plot_trajectory,
    simulate,
)
from mf_llm.annotation import Annotations, RuleAnnotator, annotate_rollout, load_dimensions
from mf_llm.evaluation import Comparison, choose_windows
from mf_llm.evaluation.protocol import plan_event
from mf_llm.forecasting import ForecastReport, judge_forecasts, plot_forecast, score_forecast
from mf_llm.interventions import (
    Branch,
    Effects,
    InterventionPlan,
    TopicLine,
    branch,
    load_plan,
    measure_effects,
    run_branches,
)
from mf_llm.models import load_model, tiny_backbone, tiny_tokenizer
from mf_llm.simulation import ActionRow, StepRow, load_bins


def read() -> list[Event]:
    events = load_events("bridge-closure", split="test")
    assert_type(events, list[Event])
    assert_type(events[0].turns[0], Turn)
    assert_type(events[0].turns[0].labels["stance"], str)
    assert_type(next(iter(iter_events("bridge-closure"))), Event)
    assert_type(load_event_sets("bridge-closure"), dict[str, list[Event]])
    assert_type(packaged_events(), tuple[str, ...])
    assert_type(mf_llm.__version__, str)
    return events


def make() -> tuple[MFLLMForSimulation, MFLLMProcessor]:
    model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
    assert_type(model, MFLLMForSimulation)
    assert_type(model.config, MFLLMConfig)
    assert_type(model.merge(), MFLLMForSimulation)
    assert_type(MFLLMForSimulation.from_pretrained("my-checkpoint"), MFLLMForSimulation)
    assert_type(load_model("my-checkpoint"), MFLLMForSimulation)
    output = model.forward(None)
    if isinstance(output, MFLLMOutput) and output.policy_logits is not None:
        print(output.policy_logits.shape)
    processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
    processor.save_pretrained("my-checkpoint")
    model.save_pretrained("my-checkpoint")
    return model, processor


def run(model: MFLLMForSimulation, processor: MFLLMProcessor, events: list[Event]) -> list[Rollout]:
    config = SimulationConfig(signal="statistics", action="choice", max_actions=64, seed=1)
    rollout = simulate(model, processor, events[0], config, progress=False)
    assert_type(rollout, Rollout)
    assert_type(model.simulate(events[0], processor, config), Rollout)
    assert_type(model.simulate(events, processor, output="runs/mine", resume=True), list[Rollout])
    assert_type(simulate(model, processor, events, config, events_together=4), list[Rollout])
    assert_type(simulate(model, processor, events[0], config, seeds=range(4)), list[Rollout])
    assert_type(rollout.simulated(), list[ActionRow])
    assert_type(rollout.steps, list[StepRow])
    people = Population.from_table("people.parquet", bins=load_bins("bins.yaml"))
    assert_type(model.simulate(events[0], processor, config, population=people, n_steps=4), Rollout)
    server = Endpoint("http://localhost:8000/v1", model="mine")
    assert_type(simulate(server, None, events[0]), Rollout)
    assert_type(load_rollouts("runs/mine"), list[Rollout])
    return [rollout]


def judge(rollouts: list[Rollout], events: list[Event]) -> None:
    report = evaluate_rollouts(rollouts, events)
    assert_type(report, EvaluationReport)
    assert_type(report.table(), str)
    plot_trajectory(rollouts, events[0], "bridge")
    assert_type(compare({"mine": events}), Comparison)
    scores: dict[str, Any] | None = load_metric().compute(references=["no"], predictions=["yes"])
    print(scores)
    dimension = load_dimensions("dimensions.yaml")["stance"]
    annotator = RuleAnnotator()
    assert_type(annotate_rollout(rollouts[0], annotator, dimension), Rollout)
    assert_type(annotator.annotate(["No way!"], "The bridge closes.", dimension), Annotations)


def foresee(rollouts: list[Rollout], event: Event) -> None:
    forecast = Forecast.from_rollouts(rollouts)
    assert_type(forecast, Forecast)
    print(forecast.mean().shape, forecast.bands())
    plan = plan_event(event, choose_windows([event]), "stance")
    plot_forecast(forecast, plan, "forecast")
    scores = {"bridges": {"forecast": [score_forecast(forecast, plan)]}}
    assert_type(judge_forecasts(scores), ForecastReport)


def intervene(model: MFLLMForSimulation, processor: MFLLMProcessor, rollouts: list[Rollout], event: Event) -> None:
    ferry = TopicLine(step=3, topic="A ferry runs instead.")
    other = branch(model, processor, event, rollouts[0], [ferry])
    assert_type(other, Rollout)
    branches = [Branch(parent=one, interventions=[ferry]) for one in rollouts]
    assert_type(run_branches(model, processor, event, branches), list[Rollout])
    assert_type(measure_effects(rollouts, {"ferry": [other]}), Effects)
    assert_type(load_plan("plan.yaml"), InterventionPlan)


def train(model: MFLLMForSimulation, processor: MFLLMProcessor) -> None:
    settings = TransitionSettings(transitions_per_survey=2, max_states=2)
    transitions = build_transitions(load_event_sets("vaccine-intention"), settings)
    args = IBTuneConfig(output_dir="runs/mine", schedule="sequential", beta=64, num_signals=2)
    try:
        trainer = IBTuneTrainer(
            model, args, processing_class=processor, train_dataset=transitions, peft_config=lora_config(model, r=8)
        )
    except InputError as error:
        raise SystemExit(str(error)) from error
    trainer.train()
    assert_type(trainer.args, IBTuneConfig)
    trainer.save_model("runs/mine")
    print(PolicySFTTrainer.__doc__)
