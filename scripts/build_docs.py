"""Builds the documentation of the public API out of its docstrings: HTML pages that load nothing from elsewhere.

    python scripts/build_docs.py build/docs

One page for the package, one for each of its packages with public names, and one for each module with a class that
public classes inherit methods from. What pdoc warns of (a name that is not there, an annotation that cannot be read)
is an error.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import mf_llm


def public_names() -> dict[str, list[str]]:
    """The package, and its packages that say what is public -> the names."""
    packages = ["mf_llm", *(f"mf_llm.{one.name}" for one in pkgutil.iter_modules(mf_llm.__path__) if one.ispkg)]
    return {name: names for name in packages if (names := getattr(importlib.import_module(name), "__all__", []))}


def build(folder: Path) -> None:
    """Writes the pages into `folder`."""
    public = public_names()
    # pdoc looks at what is there, not at what is imported on first use.
    values = [getattr(importlib.import_module(package), name) for package in public for name in public[package]]
    bases = {base.__module__ for value in values if inspect.isclass(value) for base in value.__mro__[1:]}
    known = {value.__module__ for value in values if inspect.isclass(value)}
    inherited = sorted(name for name in bases - known if name.startswith("mf_llm."))
    # An attribute without a docstring stands in that of its class.
    pdoc.render.configure(
        docformat="google",
        include_undocumented=False,
        show_source=False,
        footer_text=f"mf_llm {mf_llm.__version__}",
        template_directory=Path(__file__).parent / "docs_templates",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*public, *inherited, output_directory=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the pages")
    folder = parser.parse_args().folder
    build(folder)
    print(f"Documentation: {folder / 'index.html'}")


if __name__ == "__main__":
    main()
