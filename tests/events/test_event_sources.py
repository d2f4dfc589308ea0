"""Every source gives the same events: formats, folders, names, streaming, splits."""

from __future__ import annotations

import gc
import weakref

import pyarrow.parquet
import pytest
from event_records import EVENTS, RECORDS, hashes, write_gzip, write_jsonl, write_parquet

from mf_llm import iter_events, load_events
from mf_llm.errors import EventError, InputError
from mf_llm.events import load_event_sets
from mf_llm.events import loading as loading_module


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", write_jsonl), ("a.jsonl.gz", write_gzip), ("a.parquet", write_parquet)],
)
def test_every_format_gives_the_same_events(tmp_path, name, write):
    path = write(tmp_path / name)
    for source in (path, str(path)):
        events = load_events(source)
        assert events == EVENTS
        assert hashes(events) == hashes(EVENTS)
    first = events[0]
    assert first.extra == {"likes": {"a": [1, 2], "b": "x"}}
    assert first.turns[0].extra == {"shares": 7}
    assert first.turns[0].state == {"age": 40, "job": "nurse", "member": True}
    assert first.turns[1].state == {"job": "baker"}
    assert [event.to_dict() for event in events] == RECORDS


def test_to_dict_written_and_read_again_is_the_same(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [event.to_dict() for event in EVENTS])
    assert load_events(path) == EVENTS
    assert load_events(write_parquet(tmp_path / "a.parquet", [event.to_dict() for event in EVENTS])) == EVENTS


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert load_events(path) == EVENTS


def test_split_and_limit(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl")
    assert [event.event_id for event in load_events(path, split="test")] == ["bridge-2", "bridge-3"]
    assert load_events(path, limit=2) == EVENTS[:2]
    assert load_events(path, split="test", limit=1) == [EVENTS[2]]
    assert load_events(path, limit=100) == EVENTS
    assert load_events(write_jsonl(tmp_path / "b.jsonl", RECORDS[:1]), split="test") == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split": "dev"}, '`split` must be "train", "validation", "test" or None'),
        ({"split": 3}, "`split` must be"),
        ({"limit": 0}, "`limit` must be a whole number of at least 1"),
        ({"limit": True}, "`limit` must be"),
        ({"limit": 2.0}, "`limit` must be"),
        ({"columns": ["a"]}, "`columns` must map"),
        ({"columns": {"topic": "title"}}, "`columns` must be left out for events with nested turns"),
    ],
)
def test_wrong_arguments_are_explained(tmp_path, options, says):
    path = write_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(InputError) as caught:
        load_events(path, **options)
    assert says in str(caught.value)


@pytest.mark.parametrize("source", [None, 3, b"a.jsonl", "", "  ", "a\0b", iter([])])
def test_what_is_no_source_is_explained(source):
    with pytest.raises(InputError, match="`source` must be a path"):
        load_events(source)


def test_a_name_nobody_knows_lists_the_packaged_ones():
    with pytest.raises(EventError) as caught:
        load_events("vaccine-intentions")
    assert "vaccine-intention" in str(caught.value)
    assert "vaccine-intentions: no such file or folder" in str(caught.value)
    with pytest.raises(EventError, match="cannot be looked up"):
        load_events("x" * 5000 + ".jsonl")


def test_a_folder_is_one_data_set_per_file(tmp_path):
    write_parquet(tmp_path / "second.parquet")
    write_gzip(tmp_path / "first.v1.jsonl.gz")
    (tmp_path / "README.md").write_text("no events")
    (tmp_path / ".hidden.jsonl").write_text("no events")
    sets = load_event_sets(tmp_path)
    assert list(sets) == ["first.v1", "second"]
    assert sets["first.v1"] == sets["second"] == EVENTS
    assert load_event_sets(tmp_path, split="train") == {"first.v1": EVENTS[:1], "second": EVENTS[:1]}
    assert load_events(tmp_path) == EVENTS + EVENTS
    assert list(load_event_sets(tmp_path / "second.parquet")) == ["second"]


def test_two_files_of_one_data_set_name_are_an_error(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    write_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(EventError, match=r"a\.parquet: must have another name than a\.jsonl"):
        load_event_sets(tmp_path)


def test_a_mistyped_path_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading_module, "load_hub_rows", lambda name: pytest.fail("asked the Hub"))
    (tmp_path / "data").mkdir()
    for source in ("data/missing", "data/missing.jsonl", "other/missing.parquet", "./a/b", "/a/b"):
        with pytest.raises(EventError, match="no such file or folder"):
            load_events(source)


def test_jsonl_is_read_line_by_line(tmp_path):
    """The error on line 3 is met only by who reads that far."""
    path = write_jsonl(tmp_path / "a.jsonl", RECORDS[:2])
    path.write_text(path.read_text() + "broken\n")
    events = iter_events(path)
    assert next(events) == EVENTS[0]
    assert load_events(path, limit=2) == EVENTS[:2]
    with pytest.raises(EventError, match="line 3"):
        list(events)


def test_parquet_is_decoded_one_event_at_a_time(tmp_path, monkeypatch):
    """However large the row groups, no more rows are decoded than events were asked for."""
    path = write_parquet(tmp_path / "a.parquet", row_group_size=100)
    decoded = []
    original = pyarrow.parquet.ParquetFile.iter_batches

    def counted(self, *args, **options):
        for batch in original(self, *args, **options):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", counted)
    events = iter_events(path)
    assert next(events) == EVENTS[0]
    assert decoded == [1]
    assert next(events) == EVENTS[1]
    assert decoded == [1, 1]


def test_only_one_event_is_alive_while_streaming(tmp_path):
    records = [dict(RECORDS[0], event_id=f"e{number}") for number in range(10)]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    alive: list[weakref.ref] = []
    most = 0
    for event in iter_events(path):
        alive.append(weakref.ref(event))
        del event
        gc.collect()
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 10
    assert most <= 1
