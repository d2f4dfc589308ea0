"""The model card of a checkpoint: Markdown that the Hub reads, rendered from `mf_llm.training.card_data`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import plain, write_text
from mf_llm.models.hub_files import looks_like_repo_id
from mf_llm.redaction import redacted
from mf_llm.training.card_data import CardData, Result

CARD_FILE = "README.md"
TEMPLATE_FILE = "model_card_template.md"
_ROLES = {"mean_field": "mean field"}
TAGS = ("mf-llm", "social-simulation", "mean-field")

# A path of two parts or more from the root, from the home folder, or upwards. Not in URLs, and not "and/or".
_PATH = re.compile(r"(?<![\w:/.~])(?:(?:~|\.\.)(?:/[\w.@+\-]+)+|(?:/[\w.@+\-]+){2,})/?")
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\(?:[^\\\s\"'`|]+\\)*([^\\\s\"'`|]*)")
_ABSOLUTE = re.compile(r"(?:/|~/|\.\./|[A-Za-z]:\\)")


def render_model_card(card: CardData) -> str:
    """The card as Markdown with a YAML head.

    No path of this machine and no token gets in: of a path only the last name is kept.
    """
    from huggingface_hub import ModelCard, ModelCardData

    bases = list(dict.fromkeys(base.base for base in card.base_models if _is_hub_id(base.base)))
    head = ModelCardData(
        language=list(card.languages) or None,
        license=card.licence,
        library_name="mf_llm",
        tags=[*TAGS, *card.tags],
        base_model=bases or None,
        base_model_relation="adapter" if bases and card.adapters else None,
        datasets=[data.hub_id for data in card.data_sets if data.hub_id] or None,
    )
    name, training = _shown_name(card.name), card.training
    content = ModelCard.from_template(
        head,
        template_str=(resources.files("mf_llm") / "data" / TEMPLATE_FILE).read_text(encoding="utf-8"),
        card=card,
        title=name.split("/")[-1],
        name=name,
        languages=", ".join(card.languages),
        bases=_table(
            ("role", "base model", "revision", "licence"),
            [
                (_ROLES.get(b.role, b.role), _shown_name(b.base), b.revision or "none", b.licence or "see the base")
                for b in card.base_models
            ],
        ),
        data_sets=_table(
            ("data set", "licence", "events", "transitions", "people", "SHA-256", "note"),
            [
                (
                    data.name,
                    data.licence or "none stated",
                    data.events,
                    data.transitions,
                    data.people,
                    data.content_hash[:16],
                    data.note,
                )
                for data in card.data_sets
            ],
        ),
        hyper_parameters=_table(
            ("hyper-parameter", "value"),
            [(key, _value(value)) for key, value in training.hyper_parameters.items()] if training else [],
        ),
        command=" ".join((training.command or "").split()) if training else "",
        versions=", ".join(f"{package} {version}" for package, version in training.versions.items())
        if training
        else "",
        curve=Path(card.curve).name if card.curve else "",
        results=_table(
            ("data set", "measure", "value", "95 % interval", "events", "seeds"),
            [(r.data_set, r.measure, f"{r.value:.3f}", _interval(r), r.events, r.seeds) for r in card.results],
        ),
    )
    return without_private_parts(str(content)).rstrip() + "\n"


def write_model_card(folder: str | os.PathLike, card: CardData) -> Path:
    """Writes the card as ``README.md`` into `folder`, whole or not at all, and returns its path."""
    path = Path(folder) / CARD_FILE
    write_text(path, render_model_card(card))
    return path


def without_private_parts(text: str) -> str:
    """`text` with absolute paths cut to their last name, and without tokens.

    In running text a path ends at the first space, unless it is in the home folder.

    Examples:
        >>> without_private_parts("train --events /home/ann/data/covid.jsonl.gz (https://arxiv.org/abs/2504.21582)")
        'train --events covid.jsonl.gz (https://arxiv.org/abs/2504.21582)'
    """
    home = str(Path.home())
    text = text.replace("file://", "")
    if len(home) > 2:  # first, since the name of a home folder may hold spaces
        text = text.replace(home + os.sep, "~/")
    text = redacted(text)
    text = _WINDOWS_PATH.sub(lambda match: match[1] or "(a folder)", text)
    return _PATH.sub(lambda match: _last_name(match[0]), text)


def _last_name(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", "~", "..")]
    # The home folder itself would tell who somebody is.
    is_home = path.startswith(("/home/", "/Users/")) and len(parts) == 2
    return "(a folder)" if is_home or not parts else parts[-1]


def _is_hub_id(name: str) -> bool:
    return looks_like_repo_id(name) and not Path(name).exists()


def _shown_name(name: str) -> str:
    """A Hub id as it is; of a folder the last name alone."""
    return name if _is_hub_id(name) else re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table, "" without rows; no value can break it."""
    lines = [[_cell("" if value is None else str(value)) for value in row] for row in rows]
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *lines])


def _cell(text: str) -> str:
    if _ABSOLUTE.match(text):  # a path as a whole, whose folders may have spaces in their names
        text = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return " ".join(text.split()).replace("|", "\\|")


def _interval(result: Result) -> str:
    return "" if result.low is None or result.high is None else f"[{result.low:.3f}, {result.high:.3f}]"


def _value(value: Any) -> str:
    value = plain(getattr(value, "value", value))  # enumerations of transformers
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


__all__ = ["CardData", "render_model_card", "without_private_parts", "write_model_card"]
