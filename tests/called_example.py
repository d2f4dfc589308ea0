"""Calling an example in this process: starting an interpreter with all its imports costs more than a mistake does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def call_example(path: Path, arguments: list[Any], folder: Path) -> Any:
    """Calls an example's `main` in a working folder; returns what it exits with, None at its end."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        patch.chdir(folder)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        try:
            sys.modules[path.stem].main()
        except SystemExit as end:
            return end.code
    return None
