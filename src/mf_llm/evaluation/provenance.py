"""What every result carries: the versions that made it and a hash of the data."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable

import mf_llm
from mf_llm.events.event import Event

_PACKAGES = ("numpy", "scipy")


def versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Versions of this package, of Python and of the packages the numbers come from."""
    found = {"mf_llm": mf_llm.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in packages}


def data_hash(events: Iterable[Event]) -> str:
    """SHA-256 over the sorted content hashes of the events: the same for the same events in any order."""
    hashes = sorted(event.content_hash() for event in events)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
