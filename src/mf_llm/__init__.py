"""mf_llm: mean-field simulation of how a population reacts to an event, measured against real people.

Names are imported on first use, so that ``import mf_llm`` stays cheap and the command line can print its help
without loading torch. The Auto classes of transformers learn about the checkpoints of this package as soon as they
are imported (see `mf_llm._auto_registration`).
"""

from __future__ import annotations

from pathlib import Path

from mf_llm._auto_registration import register_when_transformers_is_imported
from mf_llm._lazy_names import lazy_names

__version__ = (Path(__file__).parent / "VERSION").read_text().strip()

_PUBLIC_NAMES = {
    "Event": "mf_llm.events",
    "Turn": "mf_llm.events",
    "load_events": "mf_llm.events",
    "iter_events": "mf_llm.events",
    "load_event_sets": "mf_llm.events",
    "packaged_events": "mf_llm.events",
    "InputError": "mf_llm.errors",
    "MFLLMConfig": "mf_llm.models",
    "MFLLMForSimulation": "mf_llm.models",
    "MFLLMProcessor": "mf_llm.models",
    "MFLLMOutput": "mf_llm.models",
    "SimulationConfig": "mf_llm.simulation",
    "Rollout": "mf_llm.simulation",
    "load_rollouts": "mf_llm.simulation",
    "simulate": "mf_llm.simulation",
    "Endpoint": "mf_llm.endpoints",
    "Forecast": "mf_llm.forecasting",
    "Population": "mf_llm.simulation",
    "load_metric": "mf_llm.metrics",
    "compare": "mf_llm.evaluation",
    "evaluate_rollouts": "mf_llm.evaluation",
    "EvaluationReport": "mf_llm.evaluation",
    "plot_trajectory": "mf_llm.evaluation",
    "TransitionSettings": "mf_llm.training",
    "build_transitions": "mf_llm.training",
    "IBTuneConfig": "mf_llm.training",
    "IBTuneTrainer": "mf_llm.training",
    "PolicySFTTrainer": "mf_llm.training",
    "lora_config": "mf_llm.training",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
__all__ += ["__version__"]

register_when_transformers_is_imported()
