"""One event from its first step to its saved rollout, in pieces that several events can take together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import plain, write_json
from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.interventions.course import Course
from mf_llm.interventions.intervention import Intervention
from mf_llm.simulation.anchor import frozen_anchor
from mf_llm.simulation.engines.engine import Engine
from mf_llm.simulation.journal import FinishedStep, Journal, check_same_run
from mf_llm.simulation.progress import Progress
from mf_llm.simulation.rollout import INTERVENTION, ActionRow, Rollout, StepRow
from mf_llm.simulation.signal_writing import SignalRequest
from mf_llm.simulation.signals import PopulationHistory, count_people, count_shares, shown_signal
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, Step
from mf_llm.simulation.told_actions import real_actions


class EventRun:
    """One event on its way to a rollout.

    A step is made by `begin`, `decide`, `act`, `signal_request` and `finish`, in this order; what is written is handed
    in, so that several events can have it written at once.

    Args:
        engine: who answers for people and mean field.
        event: what is simulated.
        config, plan: how.
        versions, data_set: kept in the rollout.
        bar: told how far the event is.
        folder: where the rollout goes, or None.
        interventions: what is done to the population.
        past: the first steps, which are taken over as they are (of a branch those of its parent).
    """

    def __init__(
        self,
        engine: Engine,
        event: Event,
        config: SimulationConfig,
        plan: Plan,
        *,
        versions: dict[str, Any],
        data_set: str | None,
        bar: Progress,
        folder: Path | None,
        interventions: Sequence[Intervention] = (),
        past: Sequence[FinishedStep] = (),
    ) -> None:
        config = engine.fitted(config)
        if config.anchor_features is not None:  # those of other events are nothing to this rollout
            own = {key: row for key, row in config.anchor_features.items() if key == event.event_id}
            config = replace(config, anchor_features=own)
        self.course = Course(event, config, plan, interventions)
        event_hash, event, plan = event.content_hash(), self.course.event, self.course.plan
        self.event, self.config, self.plan, self.bar, self.folder = event, config, plan, bar, folder
        anchor = frozen_anchor(event, plan, config) if config.anchored else None
        self.policy = engine.policy(event, config, plan, anchor, folder)
        self.mean_field = engine.mean_field(event, config, plan, folder)
        options, shown = plan.answer.options, config.shown_answers
        self.history = PopulationHistory(event, options, plan.answer.dimension, plan.profiles, shown_answers=shown)
        self.past = tuple(past)
        self.text_signal: str | None = None
        self.signal_failure: str | None = None
        self.journal: Journal | None = None
        self.waiting = list(plan.steps)
        self.seconds: list[float] = []
        self._signal: str | None = None
        self._rows: list[ActionRow] = []
        self._spent = 0.0
        self._before = (0, 0)
        resolved: dict[str, Any] = {
            "action": plan.answer.kind,
            "dimension": plan.answer.dimension,
            "warm_up_turns": plan.warm_up,
            "silent_labels": sorted(plan.silent),
            "max_new_tokens": self.policy.max_new_tokens,
            "signal_max_tokens": self.mean_field.max_new_tokens,
            "max_prompt_tokens": config.max_prompt_tokens,
        }
        if plan.is_population:
            step = plan.steps[-1]
            steps = sum(not one.real for one in plan.steps)
            resolved["population"] = {"states": len(step.turns), "people": step.n_people, "steps": steps}
        if interventions:
            resolved["interventions"] = self.course.to_list()
        self.rollout = Rollout(
            event_id=event.event_id,
            event_hash=event_hash,
            data_set=data_set,
            topic=event.topic,
            dimension=plan.answer.dimension,
            categories=plan.answer.options,
            seed=config.seed,
            config=config.to_dict() | {"resolved": resolved},
            versions=versions,
        )

    def open(self, *, resume: bool) -> None:
        """Takes in what an earlier run left in the folder.

        Raises:
            InputError: if the folder holds something else, or anything without `resume`.
        """
        if self.folder is None:
            self._replay(self.past)
            return
        header = {key: value for key, value in self.rollout.metadata().items() if key != "n_failed"}
        if resume and (self.folder / "rollout.json").exists():
            finished = Rollout.load(self.folder)
            check_same_run(plain(header), plain(finished.metadata()), self.folder)
            self.bar.advance(self.plan.n_simulated)
            Journal.discard(self.folder)
            self.rollout, self.waiting = finished, []
            return
        self.journal = Journal(self.folder, header, resume=resume)
        done = self.journal.finished
        if len(done) > len(self.waiting):
            raise InputError(
                f"{self.journal.path} must hold at most {len(self.waiting)} steps, got {len(done)}; the run cannot be "
                "resumed; move the folder away and start anew."
            )
        for step in self.past[len(done) :]:
            self.journal.append(step)
        self._replay([*done, *self.past[len(done) :]])
        if not self.waiting:  # stopped between its last step and its rollout
            self._save()

    def _replay(self, done: Sequence[FinishedStep]) -> None:
        """Takes in steps that were made before."""
        for finished in done:
            step = self.waiting.pop(0)
            self._come_upon(step)
            self._take_in(finished)
            self.bar.advance(0 if step.real else len(step.turns))
        if done and not done[-1].step.real:
            self.policy.recall(None if self.config.signal == "none" else done[-1].step.signal)

    @property
    def step(self) -> Step:
        """The step that is being made."""
        return self.waiting[0]

    def begin(self) -> tuple[Any, Step, str | None] | None:
        """Begins a step: policy, step and the signal that people are about to see; None where they are real."""
        self.bar.describe(self.event, self.plan, self.step)
        self._come_upon(self.step)
        self._before, self._spent = self._tokens(), 0.0
        self._signal = self.course.shown_at(self.step, self._shown())
        return None if self.step.real else (self.policy, self.step, self._signal)

    def decide(self) -> Any | None:
        """What the people of the step decide, or None where they are real."""
        with self._timed():
            return None if self.step.real else self.policy.decide(self.step, self._signal, self.bar.advance)

    def act(self, decisions: Any | None, written: Any) -> None:
        """What the people of the step did.

        Args:
            decisions: from `decide`.
            written: what the engine had them write.
        """
        with self._timed():
            if decisions is None:
                self._rows = real_actions(self.event, self.step, self.plan.answer.dimension)
            else:
                self._rows = self.policy.rows(decisions, written, self.bar.advance)
            self._rows += self.course.rows_at(self.step)

    def signal_request(self) -> SignalRequest | None:
        """The signal that the mean-field model has to write after the step, if any."""
        if self.config.signal not in ("text", "both") or len(self.waiting) == 1:
            return None
        return SignalRequest(self.mean_field, self.step, self._rows, self.text_signal)

    def finish(self, signal: str | None, failure: str | None, seconds: float) -> None:
        """Ends the step: it is on disk before the next begins. Behind the last one the rollout is saved.

        Args:
            signal, failure: from `write_signals`; None and None where nothing was asked for.
            seconds: this event's part of the time that events spent together.
        """
        after, before = self._tokens(), self._before
        self.bar.tokens(sum(after) - sum(before))
        options, rows = self.plan.answer.options, self._rows
        own = [row for row in rows if row.source != INTERVENTION]
        row = StepRow(
            step=self.step.index,
            real=self.step.real,
            wave=self.step.wave,
            n_people=self.step.n_people,
            n_failed=sum(row.failure is not None for row in rows),
            signal=self._signal or "",
            signal_failure=self.signal_failure,
            shares=count_shares(own, options).normalised if options else None,
            prompt_tokens=after[0] - before[0],
            new_tokens=after[1] - before[1],
            counts=count_people(own, options) if self.step.counts else None,
        )
        text = signal if signal is not None else self.text_signal if failure is None else None
        finished = FinishedStep(
            step=row, actions=tuple(rows), signal=text, signal_failure=failure, seconds=self._spent + seconds
        )
        if self.journal is not None:
            self.journal.append(finished)
        self._take_in(finished)
        self.waiting = self.waiting[1:]
        if not self.waiting:
            self._save()

    def close(self) -> None:
        """Closes the journal, wherever the run stopped."""
        if self.journal is not None:
            self.journal.close()

    def _save(self) -> None:
        if self.folder is not None and self.journal is not None:
            seconds = [round(value, 3) for value in self.seconds]
            write_json(self.folder / "timings.json", {"seconds_per_step": seconds})
            self.rollout.save(self.folder)  # last: it says that the event is finished
            self.journal.close(remove=True)

    def _come_upon(self, step: Step) -> None:
        """What interventions made of topic and text is in force when a step begins."""
        self.policy.event = self.mean_field.event = self.course.event_at(step)
        self.text_signal = self.course.text_at(step, self.text_signal)

    def _take_in(self, finished: FinishedStep) -> None:
        self.rollout.steps.append(finished.step)
        self.rollout.actions.extend(finished.actions)
        self.history.observe(finished.actions)
        self.seconds.append(finished.seconds)
        self.signal_failure = finished.signal_failure
        if finished.signal is not None:  # a failed signal leaves the one before in force
            self.text_signal = finished.signal

    def _shown(self) -> str | None:
        """The signal `m_t` of the next step, or None for the baseline that sees nothing of the population."""
        kind = self.config.signal
        if kind == "recent":
            return self.history.recent()
        if kind == "popular":
            return self.history.popular()
        statistics = self.history.statistics() if kind in ("statistics", "both") else ""
        return shown_signal(kind, statistics, self.text_signal)

    def _tokens(self) -> tuple[int, int]:
        return (
            self.policy.prompt_tokens + self.mean_field.prompt_tokens,
            self.policy.new_tokens + self.mean_field.new_tokens,
        )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._spent += time.perf_counter() - start
