"""Commands that are killed (SIGKILL) at drawn moments and go on each time, until they are through: again and again.

``killed_commands.py CASES`` reads a JSON file: a list of cases with

- ``folder``: where its runs go, ``whole`` (not interrupted) and ``killed-N`` (interrupted),
- ``words``: the words behind ``mf-llm``, where ``{output}`` stands for the output folder,
- ``resume``: the words that are added when it goes on,
- ``kills``: how many kills are wanted, and the ``seed`` of the draws,

and writes the kills of each case into ``kills.json`` in its folder.

Imports take seconds and a tiny run a fraction of one: everything is imported once, and each run is a fork.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path

# Before torch is imported: a fork has none of the threads of the process it leaves.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
from tqdm import tqdm

from mf_llm import cli

# By default forks share the lock of a bar: one that is killed while it holds it would stop the others for good.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0

# What ends the making of a file; `Path.replace` and `Path.unlink` come to these.
CALLS = ("fsync", "replace", "unlink")


def run(words: Sequence[str], log: Path) -> int:
    """Runs ``mf-llm WORDS`` in this process; returns its exit code."""
    sys.argv = ["mf-llm", *words]
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            cli.main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


def fork(action: Callable[[], int]) -> int:
    """Starts `action` in a fork of this process, whose exit code it gives; returns the id of the fork."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = action()
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    """Waits for a fork; minus the signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def watch_calls(see: Callable[[str], None]) -> None:
    """Has `see` called before and behind each of `CALLS`, with words for the moment."""

    def watched(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*args, **named):
            # What is written beside its place has the number of the process in its name.
            what = f"{name} {Path(args[-1]).name.rstrip('0123456789')}" if name != "fsync" else name
            see(f"before {what}")
            try:
                return real(*args, **named)
            finally:
                see(f"behind {what}")

        return call

    for name in CALLS:
        setattr(os, name, watched(name))


class Case:
    """One command and its runs."""

    def __init__(self, asked: dict) -> None:
        self.folder, self.words, self.resume = Path(asked["folder"]), asked["words"], asked["resume"]
        self.wanted, self.draws = asked["kills"], np.random.default_rng(asked["seed"])
        self.log, self.note = self.folder / "log.txt", self.folder / "note.txt"
        self.kills: list[str] = []
        self.moments: Counter[str] = Counter()
        self.next: list[str] = []
        self.seconds = 0.0

    def make(self) -> None:
        """Makes all runs."""
        self._measure()
        for trial in count(1):
            if len(self.kills) >= self.wanted:
                break
            output, attempt = self.folder / f"killed-{trial}", 0
            while not self._is_through(output, attempt):
                attempt += 1
        record = {"kills": self.kills, "moments": sorted(self.moments), "seconds": self.seconds}
        (self.folder / "kills.json").write_text(json.dumps(record, indent=2), encoding="utf-8")

    def _measure(self) -> None:
        """Runs the command here, which imports everything, and in a fork, to see how long it takes."""
        self._check(run(self._words("whole"), self.log))
        seen = self.folder / "moments.txt"

        def counting() -> int:
            with seen.open("w") as file:
                watch_calls(lambda moment: print(moment, file=file, flush=True))
                return run(self._words("again"), self.log)

        start = time.perf_counter()
        self._check(exit_code(fork(counting)))
        self.seconds = time.perf_counter() - start
        self.moments = Counter(seen.read_text().splitlines())

    def _is_through(self, output: Path, attempt: int) -> bool:
        """One attempt, which may be killed: by turns at a moment that matters to files, and at any time."""
        words = self._words(output.name, *(self.resume if attempt else ()))
        if len(self.kills) >= self.wanted or attempt > 20:
            code = exit_code(fork(lambda: run(words, self.log)))
        elif len(self.kills) % 2:
            code = self._killed_after(self.draws.random() * self.seconds, words)
        else:
            self.next = self.next or [str(moment) for moment in self.draws.permutation(sorted(self.moments))]
            moment = self.next[0]
            nth = 1 if attempt else int(self.draws.integers(1, self.moments[moment], endpoint=True))
            code = exit_code(fork(lambda: self._dying_at(moment, nth, words)))
            if code == -signal.SIGKILL:
                self.next.pop(0)
        if code != -signal.SIGKILL:
            self._check(code)
            return True
        self.kills.append(f"{output.name}: {self.note.read_text()}")
        return False

    def _killed_after(self, seconds: float, words: Sequence[str]) -> int:
        self.note.write_text(f"after {seconds:.3f} s")
        pid = fork(lambda: run(words, self.log))
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # of a run that is through meanwhile the exit code stays as it is
        return exit_code(pid)

    def _dying_at(self, moment: str, nth: int, words: Sequence[str]) -> int:
        seen: Counter[str] = Counter()

        def die(now: str) -> None:
            seen[now] += 1
            if now == moment and seen[now] == nth:
                self.note.write_text(f"{now} ({nth})")
                os.kill(os.getpid(), signal.SIGKILL)

        watch_calls(die)
        return run(words, self.log)

    def _words(self, name: str, *more: str) -> list[str]:
        return [word.replace("{output}", str(self.folder / name)) for word in (*self.words, *more)]

    def _check(self, code: int) -> None:
        if code:
            sys.exit(f"exit code {code}:\n{self.log.read_text()[-2000:]}")


if __name__ == "__main__":
    for asked in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        Case(asked).make()
