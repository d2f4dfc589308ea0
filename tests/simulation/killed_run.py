"""A run that kills itself (SIGKILL) behind a given number of journal lines: ``killed_run.py FOLDER LINES SIGNAL``."""

import os
import signal
import sys

from small_events import model_of, processor_of, run, small_event

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
run(model_of("qwen2"), processor_of("qwen2"), small_event(14), output=folder, signal=kind)
