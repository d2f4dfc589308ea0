"""Examples and scripts in this process: an interpreter that starts with all its imports costs more than a mistake."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def loaded_script(path: Path) -> ModuleType:
    """The script as a module; where it leaves off under ``__main__`` nothing has run."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # types written as texts are looked up there
    spec.loader.exec_module(module)
    return module


def call_script(path: Path, arguments: list[Any], folder: Path) -> Any:
    """Calls a script's `main` in a working folder; returns what it exits with, None at its end."""
    script = loaded_script(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        patch.chdir(folder)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        try:
            script.main()
        except SystemExit as end:
            return end.code
    return None
