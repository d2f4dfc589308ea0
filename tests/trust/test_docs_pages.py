"""The pages of the API documentation: built without a warning, complete, and with no link that leads nowhere."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILDER = runpy.run_path(str(ROOT / "scripts/build_docs.py"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Module -> its page."""
    pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("docs")
    BUILDER["build"](folder)
    names = {".".join(file.relative_to(folder).with_suffix("").parts): file for file in folder.rglob("*.html")}
    return {name: file for name, file in names.items() if name != "index"}


@pytest.mark.trust("versions", "public names and methods in the pages of the documentation")
def test_every_public_name_has_an_entry(pages, tries):
    lacking = []
    for module, names in BUILDER["public_names"]().items():
        entries = _anchors(pages[module])
        for name in names:
            tries.add()
            value = getattr(importlib.import_module(module), name)
            places = [{name}, *({f"{name}.{method}", f"{base}.{method}"} for base, method in _methods(value))]
            lacking += [(module, sorted(one)) for one in places if not one & entries and name != "__version__"]
    assert lacking == []


@pytest.mark.trust("versions", "links in the pages of the documentation")
def test_no_link_leads_nowhere(pages, tries):
    anchors = {file: _anchors(file) for file in pages.values()}
    broken = []
    for file in anchors:
        for link in re.findall(r'<a[^>]* href="([^"$]+)"', file.read_text(encoding="utf-8")):
            tries.add()
            path, _, anchor = link.partition("#")
            target = Path(os.path.normpath(file.parent / path)) if path else file
            if "://" not in link and (target not in anchors or (anchor and anchor not in anchors[target])):
                broken.append((file.name, link))
    assert broken == []


def test_sections_are_lists_and_examples_are_code(pages):
    """Arguments, results, errors and examples must not stand there as the raw text of a docstring."""
    for module, file in pages.items():
        text = re.sub(r"<(script|style).*?</\1>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        raw = re.findall(r"<p>(?:Args|Returns|Raises|Attributes|Examples):[^<]*|<p>&gt;&gt;&gt;[^<]*|``[^<]*", text)
        assert raw == [], module


def _anchors(file: Path) -> set[str]:
    return set(re.findall(r' id="([^"]+)"', file.read_text(encoding="utf-8")))


def _methods(value: object) -> list[tuple[str, str]]:
    """Public methods of a class, each with the class of this package that it stands in."""
    bases = [base for base in value.__mro__ if base.__module__.startswith("mf_llm")] if inspect.isclass(value) else []
    members = [
        (base.__name__, name, getattr(one, "__func__", one)) for base in bases for name, one in vars(base).items()
    ]
    return [
        (base, name)
        for base, name, one in members
        if inspect.isfunction(one) and not name.startswith("_") and (one.__module__ or "").startswith("mf_llm")
    ]
