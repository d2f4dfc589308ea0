"""What merging people into coarser states costs: how far the simulated shares move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mf_llm.events import Event
from mf_llm.metrics.population_kl.divergence import kl_divergence
from mf_llm.models.processing_mf_llm import MFLLMProcessor
from mf_llm.simulation.population import Population
from mf_llm.simulation.population_bins import Bins
from mf_llm.simulation.rollout import Rollout
from mf_llm.simulation.simulation_config import SimulationConfig

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation

Trajectory = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class CoarseningCost:
    """What coarsening a population costs, and what it saves.

    Attributes:
        kl: mean over the steps of ``KL(full || coarse)`` between the shares, in nats.
        shares: ``[T, K]`` shares of the full population.
        coarse_shares: ``[T, K]`` shares of the coarsened one.
        states, coarse_states: distinct states.
        prompt_tokens, coarse_prompt_tokens: tokens that were encoded in the T steps.
    """

    kl: float
    shares: Trajectory
    coarse_shares: Trajectory
    states: int
    coarse_states: int
    prompt_tokens: int
    coarse_prompt_tokens: int


def coarsening_cost(
    model: MFLLMForSimulation,
    processor: MFLLMProcessor,
    event: Event,
    population: Population,
    coarse: Population | Bins,
    config: SimulationConfig | None = None,
    *,
    n_steps: int = 1,
    progress: bool = False,
) -> CoarseningCost:
    """Simulates a population as it is and coarsened, and compares the exact shares.

    With one step, the default, both see the same signal, and what differs is the coarsening alone. With more, signals
    of text are drawn anew and their noise is in the difference, too.

    Args:
        model, processor, event, config: see `simulate`; the readout must be exact.
        population: the full population.
        coarse: the same people in fewer states, or the bins that coarsen them (see `Population.coarsened`).
        n_steps: how many steps T both act.
        progress: show a progress bar.

    Raises:
        InputError: if one of the two cannot be simulated like this, or a step has no exact shares.
    """
    from mf_llm.simulation.runner import simulate

    if not isinstance(coarse, Population):
        coarse = population.coarsened(coarse)
    full, merged = (
        simulate(model, processor, event, config, population=one, n_steps=n_steps, progress=progress)
        for one in (population, coarse)
    )
    shares, coarse_shares = _shares(full), _shares(merged)
    return CoarseningCost(
        kl=float(kl_divergence(shares, coarse_shares).mean()),
        shares=shares,
        coarse_shares=coarse_shares,
        states=len(population),
        coarse_states=len(coarse),
        prompt_tokens=_prompt_tokens(full),
        coarse_prompt_tokens=_prompt_tokens(merged),
    )


def _shares(rollout: Rollout) -> Trajectory:
    from mf_llm.errors import InputError

    found = tuple(step.shares for step in rollout.steps if not step.real)
    if rollout.config["readout"] != "exact" or None in found:
        raise InputError(
            f'`config` must give exact shares in every step, got readout="{rollout.config["readout"]}" and '
            f'{found.count(None)} steps without shares; the cost would be noise; use readout="exact".'
        )
    return tuple(step for step in found if step is not None)


def _prompt_tokens(rollout: Rollout) -> int:
    return sum(step.prompt_tokens for step in rollout.steps if not step.real)
