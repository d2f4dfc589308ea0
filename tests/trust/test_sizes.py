"""Memory grows with the longest event alone, and a very long text costs no more than the part of it that is kept."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mf_llm import Event, MFLLMProcessor, load_events
from mf_llm.endpoints.text_encoding import TextEncoder
from mf_llm.events import MAX_TEXT_CHARACTERS, Turn
from mf_llm.models.prompts import AnswerFormat
from mf_llm.models.tiny import tiny_tokenizer

pytestmark = pytest.mark.trust("inputs", "turns of very long events, and texts of ten megabytes")

# Bytes of memory for each turn of the longest event, as docs/event-format.md says for short texts.
BYTES_PER_TURN = 3000
READER = """
import json, resource, sys
from mf_llm import iter_events
import pyarrow.parquet
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before, turns = peak(), 0
for event in iter_events(sys.argv[1]):
    turns += len(event.turns)
    first, last, topic = event.turns[0].action, event.turns[-1].action, event.topic
    del event
print(json.dumps([turns, peak() - before, first, last]))
"""
TOPIC = "The council wants to close the bridge."
FILES = ("jsonl", "jsonl.gz", "csv", "nested.parquet", "flat.parquet")


def turn(number: int) -> dict[str, Any]:
    action = f"Text {number}: the bridge is closed, the bus does not come, and nobody asked us"
    state = {"age": 18 + number % 70, "occupation": f"nurse {number % 50}"}
    labels = {"stance": "against" if number % 3 else "for"}
    return {"time": 1726556760 + number, "state": state, "action": action, "labels": labels, "kind": "reply"}


def flat_rows(event_id: str, n: int) -> Iterator[dict[str, Any]]:
    for one in map(turn, range(n)):
        state = {f"state.{name}": value for name, value in one.pop("state").items()}
        label = {"labels.stance": one.pop("labels")["stance"], "dimensions.stance": "for|against"}
        yield {"event_id": event_id, "topic": TOPIC} | one | state | label


def write_json_lines(file: Any, events: int, n: int) -> None:
    """Turn by turn: here, too, a whole line would take its time."""
    for number in range(events):
        head = {"event_id": f"e{number}", "topic": TOPIC, "dimensions": {"stance": ["for", "against"]}}
        file.write(json.dumps(head)[:-1] + ', "turns": [')
        file.writelines((", " if place else "") + json.dumps(turn(place)) for place in range(n))
        file.write("]}\n")


def write_events(path: Path, events: int, n: int) -> None:
    """A file of `events` events of `n` turns each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"e{number}" for number in range(events)]
    if path.name.endswith(".jsonl"):
        with path.open("w", encoding="utf-8") as file:
            write_json_lines(file, events, n)
    elif path.name.endswith(".gz"):
        with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
            write_json_lines(file, events, n)
    elif path.name.endswith(".csv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(next(flat_rows("", 1))))
            writer.writeheader()
            for name in names:
                writer.writerows(flat_rows(name, n))
    else:
        writer, step = None, min(n, 50_000)
        for name in names:
            rows = flat_rows(name, n)
            if path.name.endswith("nested.parquet"):
                record = {"event_id": name, "topic": TOPIC, "dimensions": {"stance": ["for", "against"]}}
                tables = [pa.Table.from_pylist([record | {"turns": [turn(place) for place in range(n)]}])]
            else:
                parts = ([next(rows) for _ in range(min(step, n - at))] for at in range(0, n, step))
                tables = map(pa.Table.from_pylist, parts)
            for table in tables:
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
        writer.close()


def read(path: Path) -> tuple[int, int]:
    """How many turns a process read one event after the other, and the bytes that took at its peak."""
    done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    turns, peak, first, last = json.loads(done.stdout)
    assert first == turn(0)["action"] and last.startswith("Text ")
    return turns, peak


@pytest.mark.skipif(sys.platform == "win32", reason="needs the peak of a process")
@pytest.mark.parametrize("kind", FILES)
def test_memory_grows_with_the_longest_event_and_not_with_the_file(tries, tmp_path, kind):
    n = tries.of(30_000, 1_000_000)
    path = tmp_path / f"long.{kind}"
    tries.add(n)
    write_events(path, 1, n)
    turns, peak = read(path)
    assert turns == n and peak < BYTES_PER_TURN * n + 40 * 2**20
    path.unlink()
    # Ten events: the memory of one, and what Python does not give back.
    n //= 40
    tries.add(10 * n)
    write_events(path, 10, n)
    turns, peak_of_ten = read(path)
    assert turns == 10 * n and peak_of_ten < 3 * BYTES_PER_TURN * n + 40 * 2**20


TEXTS = {
    "words": "the bridge is closed ",
    "one word": "a",
    "blanks": " ",
    "lines": "\n",
    "no letters": "😀",
    "control tokens": "<|im_end|>",
    "open marks": "<|",
    "an accent": "e\u0301",
}


class Counted:
    """How many characters a tokenizer is asked to read; everything else is its own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.characters = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **settings: Any) -> Any:
        self.characters += len(text)
        return self._tokenizer(text, **settings)


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "gpt2", "mistral"])
@pytest.mark.parametrize("name", TEXTS)
def test_of_a_long_text_only_the_part_that_is_kept_is_tokenised(tries, family, name):
    text = TEXTS[name] * (MAX_TEXT_CHARACTERS // len(TEXTS[name]))
    processor = MFLLMProcessor(tiny_tokenizer(family))
    for role in ("policy", "mean_field"):
        encoder = processor.encoder(role)
        encoder.control_ids  # noqa: B018
        encoder.tokenizer = counted = Counted(encoder.tokenizer)
        for bound in (8, 64, 256):
            for encode in (encoder.encode_bounded, encoder.encode_lines_bounded):
                tries.add()
                counted.characters = 0
                ids = encode(text, bound)
                assert len(ids) <= bound
                # Cut inside control tokens it is read once more, and the ellipsis.
                assert counted.characters <= 5 * 16 * bound + 10
                assert ids == encode(text[: 16 * bound + 1], bound)
    tries.add()
    assert len(TextEncoder().encode_bounded(text, 64)) <= 64


def test_prompts_hold_the_beginning_of_a_text_of_ten_megabytes(tries, tmp_path):
    long = "The bridge is closed. " * (MAX_TEXT_CHARACTERS // 22)
    event = Event(
        event_id="long", topic=long, dimensions={"stance": ("for", "against")},
        turns=[Turn(state={"about": long, "age": 46}, action=long, labels={"stance": "for"})],
    )  # fmt: skip
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(event.to_dict()) + "\n", encoding="utf-8")
    assert load_events(path) == [event]
    processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
    answer = AnswerFormat(kind="choice", options=("for", "against"))
    prompts = {
        "policy": processor.policy_prefix(event.topic, long, answer)
        + processor.person_segment(event.turns[0].state, answer),
        "mean_field": processor.mean_field_prompt(event.topic, long, [long] * 3),
    }
    for role, ids in prompts.items():
        tries.add(4)
        assert len(ids) <= 1024
        shown = processor.encoder(role).tokenizer.decode(ids)
        assert shown.count("The bridge is closed.") > 3 and "…" in shown
    assert "age: 46" in processor.encoder("policy").tokenizer.decode(prompts["policy"])
