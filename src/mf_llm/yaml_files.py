"""YAML and JSON files that people write: read strictly, with errors that say where."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mf_llm.errors import InputError


def read_yaml(path: Path, name: str) -> Any:
    """What a YAML or (named .json) JSON file holds.

    Args:
        path: the file.
        name: what errors call it: an argument's name.

    Raises:
        InputError: it cannot be read, is no YAML (JSON), or has a key twice; with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"`{name}` must be a YAML or JSON file that can be read, got {path} ({why}); nothing was done; name "
            "another file."
        ) from error
    return _parse_json(text, str(path)) if path.suffix == ".json" else parse_yaml(text, str(path))


def parse_yaml(text: str, place: str) -> Any:
    """What a text in YAML holds; `place` is what errors call it.

    Raises:
        InputError: it is no YAML, or has a key twice; with place and line.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_strict_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{place}{line}: must be valid YAML, but {problem}; correct the line.") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place}: must be valid YAML, but cannot be read ({error}); correct it.") from error


def _parse_json(text: str, place: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise InputError(f"{place}: must be valid JSON, but {twice!r} stands twice; take one out.")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}, line {error.lineno}: must be valid JSON, but {error.msg}; correct the line."
        ) from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place}: must be valid JSON, but cannot be read ({error}); correct it.") from error


@cache
def _strict_loader() -> type:
    """A safe YAML loader that refuses a key given twice, of which YAML would silently keep the last."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice", node.value[place][0].start_mark
                )
        return loader.construct_mapping(node, deep=True)

    StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return StrictLoader
