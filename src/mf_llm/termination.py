"""Ending on SIGTERM as on Ctrl-C: what is open is closed, what is finished is kept."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # what shells show for a process that the signal ended


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Within this context (or a function it decorates) SIGTERM ends the process in order: one line, exit code 143.

    Schedulers send it before they kill. Left alone it ends a process between two bytes of a file.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signals arrive
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except _Terminated:
        print("\nmf-llm: terminated; finished steps are kept; go on as after an interruption", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(SystemExit):
    """Neither an `Exception`, which ours could take for a fault, nor a `KeyboardInterrupt`, which has another code."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Terminated(TERMINATED)
