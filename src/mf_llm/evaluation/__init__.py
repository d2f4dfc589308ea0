"""Evaluation: the protocol, forecasters without a language model, scores of rollouts, comparisons and plots.

Names are imported on first use: scipy, evaluate, rich and matplotlib load only where they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mf_llm._lazy_names import lazy_names

# No module here is named like a public function: importing it would put the module in the function's place.
_PUBLIC_NAMES = {
    "Comparison": "mf_llm.evaluation.comparison",
    "EvaluationReport": "mf_llm.evaluation.report",
    "choose_windows": "mf_llm.evaluation.protocol",
    "compare": "mf_llm.evaluation.comparison",
    "evaluate_rollouts": "mf_llm.evaluation.evaluator",
    "plot_trajectory": "mf_llm.evaluation.plotting",
}

if TYPE_CHECKING:
    from mf_llm.evaluation.comparison import Comparison as Comparison
    from mf_llm.evaluation.comparison import compare as compare
    from mf_llm.evaluation.evaluator import evaluate_rollouts as evaluate_rollouts
    from mf_llm.evaluation.plotting import plot_trajectory as plot_trajectory
    from mf_llm.evaluation.protocol import choose_windows as choose_windows
    from mf_llm.evaluation.report import EvaluationReport as EvaluationReport
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
