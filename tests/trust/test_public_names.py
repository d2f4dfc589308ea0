"""Names that are imported on first use: type checkers are told the same, and no module can take a name's place."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import mf_llm

PACKAGES = [
    name
    for name in ("mf_llm", *(f"mf_llm.{one.name}" for one in pkgutil.iter_modules(mf_llm.__path__) if one.ispkg))
    if hasattr(importlib.import_module(name), "_PUBLIC_NAMES")
]


def test_there_are_such_packages():
    assert {"mf_llm", "mf_llm.simulation", "mf_llm.training"} <= set(PACKAGES)


@pytest.mark.trust("versions", "public names that type checkers see")
@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_find_each_name_where_it_stands(package, tries):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    [block] = [one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"]
    told = {one.names[0].asname: one.module for one in block.body}
    tries.add(len(told))
    assert told == module._PUBLIC_NAMES


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_named_like_a_public_name(package):
    """Importing the module would put it in the place of the name, and callers would get a module."""
    module = importlib.import_module(package)
    assert {one.name for one in pkgutil.iter_modules(module.__path__)} & set(module.__all__) == set()
