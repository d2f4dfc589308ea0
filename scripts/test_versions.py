"""Runs the tests with the lowest versions that setup.py allows, or with the newest.

    python scripts/test_versions.py lowest|newest [--tests PATH ...] [--torch REQUIREMENT] [--install-only]

Makes an environment of its own (build/versions/lowest, say), installs into it with uv (``pip install uv``) and runs
the tests there. torch is the exception: older builds are not to be had for every machine, so both sets take the one
that --torch names, installed by pip as ``make env`` does. "lowest" also fails if a declared bound cannot be reached
because another requirement asks for more: what the bound promises is then not what was tried.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}

# What the declared lower bounds and the installed versions are, said by the environment that was made.
_TELL = """
import json
from importlib import metadata
print(json.dumps([metadata.requires("mf-llm"), {d.name: d.version for d in metadata.distributions()}]))
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", choices=list(RESOLUTIONS))
    parser.add_argument("--tests", nargs="+", default=["tests"], metavar="PATH", help="tests to run, all by default")
    parser.add_argument("--torch", default="torch==2.13.0", metavar="REQUIREMENT", help="the torch of both sets")
    parser.add_argument("--torch-index", metavar="URL", help="package index for torch alone")
    parser.add_argument("--environment", type=Path, metavar="FOLDER", help="default: build/versions/VERSIONS")
    parser.add_argument("--install-only", action="store_true", help="install and check the bounds, run nothing")
    args = parser.parse_args(arguments)
    uv = _uv()
    if uv is None:
        print("error: uv must be installed, but was not found; run: pip install uv", file=sys.stderr)
        return 2
    environment = (args.environment or ROOT / "build/versions" / args.versions).resolve()
    python = environment / "bin/python"
    try:
        _install(uv, environment, args)
        wrong = bounds_not_reached(*json.loads(_output([python, "-c", _TELL]))) if args.versions == "lowest" else []
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        return 1
    for line in wrong:
        print(f"error: setup.py: {line}", file=sys.stderr)
    if wrong or args.install_only:
        return bool(wrong)
    return subprocess.run([python, "-m", "pytest", "-p", "no:cacheprovider", *args.tests], cwd=ROOT).returncode


def bounds_not_reached(requirements: list[str], installed: dict[str, str]) -> list[str]:
    """Which lower bounds are below what was installed as the lowest set, one line each.

    Args:
        requirements: as in the metadata of the package, with markers of extras.
        installed: distribution -> version.
    """
    found = {canonicalize_name(name): Version(version) for name, version in installed.items()}
    lines = []
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        for bound in requirement.specifier:
            if name == "torch" or bound.operator != ">=" or name not in found:
                continue
            if found[name] > Version(bound.version):
                lines.append(f"{name}>={bound.version} must be reachable, but the lowest that fits is {found[name]}")
    return sorted(set(lines))


def _uv() -> list[str] | None:
    if find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    program = shutil.which("uv")
    return [program] if program else None


def _install(uv: list[str], environment: Path, args: argparse.Namespace) -> None:
    """A new environment: torch alone by pip, everything else by uv, which leaves what it finds and fits."""
    python = environment / "bin/python"
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, environment], check=True)
    index = ["--index-url", args.torch_index] if args.torch_index else []
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *index, args.torch], check=True)
    constraint = environment / "torch.txt"
    constraint.write_text(args.torch + "\n")
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    resolution = ["--resolution", RESOLUTIONS[args.versions], "--constraint", constraint]
    subprocess.run([*install, *resolution, "--requirement", "setup.py", "--all-extras"], cwd=ROOT, check=True)
    subprocess.run([*install, "--no-deps", "--editable", "."], cwd=ROOT, check=True)


def _output(command: list[str | Path]) -> str:
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=without, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
