"""Interventions: what is done to a population, the branches of a rollout that follow, and what it changed."""

from __future__ import annotations

from mf_llm._lazy_names import lazy_names

# No module here is named like a public function: importing it would put the module in the function's place.
_PUBLIC_NAMES = {
    "AddedAction": "mf_llm.interventions.intervention",
    "AddedActions": "mf_llm.interventions.intervention",
    "AmendedSignal": "mf_llm.interventions.intervention",
    "Branch": "mf_llm.interventions.branches",
    "Candidate": "mf_llm.interventions.plan",
    "ChangedPeople": "mf_llm.interventions.intervention",
    "Effects": "mf_llm.interventions.effects",
    "Intervention": "mf_llm.interventions.intervention",
    "InterventionPlan": "mf_llm.interventions.plan",
    "Ranking": "mf_llm.interventions.ranking",
    "ReplacedSignal": "mf_llm.interventions.intervention",
    "Target": "mf_llm.interventions.plan",
    "TopicLine": "mf_llm.interventions.intervention",
    "branch": "mf_llm.interventions.branches",
    "intervention_from_dict": "mf_llm.interventions.intervention",
    "load_plan": "mf_llm.interventions.plan",
    "measure_effects": "mf_llm.interventions.effects",
    "rank_candidates": "mf_llm.interventions.ranking",
    "run_branches": "mf_llm.interventions.branches",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
