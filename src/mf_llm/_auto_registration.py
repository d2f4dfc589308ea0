"""Registers the classes of this package with the Auto classes of transformers, without importing transformers first.

``AutoConfig.register`` needs transformers' auto modules, and those import torch, which ``mf-llm --help`` must not do.
So each registration waits for whoever imports the auto module it belongs to; if that is there already, it happens at
once. Importing transformers alone costs nothing here, and whoever asks for AutoConfig does not get the models loaded.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

_REGISTRATIONS = {
    "transformers.models.auto.configuration_auto": "register_configuration",
    "transformers.models.auto.modeling_auto": "register_model",
    "transformers.models.auto.processing_auto": "register_processor",
}


def _register(auto_module: str) -> None:
    registration = importlib.import_module("mf_llm.models.registration")
    getattr(registration, _REGISTRATIONS[auto_module])()


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Finds the auto modules where Python would find them, and registers once one of them is loaded."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if fullname not in _REGISTRATIONS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module_and_register(module: ModuleType) -> None:
            execute(module)
            _register(fullname)

        spec.loader.exec_module = exec_module_and_register  # type: ignore[method-assign]
        return spec


def register_when_transformers_is_imported() -> None:
    """Registers with the auto modules that are loaded, and prepares to register with the others once they are."""
    if not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())
    for auto_module in _REGISTRATIONS:
        if auto_module in sys.modules:
            _register(auto_module)
