"""Simulation: steps, signals, readouts, keyed randomness, rollouts."""

from __future__ import annotations

from mf_llm._lazy_names import lazy_names

# The command line plans a run and prints its help without loading torch.
_PUBLIC_NAMES = {
    "ActionRow": "mf_llm.simulation.rollout",
    "CoarseningCost": "mf_llm.simulation.coarsening_cost",
    "Plan": "mf_llm.simulation.steps",
    "Population": "mf_llm.simulation.population",
    "Rollout": "mf_llm.simulation.rollout",
    "SimulationConfig": "mf_llm.simulation.simulation_config",
    "StepRow": "mf_llm.simulation.rollout",
    "choice_distribution": "mf_llm.simulation.readout",
    "coarsening_cost": "mf_llm.simulation.coarsening_cost",
    "load_bins": "mf_llm.simulation.population_bins",
    "load_rollouts": "mf_llm.simulation.rollout",
    "plan_population": "mf_llm.simulation.population_plan",
    "plan_simulation": "mf_llm.simulation.steps",
    "simulate": "mf_llm.simulation.runner",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
