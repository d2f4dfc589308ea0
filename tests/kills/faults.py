"""Disks that fail: at a given call, behind a given size of a file, or wherever something would be written."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ("mkdir", "fsync", "replace")


@contextmanager
def failing_call(nth: int, under: Path, error: int = errno.ENOSPC) -> Iterator[list[dict[str, bytes]]]:
    """Within this context the `nth` call that changes something under a folder fails.

    Yields:
        A list that gets what was under the folder when it failed: nothing where there were fewer calls.
    """
    found: list[dict[str, bytes]] = []
    number = 0

    def failing(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*args, **named):
            nonlocal number
            # Files that are synced have no name here; nothing else syncs. A folder that is there is not made.
            path = None if name == "fsync" else Path(args[name == "replace"])
            if path is None or (under in path.parents and not path.is_dir()):
                number += 1
                if number == nth:
                    found.append(files(under))
                    raise OSError(error, os.strerror(error))
            return real(*args, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, failing(name))
        yield found


@contextmanager
def read_only(folder: Path, error: int) -> Iterator[None]:
    """Within this context nothing under a folder can be made or opened for writing."""
    make, open_file = os.mkdir, io.open

    def check(path) -> None:
        if isinstance(path, str | os.PathLike) and folder in Path(path).parents:
            raise OSError(error, os.strerror(error), str(path))

    def mkdir(path, *args, **named):
        if not os.path.isdir(path):
            check(path)
        return make(path, *args, **named)

    def opened(path, mode="r", *args, **named):
        if set(mode) & set("wax+"):
            check(path)
        return open_file(path, mode, *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "mkdir", mkdir)
        patch.setattr(io, "open", opened)
        yield


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within this context no file can grow beyond a size: the portable stand-in for a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def files(folder: Path) -> dict[str, bytes]:
    """What is under a folder, without what is being written."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
