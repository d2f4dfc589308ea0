"""Interventions: what is done to a population, the branches of a rollout that follow, and what it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from mf_llm.interventions.branches import Branch as Branch
    from mf_llm.interventions.branches import branch as branch
    from mf_llm.interventions.branches import run_branches as run_branches
    from mf_llm.interventions.effects import Effects as Effects
    from mf_llm.interventions.effects import measure_effects as measure_effects
    from mf_llm.interventions.intervention import AddedAction as AddedAction
    from mf_llm.interventions.intervention import AddedActions as AddedActions
    from mf_llm.interventions.intervention import AmendedSignal as AmendedSignal
    from mf_llm.interventions.intervention import ChangedPeople as ChangedPeople
    from mf_llm.interventions.intervention import Intervention as Intervention
    from mf_llm.interventions.intervention import ReplacedSignal as ReplacedSignal
    from mf_llm.interventions.intervention import TopicLine as TopicLine
    from mf_llm.interventions.intervention import intervention_from_dict as intervention_from_dict
    from mf_llm.interventions.plan import Candidate as Candidate
    from mf_llm.interventions.plan import InterventionPlan as InterventionPlan
    from mf_llm.interventions.plan import Target as Target
    from mf_llm.interventions.plan import load_plan as load_plan
    from mf_llm.interventions.ranking import Ranking as Ranking
    from mf_llm.interventions.ranking import rank_candidates as rank_candidates
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
