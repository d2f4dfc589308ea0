"""The most memory that a piece of work held at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes at the peak of `work`: on the device if there is one, else of the whole process.

    Returns:
        None where neither tells (no Linux).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    try:
        (_PROCESS / "clear_refs").write_text("5")  # sets the peak back to what is held now
    except OSError:
        work()
        return None
    work()
    found = re.search(r"^VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
