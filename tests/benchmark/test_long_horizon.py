"""Long horizons: blocks joined, events replayed, and scores by stretches of the horizon."""

import csv
import json

import numpy as np
import pytest
from made_events import make_event

from mf_llm import InputError
from mf_llm.benchmark.long_horizon import ENDS, joined_blocks, replayed, stretches
from mf_llm.benchmark.markdown import horizon_table
from mf_llm.commands.compare_methods import CompareRequest, run_compare
from mf_llm.evaluation.judged_event import JudgedEvent
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.events import Event, Turn
from mf_llm.models.tiny import save_tiny_backbone

CATEGORIES = ["a", "b", "c"]


def block(number: int, group: str = "match", split: str = "test", n: int = 20) -> Event:
    turns = [
        Turn(
            time=float(1000 * number + i),
            state={"location": f"town {i % 3}"},
            action=f"block {number} turn {i}",
            labels={"view": CATEGORIES[(i + number) % 3]},
            parent=i - 1 if i % 4 == 1 else None,
        )
        for i in range(n)
    ]
    return Event(
        event_id=f"{group}#{number}", topic=f"The {group}", turns=turns, dimensions={"view": CATEGORIES}, split=split,
        group=group, block=number,
    )  # fmt: skip


BLOCKS = [block(4), block(1, split="train"), block(3), block(2, split="validation"), block(9, group="fair"), block(5)]


def test_the_test_blocks_of_a_group_follow_each_other():
    *others, joined = joined_blocks(BLOCKS)
    assert [event.event_id for event in others] == ["match#1", "match#2"]
    assert joined.event_id == "match, blocks 3 to 5" and joined.split == "test" and joined.topic == "The match"
    assert [turn.action for turn in joined.turns] == [f"block {b} turn {i}" for b in (3, 4, 5) for i in range(20)]
    # An answer still answers the same post.
    for place, turn in enumerate(joined.turns):
        assert turn.parent == (place - 1 if place % 20 % 4 == 1 else None)


def test_a_replayed_event_is_itself_again_and_again():
    event = block(0)
    long = replayed(event, 50)
    assert len(long.turns) == 50 and long.event_id == "match#0 replayed to 50"
    assert [turn.action for turn in long.turns] == [event.turns[i % 20].action for i in range(50)]
    assert long.turns[41].parent == 40 and {turn.time for turn in long.turns} == {None}
    with pytest.raises(InputError, match="`n_actions` must be at least the 20 turns"):
        replayed(event, 19)


def test_stretches_of_the_horizon_by_hand():
    labels = "a" * 8 + "ab" * 4 * 9 + "b" * 240
    event = make_event(labels, "e")
    plan = plan_event(event, Windows(8, 8, max_labelled=None))
    q = np.tile([0.5, 0.5 - 1e-4, 1e-4], (plan.n_windows, 1))
    q[8:] = [0.9, 0.1 - 1e-4, 1e-4]
    found = stretches(JudgedEvent(plan, q), {8: 100, 16: 300, 72: 500})
    assert [(one["first_action"], one["last_action"]) for one in found] == [(1, ENDS[0]), (65, 256), (257, 312)]
    first, second, third = found
    assert first["kl"] == pytest.approx(0, abs=1e-3) and first["drift"] == pytest.approx(0, abs=1e-9)
    assert third["kl"] == pytest.approx(-np.log(0.1), rel=0.01)
    assert first["real_drift"] == pytest.approx(0)
    # From half and half to everybody b.
    only = np.array([0.25, 0.75])
    expected = (0.5 * np.log(0.5 / only).sum() + np.log(1 / only[1])) / 2
    assert third["real_drift"] == pytest.approx(expected)
    assert second["drift"] > 0
    assert (first["prompt_tokens"], second["prompt_tokens"], third["prompt_tokens"]) == (200, 500, None)


def test_one_command_simulates_and_judges_the_whole_stream(tmp_path, capsys):
    lines = [json.dumps(event.to_dict()) + "\n" for event in BLOCKS]
    (tmp_path / "streams.jsonl").write_text("".join(lines))
    single = make_event("abc" * 10, "single").to_dict()
    (tmp_path / "other.jsonl").write_text(json.dumps(single) + "\n")
    (tmp_path / "methods.yaml").write_text(
        "options: {action: choice, agents_per_step: 8}\n"
        "methods: {carry: {forecaster: carry}, base: {options: {signal: statistics}}}\n"
    )
    base = save_tiny_backbone(tmp_path / "base", "llama")
    request = {
        "events": str(tmp_path),
        "methods": ("all",),
        "method_list": tmp_path / "methods.yaml",
        "model": str(base),
        "dtype": "float32",
        "n_bootstrap": 10,
        "long_horizon": True,
        "data_sets": ("streams", "other"),
    }
    run_compare(CompareRequest(**request, output=tmp_path / "out", replay=500))
    told = capsys.readouterr().out
    assert "base, seed 0, streams: 1 of 1 events to simulate" in told and "other" not in told.split("Results")[0]
    with (tmp_path / "out/horizon.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"carry", "base"}
    assert {row["event"] for row in rows} == {"match, blocks 3 to 5 replayed to 500"}
    by_end = {int(row["last_action"]): row for row in rows if row["method"] == "base"}
    assert sorted(by_end) == [64, 256, 488]
    # What is told of the past is bounded: prompts do not grow.
    tokens = [float(by_end[end]["prompt_tokens"]) for end in sorted(by_end)]
    assert max(tokens) < 1.2 * min(tokens)
    assert all(float(row["drift"]) == 0 for row in rows if row["method"] == "carry")
    table = [line[2:-2].split(" | ") for line in horizon_table(tmp_path / "out").splitlines()]
    assert table[0][:5] == ["data set", "method", "from 1", "from 65", "from 257"]
    assert [line[:2] for line in table[2:]] == [["streams", name] for name in ("`carry`", "`base`", "people")]
    base, people = table[3], table[4]
    assert base[2] == f"{float(by_end[64]['kl']):.3f} ({float(by_end[64]['drift']):.3f})"
    assert base[5] == f"{float(by_end[488]['dtw']):.3f}" and base[6] == f"{tokens[0]:,.0f} to {tokens[-1]:,.0f}"
    assert people[3] == f"({float(by_end[256]['real_drift']):.3f})" and people[5:] == ["-", "-"]
    assert (tmp_path / "out/horizon.png").stat().st_size > 1000
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert "--long-horizon --replay 500" in summary["command"] and summary["data_sets"][0]["n_events"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay": 100}, "`--replay` must come with --long-horizon"),
        ({"long_horizon": True, "data_sets": ("other",)}, "must have test events that are blocks of one group"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    (tmp_path / "other.jsonl").write_text(json.dumps(make_event("abc" * 10, "single").to_dict()) + "\n")
    with pytest.raises(InputError, match=message):
        run_compare(CompareRequest(events=str(tmp_path), methods=("carry",), output=tmp_path / "out", **changes))
