"""The events that are installed with the package, found by name."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

_STEM = "events."


def packaged_events() -> tuple[str, ...]:
    """The names that `load_events` knows without any file: one folder of ``mf_llm/data`` each, with a card.

    Examples:
        >>> packaged_events()
        ('bridge-closure', 'vaccine-intention')
    """
    return tuple(sorted(folder.name for folder in _data_folder().iterdir() if _events_file(folder) is not None))


def packaged_file(name: str) -> Traversable | None:
    """The file that holds the packaged events `name`, or None if there are none of that name."""
    return _events_file(_data_folder() / name) if name in packaged_events() else None


def _data_folder() -> Traversable:
    return resources.files("mf_llm") / "data"


def _events_file(folder: Traversable) -> Traversable | None:
    if not folder.is_dir():
        return None
    return next((file for file in folder.iterdir() if file.name.startswith(_STEM)), None)
