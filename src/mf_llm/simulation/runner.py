"""`simulate`: warm-up on real actions, rollout on simulated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from mf_llm.argument_checks import check_whole
from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.interventions.intervention import Intervention
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.simulation.engines.engine import Engine
from mf_llm.simulation.event_run import EventRun
from mf_llm.simulation.lockstep import run_in_lockstep
from mf_llm.simulation.population import Population
from mf_llm.simulation.population_plan import plan_population
from mf_llm.simulation.progress import Progress
from mf_llm.simulation.rollout import Rollout
from mf_llm.simulation.run_folder import check_distinct_ids, rollout_name
from mf_llm.simulation.run_options import RunOptions
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import Plan, plan_simulation

if TYPE_CHECKING:
    from mf_llm.endpoints import Endpoint
    from mf_llm.models import MFLLMForSimulation


@overload
def simulate(
    model: MFLLMForSimulation | Endpoint,
    processor: MFLLMProcessor | None,
    event: Event | Sequence[Event],
    config: SimulationConfig | None = None,
    *,
    seeds: Sequence[int],
    **options: Unpack[RunOptions],
) -> list[Rollout]: ...
@overload
def simulate(
    model: MFLLMForSimulation | Endpoint,
    processor: MFLLMProcessor | None,
    event: Event,
    config: SimulationConfig | None = None,
    **options: Unpack[RunOptions],
) -> Rollout: ...
@overload
def simulate(
    model: MFLLMForSimulation | Endpoint,
    processor: MFLLMProcessor | None,
    event: Sequence[Event],
    config: SimulationConfig | None = None,
    **options: Unpack[RunOptions],
) -> list[Rollout]: ...
def simulate(
    model: MFLLMForSimulation | Endpoint,
    processor: MFLLMProcessor | None,
    event: Event | Sequence[Event],
    config: SimulationConfig | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    data_set: str | None = None,
    events_together: int = 1,
    population: Population | None = None,
    n_steps: int | None = None,
    interventions: Sequence[Intervention] = (),
    seeds: Sequence[int] | None = None,
    read_together: bool = False,
) -> Rollout | list[Rollout]:
    """Simulates how the people of an event react, after a warm-up on what they really did (method, section 1).

    Args:
        model: an `MFLLMForSimulation`, or an `Endpoint`: models behind a server.
        processor: its `MFLLMProcessor`; None with an endpoint, whose server tokenises.
        event: one event, or several.
        config: how to simulate; as the model was trained by default (``model.config.simulation_config()``).
        output: folder for the rollout (several events or `seeds`: ``output/rollouts/NAME`` each). Each finished step
            is on disk before the next begins.
        resume: go on with what is in `output`; the result equals an uninterrupted run's.
        progress: show a progress bar.
        data_set: name of the data set, kept in the rollout.
        events_together: how many rollouts, of events or seeds, make their steps together, so that the texts and
            signals of all of them are generated in one batch: faster, and more memory. Like `batch_tokens`, it changes
            results by rounding only.
        population: who acts after the warm-up, all of them in every step, in the place of those who came then (the
            mean-field limit; in-process models only).
        n_steps: how many steps a population acts; 1 by default.
        interventions: what is done to the population, in each of the events. Beside a rollout without them, a branch
            (`mf_llm.interventions.branch`) makes the same at less cost.
        seeds: one rollout of each event for each of these, an ensemble, in place of `config.seed`.
        read_together: rollouts that make their steps together also have their people asked in one batch: fewer and
            larger passes, which pays where a step alone does not fill the machine (a GPU, few people, short profiles).
            Probabilities are then those of other batches, and of a resumed run as well: they differ by rounding, far
            below what changes a draw in float32. Without it each rollout is what it would be alone, to the last bit.
            (A server is asked side by side anyway.)

    Returns:
        A `Rollout`; for several events or with `seeds` a list of them, in the order of events, then seeds.

    Raises:
        InputError: if an event cannot be simulated like this, or `output` holds something else.

    Examples:
        >>> from mf_llm import MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_events
        >>> from mf_llm.models import tiny_backbone, tiny_tokenizer  # random weights: replies mean nothing
        >>> model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
        >>> processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
        >>> [event] = load_events("bridge-closure")
        >>> config = SimulationConfig(signal="statistics", action="choice", max_actions=64)
        >>> rollout = simulate(model, processor, event, config, progress=False)
        >>> len(rollout.simulated()), rollout.n_failed
        (16, 0)
        >>> [len(shares) for shares in rollout.trajectory()]  # three steps of the warm-up, one that is simulated
        [4, 4, 4, 4]
    """
    check_whole("events_together", events_together)
    events = [event] if isinstance(event, Event) else list(event)
    if output is not None:
        check_distinct_ids(events)
    engine = engine_of(model, processor)
    config = config or engine.default_config()
    if population is None and n_steps is not None:
        raise InputError(f"`n_steps` must be left out without a population, got {n_steps!r}; an event has its own.")
    jobs = [
        (*_planned(engine, one, one_config, population, n_steps), one_config)
        for one in events
        for one_config in _configs(config, seeds)
    ]
    several = seeds is not None or not isinstance(event, Event)
    versions = engine.versions()
    where = Path(output) if output is not None else None
    with engine.running(where), Progress([plan for _, plan, _ in jobs], enabled=progress) as bar:
        runs = []
        for one, plan, one_config in jobs:
            folder = where
            if folder is not None and several:
                folder = folder / "rollouts" / rollout_name(one.event_id, one_config.seed)
            common: dict[str, Any] = {"versions": versions, "data_set": data_set, "bar": bar, "folder": folder}
            runs.append(partial(EventRun, engine, one, one_config, plan, interventions=interventions, **common))
        rollouts = run_in_lockstep(
            engine, runs, events_together=events_together, resume=resume, read_together=read_together
        )
    return rollouts if several else rollouts[0]


def _configs(config: SimulationConfig, seeds: Sequence[int] | None) -> list[SimulationConfig]:
    if seeds is None:
        return [config]
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"`seeds` must be different whole numbers, at least one, got {list(seeds)!r}.")
    return [replace(config, seed=seed) for seed in seeds]


def _planned(
    engine: Engine, event: Event, config: SimulationConfig, population: Population | None, n_steps: int | None
) -> tuple[Event, Plan]:
    """The event and its plan; with a population, the event up to the end of its warm-up with the people behind it."""
    if population is None:
        return event, plan_simulation(event, config)
    from mf_llm.simulation.engines.in_process import InProcessEngine

    if not isinstance(engine, InProcessEngine):
        raise InputError(
            "`population` must be None with an endpoint; the people of a state are counted by the probabilities of "
            "all options, which a model in this process gives; load one, or simulate the people of the event."
        )
    return plan_population(event, population, config, 1 if n_steps is None else n_steps)


def engine_of(model: MFLLMForSimulation | Endpoint, processor: MFLLMProcessor | None) -> Engine:
    """Who answers for people and mean field.

    Raises:
        InputError: a model without its processor, or the two do not belong together.
    """
    from mf_llm.endpoints import Endpoint

    if isinstance(model, Endpoint):
        from mf_llm.simulation.engines.endpoint_engine import EndpointEngine

        return EndpointEngine(model)
    from mf_llm.simulation.engines.in_process import InProcessEngine

    if processor is None:
        raise InputError("`processor` must be the processor of `model`, got None; nothing can be encoded.")
    return InProcessEngine(model, processor)
