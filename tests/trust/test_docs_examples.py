"""Every public name is documented, and what the documentation shows is run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from small_events import model_of, processor_of
from typer.testing import CliRunner

import mf_llm
from mf_llm import SimulationConfig, load_events
from mf_llm.cli import app
from mf_llm.events import event_from_record
from mf_llm.interventions import load_plan

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/mf_llm"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "model_cards").glob("*.md")])
DOCUMENTED = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
    if re.search(r"^ *>>> ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
}
# What somebody calls first should show how.
WITH_EXAMPLES = (
    "Endpoint",
    "Event",
    "Forecast",
    "MFLLMForSimulation",
    "MFLLMProcessor",
    "Population",
    "SimulationConfig",
    "build_transitions",
    "evaluate_rollouts",
    "iter_events",
    "load_event_sets",
    "load_events",
    "load_metric",
    "load_rollouts",
    "lora_config",
    "packaged_events",
    "simulate",
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder as the working folder, from which the sources can still be named as in the examples."""
    (tmp_path / "src").symlink_to(PACKAGE.parent)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.trust("versions", "examples of the API documentation, run")
@pytest.mark.parametrize("module", sorted(DOCUMENTED))
def test_examples_of_docstrings_give_what_they_say(module, elsewhere, tries):
    done = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, report=True
    )
    tries.add(done.attempted)
    # None stands where doctest does not look.
    written = re.findall(r"^ *>>> ", Path(importlib.import_module(module).__file__).read_text(), flags=re.MULTILINE)
    assert done.failed == 0 and done.attempted == len(written)


@pytest.mark.trust("versions", "public names without a docstring")
def test_every_public_name_has_a_docstring(tries):
    bare = []
    for name in mf_llm.__all__:
        tries.add()
        value = getattr(mf_llm, name)
        if name.startswith("__"):
            continue
        # A dataclass without one is given its signature as docstring, which tells nothing.
        own = [(name, value)]
        if inspect.isclass(value):
            own += [(f"{name}.{key}", member) for key, member in vars(value).items() if _is_told(key, member)]
        bare += [path for path, one in own if not (one.__doc__ or "").strip() or one.__doc__.startswith(f"{name}(")]
    assert bare == []


def _is_told(name: str, member: object) -> bool:
    """Methods and properties of our own that are public; those that override a library's are told of there."""
    inner = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    if name.startswith("_") or name in ("forward", "save_pretrained", "get_text_config"):
        return False
    return inspect.isfunction(inner) or isinstance(inner, property)


def test_the_main_entry_points_show_an_example():
    assert [name for name in WITH_EXAMPLES if ">>> " not in getattr(mf_llm, name).__doc__] == []


@pytest.mark.trust("versions", "commands and options that documents name")
def test_commands_of_the_documents_take_their_options(tries):
    runner, known, wrong = CliRunner(), {}, []
    for document in DOCUMENTS:
        for name, rest in re.findall(r"(?:^ {4}|`)mf-llm (\w+)([^`\n]*)", _joined(document), flags=re.MULTILINE):
            tries.add()
            if name not in known:
                done = runner.invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
                known[name] = set(re.findall(r"--[a-z][a-z-]*", done.output)) if done.exit_code == 0 else None
            options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.split(" # ")[0]))
            if known[name] is None or options - known[name]:
                wrong.append((document.name, name, sorted(options - (known[name] or set()))))
    assert wrong == []
    assert len(known) >= 7


@pytest.mark.trust("versions", "scripts and options that documents name")
def test_scripts_of_the_documents_take_their_options(tries):
    wrong = []
    for document in DOCUMENTS:
        for script, rest in re.findall(r"((?:examples|scripts)/\w+\.py)([^`\n]*)", _joined(document)):
            tries.add()
            file = ROOT / script
            code = file.read_text(encoding="utf-8") if file.is_file() else ""
            options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)) if "argparse" in code else set()
            wrong += [(document.name, script, option) for option in sorted(options) if f'"{option}"' not in code]
            if not code:
                wrong.append((document.name, script, "no such file"))
    assert wrong == []


@pytest.mark.trust("versions", "code of the documents, run or read")
def test_code_of_the_documents_is_run(elsewhere, tries):
    text = (ROOT / "docs/interventions.md").read_text(encoding="utf-8")
    for block in _fenced(text, "yaml"):
        tries.add()
        (elsewhere / "plan.yaml").write_text(block, encoding="utf-8")
        assert load_plan(elsewhere / "plan.yaml").candidates
    # Its steps are those of the whole event; the tiny model is asked for no more people than they need.
    [event] = load_events("bridge-closure")
    config = SimulationConfig(signal="statistics", action="choice", max_actions=112)
    names = {"model": model_of("qwen2"), "processor": processor_of("qwen2"), "event": event, "config": config}
    for block in _fenced(text, "python"):
        tries.add()
        exec(compile(block.replace("range(8)", "range(2)"), "docs/interventions.md", "exec"), names)
    assert {row["step"] for row in names["effects"].rows()} >= {5, 6}


@pytest.mark.trust("versions", "code of the documents, run or read")
def test_code_of_the_event_format_is_run(elsewhere, tries):
    text = (ROOT / "docs/event-format.md").read_text(encoding="utf-8")
    [record] = re.findall(r"^ {4}\{\"event_id\".*?(?=\n\n)", text, flags=re.DOTALL | re.MULTILINE)
    [call] = re.findall(r"^ {4}load_events\(.*?^ {4}\}\)$", text, flags=re.DOTALL | re.MULTILINE)
    tries.add(2)
    event = event_from_record(json.loads(record))
    assert event.turns[0].labels == {"stance": "against"} and event.turns[1].parent == 0
    (elsewhere / "comments.csv").write_text("thread,comment,stance,Age,kind\na,No way.,against,46,reply\n")
    [event] = eval(compile(textwrap.dedent(call), "docs/event-format.md", "eval"), {"load_events": load_events})
    assert event.topic == "The bridge closes." and event.dimensions["stance"] == ("for", "against")
    assert event.turns[0].state == {"age": "46"} and event.turns[0].kind is None


def test_files_that_documents_name_are_there():
    """Links and paths into the repository; what a command writes lies under runs/."""
    missing = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        links = [(document.parent / link) for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        paths = [ROOT / path for path in re.findall(r"\b((?:examples|scripts|docs|src|tests)/[\w./-]+\w)", text)]
        missing += [(document.name, str(path)) for path in (*links, *paths) if not _is_there(path)]
    assert missing == []


def _is_there(path: Path) -> bool:
    return path.exists() or path.name == "NAME"  # a name of the reader's own


def test_shipped_yaml_of_the_examples_is_read():
    for file in sorted((ROOT / "examples/configs").glob("*.yaml")):
        assert yaml.safe_load(file.read_text(encoding="utf-8"))


def _fenced(text: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert found
    return found


def _joined(document: Path) -> str:
    """The text with continued command lines on one line."""
    return re.sub(r" *\\\n +", " ", document.read_text(encoding="utf-8"))
