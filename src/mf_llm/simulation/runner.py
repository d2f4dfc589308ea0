"""`simulate`: warm-up on real actions, rollout on simulated ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.models.prompts import PROMPT_VERSION
from mf_llm.simulation.event_run import EventRun
from mf_llm.simulation.lockstep import run_in_lockstep
from mf_llm.simulation.progress import Progress
from mf_llm.simulation.provenance import versions_of
from mf_llm.simulation.rollout import Rollout
from mf_llm.simulation.run_folder import check_distinct_ids, rollout_name
from mf_llm.simulation.simulation_config import SimulationConfig
from mf_llm.simulation.steps import plan_simulation

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
    events_together: int = 1,
) -> Rollout | list[Rollout]:
    """Simulates how the people of an event react, after a warm-up on what they really did (method, section 1).

    Args:
        model: an `MFLLMForSimulation`.
        processor: its `MFLLMProcessor`.
        event: one event, or several.
        config: how to simulate; as the model was trained by default (``model.config.simulation_config()``).
        output: folder for the rollout (several events: ``output/rollouts/NAME`` each). Each finished step is on disk
            before the next begins.
        resume: go on with what is in `output`; the result equals an uninterrupted run's.
        progress: show a progress bar.
        data_set: name of the data set, kept in the rollout.
        events_together: how many events make their steps together, so that the texts and signals of all of them are
            generated in one batch: faster, and more memory. Like `batch_tokens`, it changes results by rounding only.

    Returns:
        A `Rollout`, or a list of them in the order of the events.

    Raises:
        InputError: if an event cannot be simulated like this, or `output` holds something else.
    """
    config = config or model.config.simulation_config()
    if isinstance(events_together, bool) or not isinstance(events_together, int) or events_together < 1:
        raise InputError(f"`events_together` must be a whole number of at least 1, got {events_together!r}.")
    events = [event] if isinstance(event, Event) else list(event)
    if output is not None:
        check_distinct_ids(events)
    _check_model(model, processor)
    plans = [plan_simulation(one, config) for one in events]
    versions = versions_of(model)
    was_training = model.training
    model.eval()
    try:
        with Progress(plans, enabled=progress) as bar:
            runs = []
            for one, plan in zip(events, plans, strict=True):
                folder = Path(output) if output is not None else None
                if folder is not None and not isinstance(event, Event):
                    folder = folder / "rollouts" / rollout_name(one.event_id, config.seed)
                common = {"versions": versions, "data_set": data_set, "bar": bar, "folder": folder}
                runs.append(partial(EventRun, model, processor, one, config, plan, **common))
            rollouts = run_in_lockstep(runs, events_together=events_together, resume=resume)
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
