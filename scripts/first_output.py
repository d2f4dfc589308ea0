"""Runs ``mf-llm`` up to the first output of a model and writes how long that took.

    python scripts/first_output.py REPORT STARTED ARGUMENTS...

STARTED is the time (seconds since 1970) at which the command was given; REPORT gets a JSON with ``seconds``. An output
is a pass that gives the scores of at least one token: encoding a prompt part that many prompts share gives none.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from torch.nn.modules.module import register_module_forward_hook

from mf_llm.atomic_files import write_json
from mf_llm.cli import main


def first_output(report: Path, started: float, arguments: list[str]) -> None:
    """Runs the command and ends the process at the first output; see the module."""

    def seen(module: Any, args: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None and logits.numel():
            write_json(report, {"seconds": time.time() - started})
            os._exit(0)  # whatever the command would do next is not asked for

    register_module_forward_hook(seen)
    sys.argv = ["mf-llm", *arguments]
    main()


if __name__ == "__main__":
    first_output(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
