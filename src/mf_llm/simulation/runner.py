"""`simulate`: warm-up on real actions, rollout on simulated ones."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from mf_llm.atomic_files import plain, write_json
from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.models.prompts import NO_SIGNAL_YET, PROMPT_VERSION, render_state
from mf_llm.simulation.bounds import within_context
from mf_llm.simulation.journal import FinishedStep, Journal, check_same_run
from mf_llm.simulation.mean_field_step import MeanFieldStep
from mf_llm.simulation.policy_step import PolicyStep
from mf_llm.simulation.progress import Progress
from mf_llm.simulation.provenance import versions_of
from mf_llm.simulation.rollout import REAL, ActionRow, Rollout, StepRow
from mf_llm.simulation.run_folder import check_distinct_ids, rollout_name
from mf_llm.simulation.signals import PopulationHistory, count_shares
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step, plan_simulation

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


@overload
def simulate(
    model: MFLLMForSimulation,
    processor: MFLLMProcessor,
    event: Event,
    config: SimulationConfig | None = None,
    **kwargs: Any,
) -> Rollout: ...
@overload
def simulate(
    model: MFLLMForSimulation,
    processor: MFLLMProcessor,
    event: Sequence[Event],
    config: SimulationConfig | None = None,
    **kwargs: Any,
) -> list[Rollout]: ...
def simulate(
    model: MFLLMForSimulation,
    processor: MFLLMProcessor,
    event: Event | Sequence[Event],
    config: SimulationConfig | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    data_set: str | None = None,
) -> Rollout | list[Rollout]:
    """Simulates how the people of an event react, after a warm-up on what they really did (method, section 1).

    Args:
        model: an `MFLLMForSimulation`.
        processor: its `MFLLMProcessor`.
        event: one event, or several.
        config: how to simulate; see `SimulationConfig`.
        output: folder for the rollout (several events: ``output/rollouts/NAME`` each). Each finished step is on disk
            before the next begins.
        resume: go on with what is in `output`; the result equals an uninterrupted run's.
        progress: show a progress bar.
        data_set: name of the data set, kept in the rollout.

    Returns:
        A `Rollout`, or a list of them in the order of the events.

    Raises:
        InputError: if an event cannot be simulated like this, or `output` holds something else.
    """
    config = config or SimulationConfig()
    events = [event] if isinstance(event, Event) else list(event)
    if output is not None:
        check_distinct_ids(events)
    _check_model(model, processor)
    plans = [plan_simulation(one, config) for one in events]
    versions = versions_of(model)
    rollouts = []
    was_training = model.training
    model.eval()
    try:
        with Progress(plans, enabled=progress) as bar:
            for one, plan in zip(events, plans, strict=True):
                folder = Path(output) if output is not None else None
                if folder is not None and not isinstance(event, Event):
                    folder = folder / "rollouts" / rollout_name(one.event_id, config.seed)
                runner = _Runner(model, processor, one, config, plan, versions, data_set, bar)
                rollouts.append(runner.run(folder, resume=resume))
    finally:
        model.train(was_training)
    return rollouts[0] if isinstance(event, Event) else rollouts


def _check_model(model: MFLLMForSimulation, processor: MFLLMProcessor) -> None:
    if model.config.prompt_version != PROMPT_VERSION:
        raise InputError(
            f"`model` must have prompt_version {PROMPT_VERSION}, got {model.config.prompt_version}; it was made for "
            "other prompts and its answers would mean something else; use the version of mf_llm it was made with."
        )
    for role in ("policy", "mean_field"):
        backbone, tokenizer = model.backbone(role), processor.tokenizer_of(role)
        size = backbone.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > size:
            raise InputError(
                f"`processor` must belong to `model`: its {role} tokenizer has {len(tokenizer)} tokens, the {role} "
                f"backbone {size}; prompts could not be read; load both from the same checkpoint."
            )


class _Runner:
    """One event from its first step to its saved rollout."""

    def __init__(
        self,
        model: MFLLMForSimulation,
        processor: MFLLMProcessor,
        event: Event,
        config: SimulationConfig,
        plan: Plan,
        versions: dict[str, Any],
        data_set: str | None,
        bar: Progress,
    ) -> None:
        config = within_context(model, config)
        self.event, self.config, self.plan, self.bar = event, config, plan, bar
        self.policy = PolicyStep(model, processor, event, config, plan, _carry(event, config, plan))
        self.mean_field = MeanFieldStep(model, processor, event, config, plan)
        self.history = PopulationHistory(event, plan.answer.options, plan.answer.dimension)
        self.text_signal: str | None = None
        self.signal_failure: str | None = None
        resolved = {
            "action": plan.answer.kind,
            "dimension": plan.answer.dimension,
            "warm_up_turns": plan.warm_up,
            "silent_labels": sorted(plan.silent),
            "max_new_tokens": self.policy.max_new_tokens,
            "signal_max_tokens": self.mean_field.max_new_tokens,
            "max_prompt_tokens": config.max_prompt_tokens,
        }
        self.rollout = Rollout(
            event_id=event.event_id,
            event_hash=event.content_hash(),
            data_set=data_set,
            topic=event.topic,
            dimension=plan.answer.dimension,
            categories=plan.answer.options,
            seed=config.seed,
            config=config.to_dict() | {"resolved": resolved},
            versions=versions,
        )

    def run(self, folder: Path | None, *, resume: bool) -> Rollout:
        header = {key: value for key, value in self.rollout.metadata().items() if key != "n_failed"}
        if folder is not None and resume and (folder / "rollout.json").exists():
            finished = Rollout.load(folder)
            check_same_run(plain(header), plain(finished.metadata()), folder)
            self.bar.advance(self.plan.n_simulated)
            Journal.discard(folder)
            return finished
        journal = Journal(folder, header, resume=resume) if folder is not None else None
        seconds: list[float] = []
        try:
            done = journal.finished if journal is not None else []
            for finished_step in done:
                self._take_in(finished_step)
                seconds.append(finished_step.seconds)
                self.bar.advance(0 if finished_step.step.real else finished_step.step.n_people)
            if done and not done[-1].step.real:
                self.policy.recall(None if self.config.signal == "none" else done[-1].step.signal)
            for step in self.plan.steps[len(done) :]:
                finished_step = self._step(step)
                if journal is not None:
                    journal.append(finished_step)
                self._take_in(finished_step)
                seconds.append(finished_step.seconds)
            if folder is not None and journal is not None:
                self.rollout.save(folder)
                write_json(folder / "timings.json", {"seconds_per_step": [round(value, 3) for value in seconds]})
                journal.close(remove=True)
        finally:
            if journal is not None:
                journal.close()
        return self.rollout

    def _step(self, step: Step) -> FinishedStep:
        start = time.perf_counter()
        before = self._tokens()
        self.bar.describe(self.event, self.plan, step)
        signal = self._shown()
        rows = self._real(step) if step.real else self.policy.act(step, signal, self.bar.advance)
        text, failure = self.text_signal, None
        if self.config.signal in ("text", "both") and step.index + 1 < len(self.plan.steps):
            text, failure = self.mean_field.write(step, rows, self.text_signal)
        after = self._tokens()
        self.bar.tokens(sum(after) - sum(before))
        row = StepRow(
            step=step.index,
            real=step.real,
            wave=step.wave,
            n_people=len(rows),
            n_failed=sum(row.failure is not None for row in rows),
            signal=signal or "",
            signal_failure=self.signal_failure,
            shares=count_shares(rows, self.plan.answer.options).normalised if self.plan.answer.options else None,
            prompt_tokens=after[0] - before[0],
            new_tokens=after[1] - before[1],
        )
        return FinishedStep(
            step=row, actions=tuple(rows), signal=text, signal_failure=failure, seconds=time.perf_counter() - start
        )

    def _take_in(self, finished: FinishedStep) -> None:
        self.rollout.steps.append(finished.step)
        self.rollout.actions.extend(finished.actions)
        self.history.observe(finished.actions)
        self.signal_failure = finished.signal_failure
        if finished.signal is not None:  # a failed signal leaves the one before in force
            self.text_signal = finished.signal

    def _shown(self) -> str | None:
        """The signal `m_t` of the next step, or None for the baseline that sees nothing of the population."""
        kind = self.config.signal
        if kind == "none":
            return None
        if kind == "recent":
            return self.history.recent()
        if kind == "popular":
            return self.history.popular()
        statistics = self.history.statistics() if kind in ("statistics", "both") else ""
        text = (self.text_signal or "") if kind in ("text", "both") else ""
        return "\n".join(part for part in (statistics, text) if part) or NO_SIGNAL_YET

    def _real(self, step: Step) -> list[ActionRow]:
        rows = []
        for i in step.turns:
            turn = self.event.turns[i]
            rows.append(
                ActionRow(
                    step=step.index,
                    turn=i,
                    weight=turn.weight,
                    wave=turn.wave,
                    state="; ".join(render_state(turn.state)),
                    text=turn.action,
                    label=turn.labels.get(self.plan.answer.dimension) if self.plan.answer.dimension else None,
                    probabilities=None,
                    source=REAL,
                )
            )
        return rows

    def _tokens(self) -> tuple[int, int]:
        return (
            self.policy.prompt_tokens + self.mean_field.prompt_tokens,
            self.policy.new_tokens + self.mean_field.new_tokens,
        )


def _carry(event: Event, config: SimulationConfig, plan: Plan) -> np.ndarray | None:
    """The frozen anchor: carry-forward shares at the end of the warm-up (method, section 2)."""
    if not config.anchored:
        return None
    from mf_llm.evaluation.forecasters import dirichlet
    from mf_llm.evaluation.protocol import Windows, plan_event

    options = plan.answer.options
    prior = np.full(len(options), 1.0 / len(options))
    if config.anchor_prior is not None:
        positive = all(not isinstance(v, str) and 0 < v < math.inf for v in config.anchor_prior.values())
        if set(config.anchor_prior) != set(options) or not positive:
            raise InputError(
                f"`anchor_prior` must give a positive share to each of {list(options)}, got "
                f"{dict(config.anchor_prior)}; the anchor is not defined."
            )
        prior = np.array([config.anchor_prior[option] for option in options])
        prior = prior / prior.sum()
    windows = Windows(0, 0, waves=True) if plan.steps[0].wave is not None else Windows(1, 1)
    cut = plan_event(event, windows, plan.answer.dimension, start=plan.warm_up)
    return dirichlet(cut.counts(cut.latest if windows.waves else cut.warm_up), prior, config.anchor_strength)
