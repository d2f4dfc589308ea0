"""The versions that setup.py promises: bounds that are tried, and one torch for everything that is made here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from loaded_script import loaded_script

pytestmark = pytest.mark.trust("versions", "declared bounds of dependencies")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    return loaded_script(ROOT / "scripts/test_versions.py")


def declared() -> list[Requirement]:
    """Of setup.py as it stands, not of what is installed, which may be of before an edit."""
    code = (
        "import runpy, setuptools, json\n"
        "setuptools.setup = lambda **options: print(json.dumps(options['install_requires'] + "
        "[one for extra in options['extras_require'].values() for one in extra]))\n"
        "runpy.run_path('setup.py')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Requirement(text) for text in json.loads(done.stdout)]


def test_every_requirement_has_a_bound_and_fits_here(tries):
    for requirement in declared():
        tries.add()
        assert any(one.operator in (">=", "==") for one in requirement.specifier), requirement
        try:
            assert requirement.specifier.contains(metadata.version(requirement.name), prereleases=True), requirement
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here


def test_a_bound_that_cannot_be_reached_is_told(script):
    requirements = ["Some.Thing>=0.18,<2", 'other>=3.1; extra == "eval"', "torch>=2.6", "style==0.1"]
    installed = {"some-thing": "0.18.0", "other": "3.1.6", "torch": "2.13.0+cpu", "style": "0.1"}
    told = script.bounds_not_reached(requirements, installed)
    assert told == ["other>=3.1 must be reachable, but the lowest that fits is 3.1.6"]


def test_one_torch_for_development_and_both_sets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [torch] = re.findall(r"^TORCH \?= (.*)$", makefile, flags=re.MULTILINE)
    assert f'default="{torch}"' in (ROOT / "scripts/test_versions.py").read_text(encoding="utf-8")


def test_the_workflow_tries_both_sets():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    runs = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in workflow["jobs"].items()}
    assert ".ci/run" in runs["test"]
    assert "test_versions.py lowest" in runs["lowest"] and "test_versions.py newest" in runs["newest"]
