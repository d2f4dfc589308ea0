"""Where an interrupted training goes on."""

from __future__ import annotations

import json
from pathlib import Path


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint that was written to its end, or None; a killed process can leave a part of one."""
    paths = {int(path.name.rpartition("-")[2]): path for path in Path(folder).glob("checkpoint-*[0-9]")}
    for step in sorted(paths, reverse=True):
        try:
            json.loads((paths[step] / "trainer_state.json").read_text(encoding="utf-8"))  # it is written last
        except (OSError, ValueError):
            continue
        return str(paths[step])
    return None
