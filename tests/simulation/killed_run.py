"""A run that kills itself (SIGKILL) behind a given number of journal lines: ``killed_run.py FOLDER LINES SIGNAL [N]``.

With N, the events of `several_events` are simulated, N together; without it, one event.
"""

import os
import signal
import sys

from small_events import model_of, processor_of, run, several_events, small_event

from mf_llm.simulation import journal

folder, lines, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
append, written = journal.Journal._append, []


def append_and_die(self, record):
    append(self, record)
    written.append(record)
    if len(written) == lines:
        self._file.write(b'{"step": {"step": 9, "re')  # a line that the crash cuts short
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


journal.Journal._append = append_and_die
together = int(sys.argv[4]) if len(sys.argv) > 4 else 1
events = several_events() if len(sys.argv) > 4 else small_event(14)
run(model_of("qwen2"), processor_of("qwen2"), events, output=folder, together=together, signal=kind)
