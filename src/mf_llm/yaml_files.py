"""YAML and JSON files that people write: read strictly, with errors that say where."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mf_llm.errors import InputError
from mf_llm.events.validation import check_text, one_line, show

_MOST_VALUES = 1_000_000


def read_yaml(path: Path | Traversable, name: str) -> Any:
    """What a YAML or (named .json) JSON file holds.

    Args:
        path: the file, or one of the package's resources.
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
    return _parse_json(text, str(path)) if path.name.endswith(".json") else parse_yaml(text, str(path))


def parse_yaml(text: str, place: str) -> Any:
    """What a text in YAML holds; `place` is what errors call it.

    Raises:
        InputError: it is no YAML, or has a key twice; with place and line.
    """
    import yaml

    try:
        return _checked(yaml.load(text, Loader=_strict_loader()), place)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{place}{line}: must be valid YAML, but {problem}; correct the line.") from error
    # A tag that does not fit its value (`!!bool maybe`) gives any of these.
    except (RecursionError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise InputError(
            f"{place}: must be valid YAML, but cannot be read ({one_line(error)}); correct it."
        ) from error


def _checked(found: Any, place: str) -> Any:
    """What was read, if it is of a size that people write and its texts can be written again.

    YAML can name a part of a file and repeat it, within itself, too: a few lines can stand for billions of values.
    """
    pending, count = [found], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > _MOST_VALUES:
            raise InputError(
                f"{place}: must hold at most {_MOST_VALUES:,} values, got more, or a part that holds itself; nothing "
                "was read; write fewer."
            )
        if isinstance(value, dict):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            pending += value
        elif isinstance(value, str):
            try:
                check_text(value, "")
            except InputError as error:
                raise InputError(f"{place}: the text {show(value)} {error}.") from None
    return found


def _parse_json(text: str, place: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise InputError(f"{place}: must be valid JSON, but {twice!r} stands twice; take one out.")
        return dict(pairs)

    def no_number(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return _checked(json.loads(text, object_pairs_hook=mapping, parse_constant=no_number), place)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}, line {error.lineno}: must be valid JSON, but {error.msg}; correct the line."
        ) from error
    except (RecursionError, ValueError) as error:
        raise InputError(
            f"{place}: must be valid JSON, but cannot be read ({one_line(error)}); correct it."
        ) from error


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
