"""Settings are chosen on what is neither learned nor the test."""

import json
from dataclasses import replace

import pytest
from made_benchmark import STANCES
from made_events import make_event, make_survey

from mf_llm import InputError
from mf_llm.benchmark.validation_sets import check_not_seen, validation_set, validation_sets
from mf_llm.commands.compare_methods import CompareRequest, run_compare
from mf_llm.commands.write_report import run_report
from mf_llm.evaluation.provenance import data_hash

THREADS = [make_event("abcb" * 6, name, name) for name in ("train", "validation", "test")]


def survey(event_id, split, waves):
    return make_survey({wave: [(answer, 1.0, {}) for answer in "abcb"] for wave in waves}, event_id, split)


POLL = [
    survey("early", "train", ["w1", "w2"]),
    survey("late", "test", ["w1", "w2", "w3"]),
    survey("one", "train", ["w1"]),
]


def test_validation_events_stand_for_test_events():
    assert [(event.event_id, event.split) for event in validation_set(THREADS)] == [
        ("train", "train"),
        ("validation", "test"),
    ]
    assert validation_set(THREADS)[1].turns == THREADS[1].turns


def test_surveys_end_a_wave_earlier():
    shorter = validation_set(POLL)
    assert [(event.event_id, event.split) for event in shorter] == [("early", "train"), ("late", "test")]
    assert [sorted({turn.wave for turn in event.turns}) for event in shorter] == [["w1"], ["w1", "w2"]]
    assert shorter[1].turns == tuple(turn for turn in POLL[1].turns if turn.wave != "w3")


def test_what_was_trained_on_the_judged_wave_is_refused(tmp_path):
    sets = validation_sets({"poll": POLL, "threads": THREADS})
    folder = tmp_path / "mine-seed0"
    folder.mkdir()
    check_not_seen([folder], sets)

    def trained_on(poll):
        # Other threads may be there: no validation event is learned from.
        hashes = {"poll": data_hash(poll), "threads": data_hash(THREADS), "more": "0"}
        (folder / "trained.json").write_text(json.dumps({"data_hash": hashes}))

    trained_on(sets["poll"])
    check_not_seen([folder], sets)
    trained_on(POLL)
    with pytest.raises(
        InputError, match="checkpoint 'mine-seed0' must be trained on what --validation leaves of poll, "
    ):
        check_not_seen([folder], sets)


def test_the_command_judges_validation_events(tmp_path):
    lines = []
    for split, count in (("train", 3), ("validation", 2), ("test", 4)):
        for number in range(count):
            turns = [{"action": "word", "labels": {"stance": STANCES[(i + number) % 3]}} for i in range(20)]
            lines.append({"event_id": f"{split}-{number}", "topic": "Bridge", "split": split, "turns": turns})
    text = "".join(json.dumps(line | {"dimensions": {"stance": STANCES}}) + "\n" for line in lines)
    (tmp_path / "threads.jsonl").write_text(text, encoding="utf-8")
    request = CompareRequest(
        events=str(tmp_path / "threads.jsonl"),
        methods=("uniform", "carry"),
        output=tmp_path / "out",
        validation=True,
        n_bootstrap=20,
    )
    run_compare(request)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert "--validation" in summary["command"] and summary["splits"] == ["validation"] and summary["bars"] == {}
    rows = (tmp_path / "out/results.csv").read_text().splitlines()[1:]
    assert sorted({row.split(",")[1] for row in rows}) == ["validation-0", "validation-1"]
    page = run_report(tmp_path / "out", events=request.events, output=tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert "validation-1" in text and "(2 validation events)" in text and "they are asked of test events" in text
    run_compare(replace(request, validation=False))
    assert json.loads((tmp_path / "out/summary.json").read_text())["splits"] == ["test"]
    rows = (tmp_path / "out/results.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1] for row in rows} == {f"test-{number}" for number in range(4)}
