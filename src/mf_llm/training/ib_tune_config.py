"""`IBTuneConfig`: what is trained, and how the bottleneck is weighed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from mf_llm.argument_checks import check_types
from mf_llm.errors import InputError
from mf_llm.models.configuration_mf_llm import ROLES, Role, check_role
from mf_llm.simulation.simulation_config import check_choice_temperature
from mf_llm.training.prompt_trees import TARGETS

SCHEDULES = ("sequential", "alternate", "joint", "policy", "mean_field")
TRAINED_SIGNALS = ("text", "statistics", "both", "none")
# What of `IBTuneConfig` decides the result, beside what decides it for every trainer.
BOTTLENECK_FIELDS = (
    "schedule",
    "mean_field_share",
    "mean_field_learning_rate",
    "signal",
    "anchored",
    "choice_temperature",
    "target",
    "beta",
    "lambda_population",
    "lambda_perturbation",
    "num_signals",
    "signal_max_tokens",
    "signal_temperature",
    "updates_per_draw",
    "simulated_history",
)


def _option(default: Any, text: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class IBTuneConfig(TrainingArguments):
    """Arguments of `IBTuneTrainer`: those of transformers, and the ones below (method, section 3).

    Attributes:
        schedule: "sequential" (the mean field, then the policy, as in arXiv 2504.21582), "alternate" (by turns, one
            optimiser step each), "joint" (both in every step, on the same signals), or one role alone.
        mean_field_share: share of the steps that the mean field gets first in the sequential schedule.
        signal: what people see of the population: "text", "statistics", "both" or "none". Without a text there is no
            mean field to train.
        anchored: train the anchored readout (the anchor is that of each transition, frozen at its warm-up's end).
        choice_temperature: of the options in the plain readout, in training and afterwards; see `SimulationConfig`.
        target: what is predicted of a person: the "label", or the whole "action" (label, then text).
        beta: weight of the relevance against the rate, both in nats; relevance is per person.
        lambda_population: weight of the KL divergence of the population in the policy's loss.
        lambda_perturbation: weight of the mean square of `f` in the loss of the anchored readout: a Gaussian prior
            that draws it to the carry-forward share, with variance ``1 / (2 lambda)`` per transition.
        num_signals: K, signals drawn per transition when the mean field is trained.
        signal_max_tokens: bound of a signal; there the end is forced and has no probability.
        signal_temperature: of q, of the prior and, in rollouts, of the mean field that is saved.
        updates_per_draw: optimiser steps made with the same signals, weighted by importance ratios after the first.
        max_ratio: bound of these ratios.
        simulated_history: probability that a transition's history is rolled on by the current model before people act
            (against drift over long horizons); needs the events.
        simulated_steps: at most this many steps are rolled on; the number is drawn.
        max_texts: people of a transition whose texts are scored ("action").
        max_prompt_tokens: bound of a prompt.
        mean_field_learning_rate: initial learning rate of the mean field, whose loss has another scale; by default
            `learning_rate`, which is the one that is logged.
        scoring_tokens: tokens per batch where nothing needs a gradient (drawing and weighing signals).
    """

    schedule: str = _option(
        "sequential",
        "What is trained when: sequential (mean field, then policy), alternate, joint, policy or mean_field.",
        choices=SCHEDULES,
    )
    mean_field_share: float = _option(0.5, "Share of the steps the mean field gets first (sequential).")
    signal: str = _option("both", "What people see of the population.", choices=TRAINED_SIGNALS)
    anchored: bool = _option(False, "Train the anchored readout.")
    choice_temperature: float = _option(1.0, "Temperature of the options' probabilities (plain readout).")
    target: str = _option("label", "What is predicted of a person: label or action.", choices=TARGETS)
    beta: float = _option(64.0, "Weight of the relevance (nats per person) against the rate (nats).")
    lambda_population: float = _option(1.0, "Weight of the population's KL divergence in the policy's loss.")
    lambda_perturbation: float = _option(0.0, "Weight of the mean square of f (anchored), in the policy's loss.")
    num_signals: int = _option(4, "Signals drawn per transition when the mean field is trained (K).")
    signal_max_tokens: int = _option(48, "Longest signal in tokens.")
    signal_temperature: float = _option(1.0, "Temperature of the mean field, in training and afterwards.")
    updates_per_draw: int = _option(1, "Optimiser steps made with the same signals.")
    max_ratio: float = _option(2.0, "Bound of the importance ratios when signals are used again.")
    simulated_history: float = _option(0.0, "Probability that a history is rolled on by the current model.")
    simulated_steps: int = _option(2, "At most this many steps are rolled on.")
    max_texts: int = _option(16, "People of a transition whose texts are scored (target action).")
    max_prompt_tokens: int = _option(1024, "Longest prompt in tokens.")
    scoring_tokens: int = _option(16384, "Tokens per batch where nothing needs a gradient.")
    mean_field_learning_rate: float | None = _option(
        None, "The initial learning rate of the mean field; default: that of the policy."
    )
    # Other defaults than transformers': a transition is a whole step of people, and there are few of them.
    learning_rate: float = _option(2e-4, "The initial learning rate.")
    per_device_train_batch_size: int = _option(8, "Transitions per step and process.")
    per_device_eval_batch_size: int = _option(8, "Transitions per evaluation batch and process.")
    logging_steps: float = _option(1, "Log every so many steps.")
    dataloader_pin_memory: bool = _option(False, "Batches are text until signals are drawn.")
    remove_unused_columns: bool = _option(False, "Must be False: a transition is text until signals are drawn.")

    def __post_init__(self) -> None:
        self._check()
        if self.ddp_find_unused_parameters is None and self.schedule in ("sequential", "alternate"):
            # A step that trains one role leaves the other's adapters without a gradient.
            self.ddp_find_unused_parameters = True
        if self.label_names is None:
            self.label_names = []
        super().__post_init__()

    @property
    def trains(self) -> tuple[Role, ...]:
        """The roles that are trained at some time."""
        return (check_role(self.schedule),) if self.schedule in ROLES else ("mean_field", "policy")

    def mean_field_steps(self, max_steps: int) -> int:
        """How many of the optimiser steps the mean field gets first in the sequential schedule."""
        return round(self.mean_field_share * max_steps)

    @property
    def has_text(self) -> bool:
        """Whether the signal holds a text of the mean field."""
        return self.signal in ("text", "both")

    def _check(self) -> None:
        check_types(self, tuple(IBTuneConfig.__annotations__))
        for name, allowed in (("schedule", SCHEDULES), ("signal", TRAINED_SIGNALS), ("target", TARGETS)):
            if getattr(self, name) not in allowed:
                raise InputError(f"`{name}` must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        if not self.has_text and "mean_field" in self.trains:
            raise InputError(
                f"`schedule` must be 'policy' with signal={self.signal!r}, got {self.schedule!r}; without a text "
                "there is no mean field to train."
            )
        at_least = {"beta": 0, "lambda_population": 0, "lambda_perturbation": 0, "signal_max_tokens": 1}
        at_least |= {"updates_per_draw": 1, "max_ratio": 1, "simulated_steps": 1, "max_texts": 1, "scoring_tokens": 1}
        at_least |= {"max_prompt_tokens": 8}
        at_least |= {"num_signals": 2 if "mean_field" in self.trains else 1}
        for name, lowest in at_least.items():
            if not getattr(self, name) >= lowest:
                raise InputError(f"`{name}` must be at least {lowest}, got {getattr(self, name)!r}.")
        for name in ("mean_field_share", "simulated_history"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}` must be between 0 and 1, got {getattr(self, name)!r}.")
        rate = self.mean_field_learning_rate
        if rate is not None and not (rate >= 0 and "mean_field" in self.trains):
            raise InputError(
                "`mean_field_learning_rate` must be at least 0, and left out where no mean field is trained, got "
                f"{rate!r} with schedule={self.schedule!r}."
            )
        if self.lambda_perturbation and not self.anchored:
            raise InputError(
                f"`lambda_perturbation` must be 0 with anchored=False, got {self.lambda_perturbation!r}; the plain "
                "readout perturbs nothing; train the anchored one."
            )
        if not self.signal_temperature > 0:
            raise InputError(
                f"`signal_temperature` must be more than 0, got {self.signal_temperature!r}; a signal that is not "
                "drawn has no gradient; use 1.0."
            )
        check_choice_temperature(self.choice_temperature, self.anchored)
        if self.remove_unused_columns:
            raise InputError("`remove_unused_columns` must be False, got True; every column of a transition is used.")
        if self.updates_per_draw > 1 and self.save_strategy == "steps" and self.save_steps % self.updates_per_draw:
            raise InputError(
                f"`save_steps` must be a multiple of updates_per_draw ({self.updates_per_draw}), got "
                f"{self.save_steps}; a run could not be resumed in the middle of a draw."
            )
