"""The sections that make a comparison repeatable: command, versions, hashes, options, notes; and optional tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mf_llm.reporting.blocks import NONE, Block, Cell, Points, Section, Table, Text, number, shortened, with_bounds
from mf_llm.reporting.comparison_files import ComparisonFiles

_OPTIONAL = {
    "annotators.json": ("annotators", "How well annotators of text agree with people"),
    "robustness.csv": ("robustness", "Robustness and memorisation"),
    "horizon.csv": ("horizon", "Long horizons"),
}
# Columns of other commands' files that hold what people or models wrote.
_TEXTS = {
    "text",
    "texts",
    "topic",
    "prompt",
    "state",
    "action",
    "signal",
    "quote",
    "continuation",
    "example",
    "examples",
}
_MAX_ROWS, _MAX_TEXT = 200, 200
_DECIMAL = re.compile(r"-?\d+\.\d+(e-?\d+)?")


def optional_sections(files: ComparisonFiles, *, texts: bool) -> list[Section]:
    """Tables of what other commands put beside the comparison."""
    sections = []
    for file, content in files.optional.items():
        name, title = _OPTIONAL[file]
        caption = content.get("caption") if isinstance(content, Mapping) else None
        rows = [row for row in _records(content) if row]
        columns = [key for key in dict.fromkeys(key for row in rows for key in row) if texts or key not in _TEXTS]
        body = [[_value(row.get(column)) for column in columns] for row in rows[:_MAX_ROWS]]
        left_out = f" The first {_MAX_ROWS} of {len(rows)} rows." if len(rows) > _MAX_ROWS else ""
        block: Block = (
            Table(caption=f"{caption or title}, from {file}.{left_out}", head=columns, rows=body)
            if columns
            else Text(text=f"{file} holds nothing.")
        )
        sections.append(Section(name=name, title=title, blocks=[block]))
    return sections


def record_section(files: ComparisonFiles) -> Section:
    """How it was made, and what is missing and why."""
    blocks: list[Block] = []
    command = files.summary.get("command")
    if command:
        blocks.append(Text(heading="Command", text=command, code=True))
    blocks += [_provenance(files), _data_sets(files)]
    blocks += [_made(files)] if files.summary.get("made") else []
    blocks += _checkpoints(files)
    notes = [
        f"{record['data_set']}: {note}"
        for record in [*files.summary["data_sets"], *files.summary["surveys"]]
        for note in record["notes"]
    ]
    notes += [f"{entry['data_set']} was not judged: {entry['reason']}" for entry in files.summary.get("skipped", [])]
    if notes:
        blocks += [Text(heading="Notes", text=""), Points(points=notes)]
    missing = files.summary.get("missing", [])
    blocks.append(Text(heading="What is missing, and why", text="" if missing else "Nothing is missing."))
    if missing:
        rows = [[entry["method"], entry["data_set"], entry["missing"]] for entry in missing]
        caption = "Missing runs. A mean over a missing cell is missing too."
        blocks.append(
            Table(caption=caption, head=["method", "data set", "missing"], rows=rows, words=frozenset({1, 2}))
        )
    return Section(name="record", title="How this was made", blocks=blocks)


def _provenance(files: ComparisonFiles) -> Table:
    summary = files.summary
    known = {
        "protocol version": summary.get("protocol"),
        "data hash (SHA-256)": summary.get("data_hash"),
        "hash of the method list": summary.get("method_list"),
        "judged splits": ", ".join(map(str, summary.get("splits", []))),
        f"{files.event_words}s per data set, at most": summary.get("limit"),
        "bootstrap seed": summary.get("seed"),
        "bootstrap samples": summary.get("n_bootstrap"),
        "versions of the evaluation": _pairs(summary.get("versions", {})),
    }
    rows = [[name, str(value)] for name, value in known.items() if value not in (None, "")]
    return Table(caption="Data, protocol and versions.", head=["what", "value"], rows=rows, words=frozenset({1}))


def _data_sets(files: ComparisonFiles) -> Table:
    special = files.summary.get("data_set_options", {})
    rows = [
        [
            Cell(text=label, detail=", ".join(record["categories"])),
            record["windows"],
            f"{record['n_events']:,}",
            f"{record['n_too_short']:,}",
            f"{record['n_train']:,}",
            f"{record['n_validation']:,}",
            record["reference"],
            _pairs(special.get(record["data_set"], {})) or NONE,
        ]
        for label, record in files.records.items()
    ]
    head = ["data set", "windows", "judged", "too short", "train", "validation", "reference", "options"]
    return Table(
        caption="Data sets: warm-up/window, events and reference.", head=head, rows=rows, words=frozenset({7})
    )


def _made(files: ComparisonFiles) -> Table:
    rows = []
    for name in files.names:
        made = files.made(name)
        seeds = made.get("training_seeds")
        versions = "; ".join(_pairs(one) for one in made.get("made_with", []))
        rows.append(
            [
                name,
                made.get("kind", NONE),
                made.get("base") or ", ".join(files.backbones(name)) or NONE,
                ", ".join(map(str, seeds)) if seeds else NONE,
                str(made.get("rollouts_per_seed", NONE)),
                _pairs(made.get("options", {})) or NONE,
                _pairs(made.get("trained_with", {})) or NONE,
                ", ".join(made.get("roles", [])) or NONE,
                versions or NONE,
            ]
        )
    head = ["method", "kind", "backbone", "training seeds", "rollouts per seed", "options", "but trained with"]
    head += ["adapters of", "made with"]
    return Table(
        caption="Methods: options, and the versions, devices and weights of their rollouts.",
        head=head,
        rows=rows,
        words=frozenset({1, 2, 5, 6, 7, 8}),
        folded=True,
    )


def _checkpoints(files: ComparisonFiles) -> list[Block]:
    """Every file once per checkpoint; methods that share a checkpoint stand together."""
    owners: dict[str, list[str]] = {}
    for name in files.names:
        for seed, hashes in files.made(name).get("checkpoints", {}).items():
            if hashes:
                owners.setdefault(json.dumps(hashes, sort_keys=True), []).append(f"{name} (seed {seed})")
    rows = [
        [Cell(text=", ".join(names)), file, digest]
        for hashes, names in owners.items()
        for file, digest in json.loads(hashes).items()
    ]
    if not rows:
        return []
    caption = "Files of the checkpoints, with the first 16 digits of their SHA-256."
    head = ["checkpoint of", "file", "SHA-256"]
    return [Table(caption=caption, head=head, rows=rows, words=frozenset({1, 2}), folded=True)]


def _pairs(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in record.items() if value is not None)


def _records(content: Any) -> list[dict[str, Any]]:
    """Rows out of a list of objects, an object with `rows`, an object of objects, or a single object."""
    if isinstance(content, Mapping) and isinstance(content.get("rows"), list):
        content = content["rows"]
    if isinstance(content, Mapping):
        inner = [value for value in content.values() if isinstance(value, Mapping) and "value" not in value]
        if not content or len(inner) < len(content):
            return [dict(content)]
        return [{"name": key, **value} for key, value in content.items()]
    return [row if isinstance(row, dict) else {"value": row} for row in content] if isinstance(content, list) else []


def _value(value: Any) -> str:
    """A value as a cell: numbers rounded, scores with their intervals, everything else as shortened text."""
    if isinstance(value, Mapping) and isinstance(value.get("value"), (int, float)):
        return with_bounds(value)
    if value is None or value == "":
        return NONE
    if isinstance(value, str):
        return number(float(value)) if _DECIMAL.fullmatch(value) else shortened(value, _MAX_TEXT)
    if isinstance(value, float):
        return number(value)
    return shortened(json.dumps(value, ensure_ascii=False), _MAX_TEXT)
