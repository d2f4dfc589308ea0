"""Branches: a stored rollout that goes on differently from some step on, its past taken over without a model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.interventions.intervention import Intervention
from mf_llm.models.prompts import NO_SIGNAL_YET
from mf_llm.simulation.event_run import EventRun
from mf_llm.simulation.journal import FinishedStep
from mf_llm.simulation.lockstep import run_in_lockstep
from mf_llm.simulation.progress import Progress
from mf_llm.simulation.rollout import ActionRow, Rollout
from mf_llm.simulation.runner import engine_of
from mf_llm.simulation.signals import PopulationHistory
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, plan_simulation

# What may differ under `Rollout.versions` between parent and branch; the models may not.
_PACKAGES = {"mf_llm", "python", "torch", "transformers", "tokenizers", "numpy", "huggingface_hub"}

if TYPE_CHECKING:
    from mf_llm.endpoints import Endpoint
    from mf_llm.models import MFLLMForSimulation
    from mf_llm.models.processing_mf_llm import MFLLMProcessor


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A branch to be made.

    Attributes:
        parent: the rollout it leaves.
        interventions: what is done to its population.
        from_step: index of the first step that is made anew; the first one that is intervened on by default, none
            without interventions.
        folder: where the branch goes, or None.
    """

    parent: Rollout
    interventions: Sequence[Intervention] = ()
    from_step: int | None = None
    folder: Path | None = None

    @property
    def config(self) -> SimulationConfig:
        """How the parent was simulated."""
        return SimulationConfig(**{f.name: self.parent.config[f.name] for f in fields(SimulationConfig)})

    @property
    def first(self) -> int:
        """Index of the first step that is made anew; the number of steps where none is."""
        given = [self.from_step] if self.from_step is not None else []
        return min([len(self.parent.steps), *given, *(one.step for one in self.interventions)])


def branch(
    model: MFLLMForSimulation | Endpoint,
    processor: MFLLMProcessor | None,
    event: Event,
    parent: Rollout,
    interventions: Sequence[Intervention] = (),
    *,
    from_step: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Rollout:
    """Goes on from a rollout with interventions; what was before them is taken over.

    Every random number is keyed by seed, event, step and person, so that parent and branch share them: where they
    differ, it is the interventions' doing (and, in reduced precision, rounding where other batches are made).

    Args:
        model, processor: those that made the parent.
        event: the event it is of.
        parent: a rollout without interventions.
        interventions: what is done; without any the branch equals its parent.
        from_step: make the steps from this index on anew, also without interventions: to check that the parent can be
            made again.
        output: folder of the branch.
        resume: go on with what is in `output`.
        progress: show a progress bar.

    Raises:
        InputError: event or model are others than the parent's, or an intervention does not fit.

    Examples:
        >>> from mf_llm import MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_events, simulate
        >>> from mf_llm.models import tiny_backbone, tiny_tokenizer  # random weights: replies mean nothing
        >>> model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
        >>> processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
        >>> [event] = load_events("bridge-closure")
        >>> config = SimulationConfig(signal="statistics", action="choice", max_actions=64)
        >>> parent = simulate(model, processor, event, config, progress=False)
        >>> from mf_llm.interventions import TopicLine
        >>> news = TopicLine(step=3, topic="Correction: eight months.")
        >>> changed = branch(model, processor, event, parent, [news], progress=False)
        >>> [one == other for one, other in zip(parent.trajectory(), changed.trajectory(), strict=True)]
        [True, True, True, False]
    """
    folder = Path(output) if output is not None else None
    one = Branch(parent=parent, interventions=interventions, from_step=from_step, folder=folder)
    return run_branches(model, processor, event, [one], resume=resume, progress=progress)[0]


def run_branches(
    model: MFLLMForSimulation | Endpoint,
    processor: MFLLMProcessor | None,
    event: Event,
    branches: Sequence[Branch],
    *,
    resume: bool = False,
    progress: bool = True,
    branches_together: int = 32,
) -> list[Rollout]:
    """Makes branches of rollouts of one event, side by side.

    Args:
        model, processor, event, resume, progress: as in `branch`.
        branches: what to make; their parents may have different seeds, but nothing else.
        branches_together: how many make their steps together: faster, and more memory. Like `batch_tokens`, it changes
            results by rounding only.

    Returns:
        The branches as rollouts, in their order.

    Raises:
        InputError: as `branch`.
    """
    check_whole("branches_together", branches_together)
    engine = engine_of(model, processor)
    versions = engine.versions()
    plans = []
    for one in branches:
        _check_parent(one, event, versions)
        plans.append(plan_simulation(event, one.config))
        if not 0 <= one.first <= len(plans[-1].steps) == len(one.parent.steps):
            raise InputError(
                f"`from_step` must be a step of the rollout, 0 to {len(one.parent.steps) - 1}, got {one.from_step}; "
                "there is nothing to make anew."
            )
    where = next((one.folder for one in branches if one.folder is not None), None)
    with engine.running(where), Progress(plans, enabled=progress) as bar:
        runs = [
            partial(
                EventRun,
                engine,
                event,
                one.config,
                plan,
                versions=versions,
                data_set=one.parent.data_set,
                bar=bar,
                folder=one.folder,
                interventions=one.interventions,
                past=past_steps(one.parent, event, plan, one.first),
            )
            for one, plan in zip(branches, plans, strict=True)
        ]
        return run_in_lockstep(engine, runs, events_together=branches_together, resume=resume)


def past_steps(parent: Rollout, event: Event, plan: Plan, end: int) -> list[FinishedStep]:
    """What the first `end` steps of a rollout left behind, read out of its tables.

    The text that the mean-field model wrote after a step is what the next one saw, without the statistics beside it.
    """
    kind = parent.config["signal"]
    options, shown = plan.answer.options, parent.config["shown_answers"]
    history = PopulationHistory(event, options, plan.answer.dimension, plan.profiles, shown_answers=shown)
    members: dict[int, list[ActionRow]] = {}
    for row in parent.actions:
        members.setdefault(row.step, []).append(row)
    found: list[FinishedStep] = []
    for step, following in zip(parent.steps[:end], [*parent.steps[1:], None], strict=False):
        rows = tuple(members.get(step.step, ()))
        history.observe(rows)
        text = None
        if following is not None and following.signal_failure is None and kind in ("text", "both"):
            statistics = history.statistics() if kind == "both" else ""
            shown = following.signal.removeprefix(statistics).removeprefix("\n")
            text = shown if shown != NO_SIGNAL_YET else None
        failure = following.signal_failure if following is not None else None
        found.append(FinishedStep(step=step, actions=rows, signal=text, signal_failure=failure))
    return found


def _check_parent(one: Branch, event: Event, versions: dict[str, object]) -> None:
    parent = one.parent
    name = f"that of event {parent.event_id!r} with seed {parent.seed}"
    if parent.config.get("resolved", {}).get("population"):
        raise InputError(
            f"`parent` must be a rollout of the people of an event, but {name} is of a population; simulate it with "
            "`simulate(..., population=..., interventions=...)` beside one without."
        )
    if (parent.event_id, parent.event_hash) != (event.event_id, event.content_hash()):
        raise InputError(
            f"`event` must be the one the rollout was made of, {parent.event_id!r} with hash {parent.event_hash[:9]}, "
            f"got {event.event_id!r} with hash {event.content_hash()[:9]}; its people are others; give the same file."
        )
    if parent.config.get("resolved", {}).get("interventions"):
        raise InputError(
            f"`parent` must be a rollout without interventions, but {name} is a branch; branch off its parent, with "
            "the interventions of both."
        )
    missing = [f.name for f in fields(SimulationConfig) if f.name not in parent.config]
    if missing:
        raise InputError(
            f"`parent` must be a rollout of this version of mf_llm, but {name} does not say `{missing[0]}`; simulate "
            "it again."
        )
    for key in sorted((versions.keys() | parent.versions.keys()) - _PACKAGES):
        if versions.get(key) != parent.versions.get(key):
            raise InputError(
                f"`model` must be the one that made the rollout, but {name} has {key} = {parent.versions.get(key)!r} "
                f"and this one {versions.get(key)!r}; parent and branch would differ by more than the interventions; "
                "load the same one."
            )
