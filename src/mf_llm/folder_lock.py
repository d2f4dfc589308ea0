"""Folders and files that one process writes at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mf_llm.atomic_files import writing
from mf_llm.errors import InputError


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes from writing there while this lasts.

    The lock is on the folder itself, and the system lets go of it when this process ends, however it ends: there is
    no file that a killed process could leave behind, and a copy of the folder is not locked. Of the processes of one
    launch (``accelerate launch``) the first one holds it for all of them. Windows and some network file systems have
    no such locks; nothing is kept apart there.

    Raises:
        InputError: another process writes there, or it is no folder.
        OSError: it cannot be made.
    """
    path = Path(folder)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    if os.name == "nt" or os.environ.get("RANK", "0") != "0":
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path) -> None:
    """Locks an open file or folder until it is closed, or until this process ends.

    Raises:
        InputError: another process holds the lock.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"`output` must be written by one process, but another one is writing {path}; what they write would be "
            "mixed; wait for it to end, or name another folder."
        ) from None
    except OSError:  # some network file systems have no locks
        return
