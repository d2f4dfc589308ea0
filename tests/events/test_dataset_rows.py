"""`datasets` objects, lists of dicts and Hub ids as sources."""

from __future__ import annotations

import datasets
import pytest
from event_records import EVENTS, RECORDS, hashes, write_jsonl, write_parquet

from mf_llm import load_events
from mf_llm.errors import EventError
from mf_llm.events import load_event_sets

FLAT = {
    "event_id": ["a", "a", "b"],
    "topic": ["t", "t", "t"],
    "action": ["x", "y", "z"],
    "labels.mood": [1, 0, 1],
    "state.age": [30, None, 50],
}


def test_a_dataset_of_events():
    dataset = datasets.Dataset.from_list(RECORDS)
    assert load_events(dataset) == EVENTS
    assert hashes(load_events(dataset, split="test")) == hashes(EVENTS[2:])
    assert load_event_sets(dataset) == {"events": EVENTS}
    assert load_events(dataset.with_format("numpy")) == EVENTS
    assert load_events(dataset.to_iterable_dataset()) == EVENTS


def test_a_list_of_dicts():
    assert load_events(RECORDS) == EVENTS
    with pytest.raises(EventError, match="the data set, line 2: an event must be a JSON object, got 5"):
        load_events([RECORDS[0], 5])
    with pytest.raises(EventError, match="at least one event"):
        load_events([])


def test_a_dataset_dict_names_the_splits():
    without_split = [{k: v for k, v in record.items() if k != "split"} for record in RECORDS]
    source = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_list(without_split[:1]),
            "validation": datasets.Dataset.from_list(without_split[1:2]),
            "test": datasets.Dataset.from_list(without_split[2:3]),
            "leftover": datasets.Dataset.from_list(without_split[3:]),
        }
    )
    events = load_events(source)
    assert [event.split for event in events] == ["train", "validation", "test", None]
    assert events[:3] == EVENTS[:3]
    assert load_events(source, split="validation") == EVENTS[1:2]


def test_an_event_id_may_not_stand_in_two_splits():
    dataset = datasets.Dataset.from_list(RECORDS[:1])
    with pytest.raises(EventError, match="must be unique"):
        load_events(datasets.DatasetDict({"train": dataset, "test": dataset}))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_dataset_of_turns_with_class_labels(streamed):
    features = datasets.Features(
        {
            "event_id": datasets.Value("string"),
            "topic": datasets.Value("string"),
            "action": datasets.Value("string"),
            "labels.mood": datasets.ClassLabel(names=["zealous", "angry"]),
            "state.age": datasets.Value("int64"),
        }
    )
    dataset = datasets.Dataset.from_dict(FLAT, features=features)
    first, second = load_events(dataset.to_iterable_dataset() if streamed else dataset)
    assert first.dimensions == second.dimensions == {"mood": ("zealous", "angry")}
    assert [turn.labels["mood"] for turn in first.turns] == ["angry", "zealous"]
    assert [turn.state for turn in first.turns] == [{"age": 30}, {}]


def test_a_dataset_of_turns_with_columns():
    dataset = datasets.Dataset.from_dict(FLAT).rename_columns({"action": "text", "labels.mood": "mood"})
    columns = {"action": "text", "labels.mood": "mood", "dimensions.mood": ["1", "0"]}
    first, _ = load_events(dataset, columns=columns)
    assert first.dimensions == {"mood": ("1", "0")}
    assert first.turns[0].labels == {"mood": "1"}
    rows = [dict(row) for row in dataset]
    assert load_events(rows, columns=columns) == load_events(dataset, columns=columns)


def test_turns_stored_as_a_dict_of_lists():
    turns = RECORDS[0]["turns"]
    names = list(dict.fromkeys(name for turn in turns for name in turn))
    stored = dict(RECORDS[0], turns={name: [turn.get(name) for turn in turns] for name in names})
    assert load_events([stored]) == EVENTS[:1]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_hub_data_set(tmp_path, monkeypatch, ending):
    """`datasets.load_dataset` reads a local copy here; everything around it is as for the Hub."""
    for split, records in (("train", RECORDS[:1]), ("validation", RECORDS[1:2]), ("test", RECORDS[2:])):
        (write_jsonl if ending == "jsonl" else write_parquet)(tmp_path / f"{split}.{ending}", records)
    original, asked = datasets.load_dataset, []

    def load_copy(name: str):
        asked.append(name)
        return original(str(tmp_path), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_copy)
    assert load_events("somebody/some-events") == EVENTS
    assert load_event_sets("somebody/some-events", split="test") == {"somebody/some-events": EVENTS[2:]}
    assert asked == ["somebody/some-events"] * 2


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist\non the Hub"),
        ConnectionError("Couldn't reach 'a/b' on the Hub"),
        datasets.exceptions.DatasetGenerationError("An error occurred"),
    ],
)
def test_a_hub_data_set_that_cannot_be_had_is_explained(monkeypatch, error):
    def fail(name: str):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(EventError) as caught:
        load_events("a/b")
    assert "a/b: must be a file, a folder, packaged events or a Hub data set" in str(caught.value)
    assert str(error).split("\n")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
