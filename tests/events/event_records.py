"""Events in every detail of the format, and how to write them to files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from mf_llm import Event
from mf_llm.events import event_from_record

RECORDS = [
    {
        "event_id": f"bridge-{number}",
        "topic": "Die Brücke wird gesperrt.\n“Wirklich?”",
        "domain": "local",
        "language": "de",
        "source": "a test",
        "split": split,
        "group": "bridge",
        "block": number,
        "story": "s",
        "veracity": "true",
        "likes": {"a": [1, 2], "b": "x"},
        "dimensions": {"stance": ["for", "against"], "mood": ["good", "bad"]},
        "turns": [
            {
                "time": 100 + number,
                "wave": "w1",
                "state": {"age": 40, "job": "nurse", "member": True},
                "action": "Nein, \"danke\".\nNie, 🎉",
                "labels": {"stance": "against", "mood": "bad"},
                "kind": "post",
                "person": "p1",
                "weight": 0.5,
                "shares": 7,
            },
            {
                "time": 100.5 + number,
                "wave": "w2",
                "state": {"job": "baker"},
                "action": "",
                "labels": {"stance": "for"},
                "parent": 0,
            },
        ],
    }
    for number, split in enumerate(["train", "validation", "test", "test"])
]  # fmt: skip
EVENTS = [event_from_record(record) for record in RECORDS]


def write_jsonl(path: Path, records=RECORDS) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def write_gzip(path: Path) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in RECORDS).encode()))
    return path


def write_parquet(path: Path, records=RECORDS, **options) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, **options)
    return path


def hashes(events: list[Event]) -> list[str]:
    return [event.content_hash() for event in events]
