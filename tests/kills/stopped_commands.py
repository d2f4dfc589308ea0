"""A command that SIGINT or SIGTERM stops at drawn moments, and that goes on: ``stopped_commands.py CASES``.

CASES is a JSON file with `folder`, `words` (see ``killed_commands.py``) and `stops`, how often each signal is sent.
Writes into ``stops.json``, for each stop: the run, the signal, the moment, the exit code and what it said.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from killed_commands import exit_code, fork, run, watch_calls


def stopped(words: list[str], log: Path, sign: signal.Signals, moment: int) -> int:
    """Runs a command that gets a signal at its nth call that matters to files."""
    seen: Counter[str] = Counter()

    def see(now: str) -> None:
        seen["all"] += 1
        if seen["all"] == moment:
            os.kill(os.getpid(), sign)

    watch_calls(see)
    return run(words, log)


def main(asked: dict) -> list[dict]:
    folder, words = Path(asked["folder"]), asked["words"]
    draws, stops = np.random.default_rng(1), []

    def command(name: str, *more: str) -> list[str]:
        return [word.replace("{output}", str(folder / name)) for word in (*words, *more)]

    if run(command("whole"), folder / "whole.txt"):
        sys.exit((folder / "whole.txt").read_text())
    moments = folder / "moments.txt"

    def counting() -> int:
        with moments.open("w") as file:
            watch_calls(lambda moment: print(moment, file=file, flush=True))
            return run(command("again"), folder / "again.txt")

    exit_code(fork(counting))
    # Behind the record of the run itself, which is all that is there at first.
    latest = len(moments.read_text().splitlines())
    for sign in (signal.SIGINT, signal.SIGTERM):
        for number, moment in enumerate(
            draws.choice(np.arange(5, latest + 1), asked["stops"], replace=False).tolist()
        ):
            name = f"{sign.name}-{number}"
            log = folder / f"{name}.txt"
            code = exit_code(
                fork(lambda log=log, name=name, sign=sign, moment=moment: stopped(command(name), log, sign, moment))
            )
            left = [str(path.name) for path in (folder / name).rglob(".*")]
            stops.append(
                {
                    "name": name,
                    "signal": sign.name,
                    "moment": moment,
                    "code": code,
                    "said": log.read_text(),
                    "left": left,
                    "again": exit_code(fork(lambda name=name: run(command(name, "--resume"), folder / "on.txt"))),
                }
            )
    return stops


if __name__ == "__main__":
    case = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(case["folder"], "stops.json").write_text(json.dumps(main(case), indent=2), encoding="utf-8")
