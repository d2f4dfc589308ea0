"""Registers the classes of this package with the Auto classes of transformers, without importing transformers first.

``AutoConfig.register`` needs transformers' auto modules, and those import torch, which ``mf-llm --help`` must not do.
So the registration waits for whoever imports those modules; if they are there already, it happens at once.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from types import ModuleType
from typing import Any

_AUTO_PROCESSING = "transformers.models.auto.processing_auto"
_AUTO_MODELING = "transformers.models.auto.modeling_auto"


def _register() -> None:
    from mf_llm.models.registration import register_auto_classes

    register_auto_classes()


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the next finders load the auto modules, then registers."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if fullname not in (_AUTO_MODELING, _AUTO_PROCESSING):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        spec.loader.exec_module = exec_module_and_register  # type: ignore[method-assign]
        return spec


def register_when_transformers_is_imported() -> None:
    """Registers now if transformers' auto modules are loaded, else right after they are."""
    if _AUTO_MODELING in sys.modules or _AUTO_PROCESSING in sys.modules:
        _register()
    elif not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())
