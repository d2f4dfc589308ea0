"""The most memory that a piece of work held at a time."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of `work`: on the device if there is one, else of the whole process.

    What was held before and is free again is handed back first, so that it is not counted.

    Returns:
        None where neither tells (no Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    _hand_back()
    try:
        (_PROCESS / "clear_refs").write_text("5")  # sets the peak back to what is held now
    except OSError:
        work()
        return None
    work()
    found = re.search(r"^VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _hand_back() -> None:
    """Gives the system what the allocator keeps for later; only that of glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _PROCESS.exists() else None
    if trim is not None:
        trim(0)
