"""A command on real disks that are too small, and on one that may not be written: ``full_disk.py CASE``.

To be run with a mount namespace of its own (``unshare --map-root-user --mount``). CASE is a JSON file with ``folder``
and ``words`` as in `killed_commands`. In the folder is left, for each disk, ``failed-N`` (what was on it when the
command ended), ``resumed-N`` (what it went on to when there was room) and, in ``disks.json``, what the command said.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from killed_commands import run

ROOMY = "size=64m,nr_inodes=10k"


def mount(options: str, disk: Path, *more: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, *more, "tmpfs", str(disk)], check=True)


@contextmanager
def mounted(options: str, disk: Path) -> Iterator[None]:
    """A disk that lasts as long as this does."""
    disk.mkdir(exist_ok=True)
    mount(options, disk)
    try:
        yield
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def told(words: list[str], log: Path) -> dict[str, object]:
    """Runs a command: its exit code, and the last line it wrote."""
    log.unlink(missing_ok=True)
    code = run(words, log)
    return {"code": code, "line": log.read_text().splitlines()[-1]}


def main(case: Path) -> None:
    """All disks."""
    asked = json.loads(case.read_text(encoding="utf-8"))
    folder = Path(asked["folder"])
    disk, log = folder / "disk", folder / "log.txt"
    words = [word.replace("{output}", str(disk / "run")) for word in asked["words"]]
    disks = []
    # Until there is room enough: first for bytes, in pages of 4 KiB, then for files. The disk itself is a file.
    for options in ("size={}k,nr_inodes=10k", "size=64m,nr_inodes={}"):
        room, step = (4, 12) if options.startswith("size={}") else (2, 3)
        while True:
            number = len(disks)
            with mounted(options.format(room), disk):
                failed = told(words, log)
                if failed["code"] == 0:
                    break
                shutil.copytree(disk, folder / f"failed-{number}")
                mount(ROOMY, disk, "-o", "remount,ro")
                read_only = told(words, log)
                mount(ROOMY, disk, "-o", "remount,rw")
                resumed = told(words, log)
                shutil.copytree(disk / "run", folder / f"resumed-{number}")
            disks.append({"room": options.format(room), "full": failed, "read_only": read_only, "resumed": resumed})
            room += step
    (folder / "disks.json").write_text(json.dumps(disks, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
