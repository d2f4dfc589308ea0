"""Simulation: steps, signals, readouts, keyed randomness, rollouts."""

from __future__ import annotations

import importlib
from typing import Any

# Imported on first use: the command line plans a run and prints its help without loading torch.
_MODULES = {
    "ActionRow": "rollout",
    "Plan": "steps",
    "Rollout": "rollout",
    "SimulationConfig": "simulation_config",
    "StepRow": "rollout",
    "choice_distribution": "readout",
    "load_rollouts": "rollout",
    "plan_simulation": "steps",
    "simulate": "runner",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
