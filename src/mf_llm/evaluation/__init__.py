"""Evaluation: the protocol, forecasters without a language model, scores of rollouts, comparisons and plots.

Names are imported on first use: scipy, evaluate, rich and matplotlib load only where they are needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mf_llm.evaluation.comparison import Comparison, compare
    from mf_llm.evaluation.evaluator import evaluate_rollouts
    from mf_llm.evaluation.plotting import plot_trajectory
    from mf_llm.evaluation.protocol import choose_windows
    from mf_llm.evaluation.report import EvaluationReport

__all__ = ["Comparison", "EvaluationReport", "choose_windows", "compare", "evaluate_rollouts", "plot_trajectory"]

# No module here is named like a public function: importing it would put the module in the function's place.
_MODULES = {
    "Comparison": "comparison",
    "EvaluationReport": "report",
    "choose_windows": "protocol",
    "compare": "comparison",
    "evaluate_rollouts": "evaluator",
    "plot_trajectory": "plotting",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
