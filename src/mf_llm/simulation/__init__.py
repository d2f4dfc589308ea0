"""Simulation: steps, signals, readouts, keyed randomness, rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mf_llm._lazy_names import lazy_names

# The command line plans a run and prints its help without loading torch. No module here is named like a public
# function: importing it would put the module in the function's place.
_PUBLIC_NAMES = {
    "ActionRow": "mf_llm.simulation.rollout",
    "CoarseningCost": "mf_llm.simulation.coarsening_costs",
    "Plan": "mf_llm.simulation.steps",
    "Population": "mf_llm.simulation.population",
    "Rollout": "mf_llm.simulation.rollout",
    "SimulationConfig": "mf_llm.simulation.simulation_config",
    "StepRow": "mf_llm.simulation.rollout",
    "choice_distribution": "mf_llm.simulation.choosing",
    "coarsening_cost": "mf_llm.simulation.coarsening_costs",
    "load_bins": "mf_llm.simulation.population_bins",
    "load_rollouts": "mf_llm.simulation.rollout",
    "plan_population": "mf_llm.simulation.population_plan",
    "plan_simulation": "mf_llm.simulation.steps",
    "simulate": "mf_llm.simulation.runner",
}

if TYPE_CHECKING:
    from mf_llm.simulation.choosing import choice_distribution as choice_distribution
    from mf_llm.simulation.coarsening_costs import CoarseningCost as CoarseningCost
    from mf_llm.simulation.coarsening_costs import coarsening_cost as coarsening_cost
    from mf_llm.simulation.population import Population as Population
    from mf_llm.simulation.population_bins import load_bins as load_bins
    from mf_llm.simulation.population_plan import plan_population as plan_population
    from mf_llm.simulation.rollout import ActionRow as ActionRow
    from mf_llm.simulation.rollout import Rollout as Rollout
    from mf_llm.simulation.rollout import StepRow as StepRow
    from mf_llm.simulation.rollout import load_rollouts as load_rollouts
    from mf_llm.simulation.runner import simulate as simulate
    from mf_llm.simulation.simulation_config import SimulationConfig as SimulationConfig
    from mf_llm.simulation.steps import Plan as Plan
    from mf_llm.simulation.steps import plan_simulation as plan_simulation
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
