"""Callbacks of training: rollouts of validation events at every evaluation, and early stopping that knows phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import EarlyStoppingCallback, TrainerCallback

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.judged_event import judge_forecast, judge_rollouts
from mf_llm.evaluation.protocol import Windows, choose_windows, plan_event
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.events import Event
from mf_llm.simulation import SimulationConfig, simulate
from mf_llm.simulation.keyed_draws import keyed_sample, stream_key
from mf_llm.simulation.steps import plan_simulation
from mf_llm.training.batch_preparation import simulation_options
from mf_llm.training.transition_settings import TransitionSettings

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from mf_llm.training.ib_tune_config import IBTuneConfig
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer


class RolloutCallback(TrainerCallback):
    """Rolls out validation events with the model as it is now, and judges them by the protocol.

    A loss per transition knows nothing of how a population drifts when it reacts to itself; this does. Each evaluation
    adds to its metrics, where `metric_for_best_model` and `EarlyStoppingCallback` (added behind this one) find them,
    and logs:

    - ``eval_gain``: KL of the reference forecaster less KL of the rollouts, in nats; mean over data sets.
    - ``eval_kl``: ``KL(P || Q)`` of the rollouts, mean over data sets.
    - ``eval_gain_NAME``: the gain on data set NAME, mean over its events.

    The model is simulated as it is trained (signal, anchor, lengths, steps), with the exact readout. Nobody writes a
    text where only labels are learned. All draws are keyed, so that two evaluations differ by what was learned between
    them; training goes on as if there had been none. With several processes each rolls out a share of the events.

    Args:
        trainer: whose model it is.
        event_sets: data set name -> its events, of all splits. Data sets without a validation event that is long
            enough are left out.
        max_events: validation events of a data set that are rolled out, a keyed choice that stays the same.
        max_actions: at most so many actions of each, warm-up included; by default as many as the protocol judges.
        events_together: see `simulate`.
        seed: of the choice and of the rollouts.

    Raises:
        InputError: no data set has a validation event that can be judged.
    """

    def __init__(
        self,
        trainer: IBTuneTrainer,
        event_sets: Mapping[str, Sequence[Event]],
        *,
        max_events: int = 4,
        max_actions: int | None = None,
        events_together: int = 8,
        seed: int = 0,
    ) -> None:
        check_whole("max_events", max_events)
        settings = trainer.preparer.settings or TransitionSettings()
        options = rollout_options(trainer.args, settings) | {"seed": seed}
        if max_actions is not None:
            options["max_actions"] = max_actions
        found = [
            _chosen(name, events, options, settings, max_events, seed)
            for name, events in event_sets.items()
            if any(event.split == "validation" for event in events)
        ]
        self.data_sets = [one for one in found if one is not None]
        if not self.data_sets:
            n_events = sum(event.split == "validation" for events in event_sets.values() for event in events)
            raise InputError(
                f"`event_sets` must hold a validation event that is long enough to be judged, got {n_events} of split "
                f"'validation' in {list(event_sets)}, none of which has a whole window after its warm-up; there is "
                "nothing to roll out; leave the rollouts out (rollout_events 0), or mark events as validation."
            )
        self.trainer, self.events_together = trainer, events_together

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds gain and KL to the metrics of an evaluation, and logs them."""
        if metrics is not None and not any(key.startswith("eval_") for key in metrics):
            return  # an evaluation under another prefix, of something else
        found = self.judge()
        if metrics is not None:
            metrics.update(found)
        # What the evaluation itself measured was logged before the callbacks were asked.
        self.trainer.log(dict(found))

    def judge(self) -> dict[str, float]:
        """The metrics of the model as it is now; the same on every process."""
        judged = self.judge_share()
        if self.trainer.args.world_size > 1:
            judged = gather_object(judged)
        judged.sort()  # sums must not depend on who judged what
        means = [
            np.mean([row[2:] for row in judged if row[0] == owner], axis=0) for owner in range(len(self.data_sets))
        ]
        gains = {
            f"eval_gain_{one.name}": float(reference - kl)
            for one, (kl, reference) in zip(self.data_sets, means, strict=True)
        }
        return {
            "eval_gain": float(np.mean(list(gains.values()))),
            "eval_kl": float(np.mean([kl for kl, _ in means])),
            **gains,
        }

    def judge_share(self) -> list[tuple[int, int, float, float]]:
        """What this process rolls out: number of the data set, of its event, KL of rollout and reference."""
        trainer = self.trainer
        jobs = [(owner, place) for owner, one in enumerate(self.data_sets) for place in range(len(one.events))]
        mine = jobs[trainer.args.process_index :: trainer.args.world_size]
        device, judged = trainer.accelerator.device, []
        with trainer._whole_model() as model, torch.random.fork_rng([device] if device.type == "cuda" else []):
            for owner, one in enumerate(self.data_sets):
                places = [place for job_owner, place in mine if job_owner == owner]
                rollouts = simulate(
                    model,
                    trainer.processor,
                    [one.events[place] for place in places],
                    one.config,
                    progress=False,
                    data_set=one.name,
                    events_together=self.events_together,
                )
                judged += [
                    (owner, place, *one.judge(place, rollout)) for place, rollout in zip(places, rollouts, strict=True)
                ]
        return judged


class EarlyStopping(EarlyStoppingCallback):
    """`EarlyStoppingCallback` that waits for the policy's phase, and that a resumed run goes on counting with.

    In the sequential schedule nothing that the mean field learns first must keep the policy from being trained, so
    evaluations before the policy's first step do not count.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes the count out of the checkpoint that training is resumed from."""
        super().on_train_begin(args, state, control, **kwargs)
        # A checkpoint of a run without early stopping has no place for the count, which the Trainer would look for.
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]

    def on_evaluate(  # type: ignore[override]
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Counts the evaluations without a better one."""
        config: Any = args
        phases = getattr(args, "schedule", None) == "sequential"
        if phases and state.global_step <= config.mean_field_steps(state.max_steps) < state.max_steps:
            return
        super().on_evaluate(args, state, control, metrics, **kwargs)


@dataclass(frozen=True, eq=False)
class RolledOut:
    """The validation events of one data set that are rolled out.

    Attributes:
        name: the data set.
        events: the chosen events.
        config: how they are simulated.
        windows: how they are judged.
        trainings: categories -> what the reference may learn from.
    """

    name: str
    events: tuple[Event, ...]
    config: SimulationConfig
    windows: Windows
    trainings: Mapping[tuple[str, ...], Training]

    def judge(self, place: int, rollout: Any) -> tuple[float, float]:
        """KL of the rollout of the event at `place`, and KL of the reference on the same windows, in nats."""
        judged = judge_rollouts(self.events[place], [rollout], self.windows)
        training = self.trainings[judged.plan.categories]
        return judged.kl, judge_forecast(judged.plan, training.reference, training).kl


def rollout_options(args: IBTuneConfig, settings: TransitionSettings) -> dict[str, Any]:
    """Fields of `SimulationConfig` with which validation events are rolled out.

    Args:
        args: what is trained.
        settings: how its transitions were made.
    """
    # Who learned labels alone is asked for labels alone, unless the transitions say what an action is.
    action = "choice" if args.target == "label" and settings.action == "auto" else settings.action
    return simulation_options(args) | {
        "readout": "exact",
        "action": action,
        "writers": 0 if args.target == "label" else args.max_texts,
        "agents_per_step": settings.agents_per_step,
        "listed_actions": settings.listed_actions,
        "shown_answers": settings.shown_answers,
    }


def _chosen(
    name: str,
    events: Sequence[Event],
    options: Mapping[str, Any],
    settings: TransitionSettings,
    max_events: int,
    seed: int,
) -> RolledOut | None:
    """The events of a data set that are rolled out; None where none can be judged."""
    dimension = settings.dimension or next((one for event in events for one in event.dimensions), None)
    labelled = [event for event in events if dimension is not None and dimension in event.dimensions]
    if dimension is None or settings.action == "text" or not labelled:
        return None
    windows, options = choose_windows(labelled, dimension), dict(options)
    if windows.waves:  # a wave can be thousands of people, of whom a sample tells enough
        options["max_people_per_step"] = settings.max_people
    config = protocol_config(labelled, options | {"dimension": dimension})
    candidates = [
        event for event in labelled if event.split == "validation" and _judgeable(event, windows, dimension, config)
    ]
    if not candidates:
        return None
    places = keyed_sample(len(candidates), max_events, stream_key(seed, name, "rollout events"))
    chosen = tuple(candidates[place] for place in places)
    categories = {tuple(event.dimensions[dimension]) for event in chosen}
    trainings = {one: Training(labelled, windows, dimension, one) for one in categories}
    return RolledOut(name, chosen, config, windows, trainings)


def _judgeable(event: Event, windows: Windows, dimension: str, config: SimulationConfig) -> bool:
    """True if a rollout simulates everybody of some window (of a wave: somebody)."""
    plan = plan_event(event, windows, dimension)
    if not plan.n_windows:
        return False
    steps = plan_simulation(event, config).steps
    simulated = [turn for step in steps if not step.real for turn in step.turns]
    enough = np.any if windows.waves else np.all
    return any(enough(np.isin(window, simulated)) for window in plan.judged)
