"""mf_llm: mean-field simulation of how a population reacts to an event, measured against real people.

Names are imported on first use, so that ``import mf_llm`` stays cheap and the command line can print its help
without loading torch. The Auto classes of transformers learn about the checkpoints of this package as soon as they
are imported (see `mf_llm._auto_registration`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from mf_llm.endpoints import Endpoint as Endpoint
    from mf_llm.errors import InputError as InputError
    from mf_llm.evaluation import EvaluationReport as EvaluationReport
    from mf_llm.evaluation import compare as compare
    from mf_llm.evaluation import evaluate_rollouts as evaluate_rollouts
    from mf_llm.evaluation import plot_trajectory as plot_trajectory
    from mf_llm.events import Event as Event
    from mf_llm.events import Turn as Turn
    from mf_llm.events import iter_events as iter_events
    from mf_llm.events import load_event_sets as load_event_sets
    from mf_llm.events import load_events as load_events
    from mf_llm.events import packaged_events as packaged_events
    from mf_llm.forecasting import Forecast as Forecast
    from mf_llm.metrics import load_metric as load_metric
    from mf_llm.models import MFLLMConfig as MFLLMConfig
    from mf_llm.models import MFLLMForSimulation as MFLLMForSimulation
    from mf_llm.models import MFLLMOutput as MFLLMOutput
    from mf_llm.models import MFLLMProcessor as MFLLMProcessor
    from mf_llm.simulation import Population as Population
    from mf_llm.simulation import Rollout as Rollout
    from mf_llm.simulation import SimulationConfig as SimulationConfig
    from mf_llm.simulation import load_rollouts as load_rollouts
    from mf_llm.simulation import simulate as simulate
    from mf_llm.training import IBTuneConfig as IBTuneConfig
    from mf_llm.training import IBTuneTrainer as IBTuneTrainer
    from mf_llm.training import PolicySFTTrainer as PolicySFTTrainer
    from mf_llm.training import TransitionSettings as TransitionSettings
    from mf_llm.training import build_transitions as build_transitions
    from mf_llm.training import lora_config as lora_config
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
    __all__ += ["__version__"]

register_when_transformers_is_imported()
