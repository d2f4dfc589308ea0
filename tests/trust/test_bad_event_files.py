"""Event files with a wrong value in any field, or damaged anywhere: refused with their place, or read right."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json

import pytest
from hypothesis import strategies as st
from wrong_values import (
    FRACTIONS,
    LISTS,
    MAPPINGS,
    NOT_FINITE,
    NUMBERS,
    TEXTS,
    TRUTHS,
    check_refusal,
    damages,
    try_many,
)

from mf_llm.errors import EventError
from mf_llm.events import MAX_TEXT_CHARACTERS, load_events

pytestmark = pytest.mark.trust("inputs", "event files with a broken byte, key or value")

EVENT = {
    "event_id": "bridge",
    "topic": "The council wants to close the bridge.",
    "dimensions": {"stance": ["for", "against"], "mood": ["calm", "angry"]},
    "domain": "politics",
    "language": "en",
    "source": "a forum",
    "split": "test",
    "group": "bridges",
    "block": 2,
    "story": "closure",
    "veracity": "true",
    "likes": 3,
    "turns": [
        {"time": 10, "state": {"age": 40, "job": "nurse"}, "action": "No way.", "labels": {"stance": "against"}},
        {"time": 20, "state": {"age": 31}, "action": "Finally!", "labels": {"stance": "for"}, "weight": 2.5},
        {"time": 30, "state": "a nurse", "action": "Why?", "parent": 0, "kind": "reply", "person": "p3"},
        {"time": 40, "state": {}, "action": "", "labels": {"stance": "for", "mood": "calm"}, "wave": None},
    ],
}
NO_TEXT = NUMBERS | TRUTHS | LISTS | MAPPINGS
BAD_TEXT = st.sampled_from(["a\0b", "\ud800", "\udc00x", "x" * (MAX_TEXT_CHARACTERS + 1)])
BAD_NAME = st.sampled_from(["", " ", "a\nb", " a", "a ", "x" * 501, "\t", "a\u2028b", "a\x7f"]) | BAD_TEXT
NAME = NO_TEXT | BAD_NAME
BELOW = st.integers(max_value=-1) | FRACTIONS | NOT_FINITE
NO_LIST = NUMBERS | TRUTHS | TEXTS | MAPPINGS
NO_MAPPING = NUMBERS | TRUTHS | TEXTS | LISTS
TIME = (
    TRUTHS | LISTS | MAPPINGS | NOT_FINITE | st.sampled_from(["soon", "", "2024-13-01", "2024-02-30T25:00", 10**400])
)
LABEL = NO_TEXT | TEXTS.filter(lambda text: text not in ("for", "against"))
PARENT = TRUTHS | TEXTS | LISTS | MAPPINGS | FRACTIONS | NOT_FINITE | st.integers(max_value=-1)
CATEGORIES = NO_LIST | st.sampled_from([[], ["for"], ["for", "for"], ["for", ""], ["for", 1], ["for", None]])
# Path -> values that are certainly wrong there. What is wrong with `dimensions` may show at a label.
WRONG = {
    "event_id": NAME, "topic": NO_TEXT | BAD_TEXT | st.sampled_from(["", " \n"]), "domain": NAME, "language": NAME,
    "source": NAME, "group": NAME, "story": NAME, "veracity": NAME, "split": NO_TEXT | TEXTS,
    "block": TRUTHS | TEXTS | LISTS | MAPPINGS | BELOW, "likes": NOT_FINITE | BAD_TEXT,
    "turns": NO_LIST | st.just([]), "dimensions": NO_MAPPING, "dimensions.mood": CATEGORIES,
    "turns.0": NO_MAPPING, "turns.2": NO_MAPPING, "turns.0.action": NO_TEXT | BAD_TEXT,
    "turns.1.state": NUMBERS | TRUTHS | LISTS | BAD_TEXT,
    "turns.0.state.age": LISTS | MAPPINGS | NOT_FINITE | BAD_TEXT,
    "turns.0.labels": NO_MAPPING, "turns.1.labels.stance": LABEL, "turns.0.labels.colour": NAME | TEXTS,
    "turns.0.time": TIME, "turns.3.time": TIME | st.integers(max_value=29), "turns.2.parent": PARENT | st.integers(2),
    "turns.0.parent": PARENT | st.integers(0), "turns.2.kind": NAME, "turns.1.person": NAME, "turns.1.wave": NAME,
    "turns.1.weight": TRUTHS | TEXTS | LISTS | MAPPINGS | NOT_FINITE | st.floats(-1e9, -1e-9),
    "turns.3.score": NOT_FINITE | BAD_TEXT,
}  # fmt: skip


def changed(path: str, value: object) -> dict:
    """The event with another value at a path."""
    found = copy.deepcopy(EVENT) | {"event_id": "other"}
    target, (*parents, last) = found, path.split(".")
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    target[int(last) if last.isdigit() else last] = value
    return found


def field_of(path: str) -> str:
    first, *rest = path.split(".")
    return first + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)


def test_wrong_values_in_lines(tries, tmp_path):
    path = tmp_path / "events.jsonl"
    good = json.dumps(EVENT) + "\n"

    def attempt(drawn):
        place, value = drawn
        path.write_text(good + "\n" + json.dumps(changed(place, value)) + "\n", encoding="utf-8")
        with pytest.raises(EventError) as caught:
            load_events(path)
        assert caught.value.file == path and caught.value.line == 3 and caught.value.field
        exact = not place.startswith("dimensions")
        check_refusal(caught.value, str(path), "line 3", *([field_of(place)] if exact else []))

    wrong = st.sampled_from(sorted(WRONG)).flatmap(lambda place: st.tuples(st.just(place), WRONG[place]))
    try_many(tries, 120, 2200, wrong, attempt)


def test_missing_and_misplaced_keys(tries, tmp_path):
    path = tmp_path / "events.jsonl"
    for name in ("event_id", "topic", "turns"):
        for instead in ({}, {name: None}, {name.upper(): EVENT[name]}):
            tries.add()
            path.write_text(json.dumps({k: v for k, v in EVENT.items() if k != name} | instead))
            with pytest.raises(EventError) as caught:
                load_events(path)
            check_refusal(caught.value, str(path), "line 1", f"field `{name}`", "is required")
    # A list of events, as .json files have them, is no line of a .jsonl file.
    for text in (json.dumps([EVENT]), json.dumps({"events": [EVENT]}), json.dumps(EVENT, indent=1)):
        tries.add()
        path.write_text(text)
        with pytest.raises(EventError) as caught:
            load_events(path)
        check_refusal(caught.value, str(path), "line 1")


CELLS = {
    "event_id": st.sampled_from(["", " ", "x" * 501]),
    "topic": st.just("Another topic."),
    "block": st.sampled_from(["-1", "x", "1.5", "nan", "--"]),
    "split": TEXTS.filter(lambda text: text.strip() not in ("", "test") and text.isprintable()),
    "time": st.sampled_from(["soon", "nan", "inf", "-inf", "1e999", "2024-13-01", "9"]),
    "parent": st.sampled_from(["5", "-1", "x", "0.5", "2"]),
    "weight": st.sampled_from(["-1", "nan", "inf", "much", "1,5"]),
    "labels.stance": st.sampled_from(["maybe", "FOR", "x" * 501]),
    "kind": st.sampled_from(["a\nb", "x" * 501]),
}


def rows_of_cells() -> list[dict[str, str]]:
    common = {
        "event_id": "bridge",
        "topic": "Bridge",
        "block": "1",
        "split": "test",
        "dimensions.stance": "for|against",
    }
    return [
        common | {"time": str(10 + i), "parent": "0" if i else "", "weight": "1", "labels.stance": label}
        | {"kind": "post", "action": f"Text {i}, with a comma"}
        for i, label in enumerate(("for", "against", "for"))
    ]  # fmt: skip


def csv_text(rows: list[dict[str, str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")


def test_wrong_cells(tries, tmp_path):
    path = tmp_path / "events.csv"
    path.write_bytes(csv_text(rows_of_cells()))
    assert len(load_events(path)[0].turns) == 3

    def attempt(drawn):
        column, cell = drawn
        rows = rows_of_cells()
        rows[2][column] = cell
        path.write_bytes(csv_text(rows))
        with pytest.raises(EventError) as caught:
            load_events(path)
        assert caught.value.file == path and caught.value.line is not None
        check_refusal(caught.value, str(path), column.split(".")[0])

    wrong = st.sampled_from(sorted(CELLS)).flatmap(lambda column: st.tuples(st.just(column), CELLS[column]))
    try_many(tries, 40, 500, wrong, attempt)


def parquet_bytes(rows: list[dict]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def test_wrong_columns_of_parquet(tries, tmp_path):
    path = tmp_path / "events.parquet"
    texts = {"event_id": "bridge", "topic": "Bridge", "action": "No!", "labels.stance": "for", "time": 1.0}
    texts |= {"dimensions.stance": "for|against", "weight": 1.0, "kind": "post"}
    wrong = {
        "event_id": ["", " ", b"\xff"], "topic": [1, False, b"\xff"], "action": [3, 2.5, b"\xff\xfe"],
        "labels.stance": ["maybe", 3, True], "time": [float("nan"), float("inf"), True, "soon"],
        "weight": [-1.0, float("inf"), "much", True], "kind": ["a\nb", b"\xff"],
        "dimensions.stance": ["for", "for|for"],
    }  # fmt: skip
    for column, values in wrong.items():
        for value in values:
            tries.add()
            path.write_bytes(parquet_bytes([texts | {column: value}]))
            with pytest.raises(EventError) as caught:
                load_events(path)
            check_refusal(caught.value, str(path))


DAMAGED = ("jsonl", "jsonl.gz", "csv", "csv.gz", "nested.parquet", "flat.parquet")


def whole_file(kind: str) -> bytes:
    lines = "".join(json.dumps(EVENT | {"event_id": f"bridge {i}"}) + "\n" for i in range(3)).encode()
    rows = rows_of_cells()
    nested = [
        EVENT | {"event_id": f"b{i}", "turns": [one | {"state": {"age": 3}} for one in EVENT["turns"]]} for i in "ab"
    ]
    made = {"jsonl": lines, "jsonl.gz": gzip.compress(lines, mtime=0)}
    made |= {"csv": csv_text(rows), "csv.gz": gzip.compress(csv_text(rows), mtime=0)}
    made |= {"flat.parquet": parquet_bytes(rows), "nested.parquet": parquet_bytes(nested)}
    return made[kind]


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(tries, tmp_path, kind):
    path, content = tmp_path / f"events.{kind}", whole_file(kind)
    path.write_bytes(content)
    whole = load_events(path)

    def attempt(damage):
        path.write_bytes(damage(content))
        try:
            found = load_events(path)
        except EventError as error:
            assert str(error).startswith(str(path))
            check_refusal(error)
            return
        # What was read is valid (an `Event` checks itself); a checksum, where there is one, proves that it is right.
        if kind.endswith(".gz"):
            assert found == whole

    try_many(tries, 40, 450, damages(), attempt)
