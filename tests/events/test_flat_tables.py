"""One row per turn: CSV, flat Parquet, and the `columns` that name what is where."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mf_llm import iter_events, load_events
from mf_llm.errors import EventError, InputError

OURS = """event_id,topic,split,block,time,state.age,state.job,action,labels.v,dimensions.v,parent,weight,kind,note
a,The bridge,test,1,10,40,nurse,"No, ""never"".
Not me",against,against|for|unsure,,2,post,n1
a,,,,2024-01-01T00:00:00,,baker,Yes,for,,0.0,,,
b,The road,train,,,,,Hm,,against|for|unsure,,,,
"""
THEIRS = """thread,comment,when,Age,view,likes
t1,First!,5,33,pro,4
t1,Second,6,,con,
t2,Third,1,60,,9
"""
COLUMNS = {
    "event_id": "thread",
    "topic": {"value": "What do you think?"},
    "action": "comment",
    "time": "when",
    "state.age": "Age",
    "labels.stance": "view",
}


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


def test_columns_with_our_names_need_no_mapping(tmp_path):
    first, second = load_events(write(tmp_path / "a.csv", OURS))
    assert (first.event_id, first.topic, first.split, first.block) == ("a", "The bridge", "test", 1)
    assert first.dimensions == {"v": ("against", "for", "unsure")}
    assert first.turns[0].action == 'No, "never".\nNot me'
    assert first.turns[0].state == {"age": "40", "job": "nurse"}
    assert (first.turns[0].time, first.turns[0].weight, first.turns[0].kind) == (10.0, 2.0, "post")
    assert first.turns[0].extra == {"note": "n1"}
    assert first.turns[1].state == {"job": "baker"}
    assert (first.turns[1].time, first.turns[1].parent) == (1704067200.0, 0)
    assert first.turns[1].labels == {"v": "for"}
    assert first.turns[1].extra == {}
    assert second.turns[0].labels == {}
    assert second.dimensions == first.dimensions


def test_columns_map_our_names_to_theirs(tmp_path):
    events = load_events(write(tmp_path / "a.csv", THEIRS), columns=COLUMNS)
    assert [event.event_id for event in events] == ["t1", "t2"]
    assert events[0].topic == "What do you think?"
    # Sorted labels of the whole file, also in the event in which they do not occur.
    assert [event.dimensions for event in events] == [{"stance": ("con", "pro")}] * 2
    assert [turn.state for turn in events[0].turns] == [{"age": "33"}, {}]
    assert [turn.extra for turn in events[0].turns] == [{"likes": "4"}, {}]


def test_categories_can_be_given_in_order(tmp_path):
    path = write(tmp_path / "a.csv", THEIRS)
    [event, _] = load_events(path, columns=COLUMNS | {"dimensions.stance": ["pro", "neither", "con"]})
    assert event.dimensions == {"stance": ("pro", "neither", "con")}
    with pytest.raises(EventError, match=r"line 3, field `turns\[1\].labels.stance`: must be one of .* got 'con'"):
        load_events(path, columns=COLUMNS | {"dimensions.stance": ["pro", "neither"]})


def test_a_column_can_be_set_aside(tmp_path):
    path = write(tmp_path / "a.csv", "event_id,topic,action,kind,body\na,b,click,x,Hello\n")
    [event] = load_events(path, columns={"action": "body", "kind": None})
    assert event.turns[0].action == "Hello"
    assert event.turns[0].kind is None
    assert event.turns[0].extra == {"source.action": "click", "source.kind": "x"}


def test_the_state_can_be_one_text(tmp_path):
    path = write(tmp_path / "a.csv", "event_id,topic,action,bio\na,b,c,a nurse of 40\na,b,c,\n")
    [event] = load_events(path, columns={"state": "bio"})
    assert [turn.state for turn in event.turns] == ["a nurse of 40", {}]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"stance": "view"}, "`columns` must use names of the event format"),
        ({"state.": "view"}, "`columns` must use names of the event format"),
        ({5: "view"}, "got 5"),
        ({"action": ["a", "b"]}, "`columns['action']` must be a column name"),
        ({"action": {"value": "x"}}, "`columns['action']` must be a column name"),
        ({"topic": {"values": "x"}}, "`columns['topic']` must be a column name"),
        ({"topic": ""}, "`columns['topic']` must be"),
        ({"dimensions.stance": 3}, "a list of categories, got 3"),
        ("topic=title", "`columns` must map"),
    ],
)
def test_columns_that_mean_nothing_are_explained(tmp_path, columns, says):
    with pytest.raises(InputError) as caught:
        iter_events(tmp_path / "not even looked at.csv", columns=columns)
    assert says in str(caught.value)


def test_a_mapped_column_that_is_missing_lists_the_others(tmp_path):
    path = write(tmp_path / "a.csv", THEIRS)
    with pytest.raises(EventError, match="'vue' given by `columns` is missing; the file has thread, comment, when"):
        load_events(path, columns=COLUMNS | {"labels.stance": "vue"})
    with pytest.raises(EventError, match="at least 2 categories, got 1"):
        load_events(path, columns=COLUMNS | {"dimensions.stance": ["pro"]})


def test_gzipped_csv_with_byte_order_mark_and_blank_rows(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + (OURS + "\n,,,,,,,,,,,,,\n").replace("\n", "\r\n").encode()))
    events = load_events(path)
    assert [len(event.turns) for event in events] == [2, 1]


def test_csv_is_read_row_by_row(tmp_path):
    """With given categories the file is read once, and no further than asked."""
    path = write(tmp_path / "a.csv", THEIRS + "t3,Fourth,x,1,pro,9\n")
    columns = COLUMNS | {"dimensions.stance": ["pro", "con"]}
    events = iter_events(path, columns=columns)
    assert next(events).event_id == "t1"
    assert next(events).event_id == "t2"
    with pytest.raises(EventError, match="line 5"):
        next(events)


def test_long_texts_pass_the_limit_of_the_csv_module(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["event_id", "topic", "action"], ["a", "b", "x" * 500_000]])
    assert len(load_events(path)[0].turns[0].action) == 500_000


def test_flat_parquet_equals_csv_and_keeps_types(tmp_path):
    table = pyarrow.table(
        {
            "event_id": [1, 1, 2],
            "topic": ["b"] * 3,
            "time": pyarrow.array([1_000_000, 2_000_000, None], pyarrow.timestamp("us")),
            "action": ["x", "y", "z"],
            "state": [{"age": 40, "job": None}, {"age": None, "job": "baker"}, None],
            "labels.mood": pyarrow.array(["good", "bad", None]).dictionary_encode(),
            "labels.vote": [True, False, None],
            "parent": [None, 0.0, None],
            "weight": [2, 1, 1],
            "likes": [1, None, 3],
        }
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    first, second = load_events(path)
    assert [first.event_id, second.event_id] == ["1", "2"]
    assert first.dimensions == {"mood": ("bad", "good"), "vote": ("False", "True")}
    assert [turn.time for turn in first.turns] == [1.0, 2.0]
    assert [turn.state for turn in first.turns] == [{"age": 40}, {"job": "baker"}]
    assert [turn.labels for turn in first.turns] == [
        {"mood": "good", "vote": "True"},
        {"mood": "bad", "vote": "False"},
    ]
    assert (first.turns[1].parent, first.turns[0].weight) == (0, 2.0)
    assert [turn.extra for turn in first.turns] == [{"likes": 1}, {}]
    assert second.turns[0].state == {}


def test_arrow_maps_are_mappings(tmp_path):
    map_type = pyarrow.map_(pyarrow.string(), pyarrow.string())
    table = pyarrow.table(
        {
            "event_id": ["a"],
            "topic": ["b"],
            "dimensions": pyarrow.array(
                [[("s", ["x", "y"])]], pyarrow.map_(pyarrow.string(), pyarrow.list_(pyarrow.string()))
            ),
            "turns": pyarrow.array(
                [[{"state": [("job", "nurse")], "labels": [("s", "x")]}]],
                pyarrow.list_(pyarrow.struct({"state": map_type, "labels": map_type})),
            ),
        }
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    [event] = load_events(path)
    assert event.turns[0].state == {"job": "nurse"}
    assert event.turns[0].labels == {"s": "x"}
    assert event.dimensions == {"s": ("x", "y")}
