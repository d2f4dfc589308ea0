"""A shift is forecast from before it, and judged by direction, size and coverage."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_events import CATEGORIES, make_rollout

from loaded_script import loaded_script
from mf_llm import Event, InputError, Turn
from mf_llm.events import load_event_sets
from mf_llm.forecasting.natural_experiments import judge_shift, shift_config
from mf_llm.forecasting.shifts import Shift, load_shifts
from mf_llm.models.tiny import save_tiny_backbone

DATA = Path(os.environ.get("MF_LLM_DATA") or Path(__file__).parents[3] / "shared/data")
EXAMPLE = Path(__file__).parents[2] / "examples/natural_experiments.py"
SHIFT = Shift(
    name="turn",
    data_set="stream",
    before=("s#0",),
    after=("s#1",),
    category=CATEGORIES[0],
    news="They have taken it back.",
    known=3999.0,
    warm_up=16,
    n_people=32,
)


def block(number, start, p, n=40, split="train"):
    rng = np.random.default_rng(number)
    labels = rng.choice(CATEGORIES, p=p, size=n)
    turns = [
        Turn(time=start + i, action=f"word {i}", labels={"stance": str(label)}, parent=i - 1 if i else None)
        for i, label in enumerate(labels)
    ]
    about = {"split": split, "group": "s", "block": number, "dimensions": {"stance": CATEGORIES}}
    return Event(event_id=f"s#{number}", topic="A bridge.", turns=turns, **about)


EVENTS = [
    block(0, 1000, (0.7, 0.2, 0.1)),
    block(1, 4000, (0.1, 0.2, 0.7), split="test"),
    block(2, 4100, (0.1, 0.2, 0.7), split="validation"),
]


def test_the_event_of_a_shift_is_the_end_of_one_block_and_the_beginning_of_another():
    event = SHIFT.event(EVENTS)
    assert [turn.action for turn in event.turns] == [f"word {i}" for i in [*range(24, 40), *range(32)]]
    assert [turn.time for turn in event.turns[14:18]] == [1038.0, 1039.0, 4000.0, 4001.0]
    assert all(turn.parent is None for turn in event.turns)
    assert [one.event_id for one in SHIFT.known_before(EVENTS)] == ["s#0"]  # nothing is learned from what came later
    config = shift_config(SHIFT, event, EVENTS, {"anchored": True})
    assert (config.warm_up, config.max_actions) == (16, 48)
    # The anchor's prior is of the block before alone.
    counts = np.array([sum(turn.labels["stance"] == c for turn in EVENTS[0].turns) for c in CATEGORIES]) + 0.5
    assert [config.anchor_prior[c] for c in CATEGORIES] == pytest.approx(list(counts / counts.sum()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"known": 4000.5}, "would look ahead"),
        ({"before": ("s#9",)}, "must hold event 's#9'"),
        ({"n_people": 41}, "16 labelled turns before and 41 behind it, got 16 and 40"),
        ({"category": "other"}, "must be one of"),
    ],
)
def test_what_is_no_shift(changes, says):
    with pytest.raises(InputError, match=says):
        replace(SHIFT, **changes).event(EVENTS)


def ensemble(event, shares, n=6, spread=0.02):
    def answers(seed):
        rng = np.random.default_rng(seed)
        moved = np.maximum(np.asarray(shares) + rng.normal(0, spread, 3), 0.01)
        return lambda turn, label: tuple(moved / moved.sum())

    return [make_rollout(event, answers(seed), SHIFT.windows, seed=seed, data_set="stream") for seed in range(n)]


def test_direction_size_and_coverage():
    event = SHIFT.event(EVENTS)
    labels = [turn.labels["stance"] for turn in event.turns]
    before = labels[:16].count(CATEGORIES[0]) / 16
    after = labels[16:].count(CATEGORIES[0]) / 32
    half = (before + after) / 2
    known = {
        ("m", False): ensemble(event, (before + 0.1, 0.1, 0.8 - before), spread=0),
        ("m", True): ensemble(event, (half, 0.2, 0.8 - half), spread=0),
        ("n", True): ensemble(event, (after, 0.2, 0.8 - after), spread=0.01),
    }
    without, told, knowing, carry = judge_shift(SHIFT, event, EVENTS, known)
    for row in (without, told, knowing, carry):
        assert (row["before"], row["after"]) == pytest.approx((before, after))
        assert row["n_people"] == 32
        assert row["low_95"] <= row["low_80"] <= row["forecast"] <= row["high_80"] <= row["high_95"]
    assert (without["direction"], told["direction"], knowing["direction"]) == ("wrong", "right", "right")
    assert told["size"] == pytest.approx(0.5, abs=1e-6)
    assert without["size"] == pytest.approx(0.1 / (after - before), abs=1e-6)
    assert knowing["covered_95"]
    assert knowing["covered_80"]
    assert not without["covered_95"]
    assert knowing["crps"] < told["crps"] < without["crps"]
    assert (carry["method"], carry["news"]) == ("carry", "")
    assert carry["forecast"] > half


def test_the_shifts_of_the_package():
    """Each names its news and when they were known, and no news comes twice under one name."""
    shifts = load_shifts()
    assert len({one.name for one in shifts}) == len(shifts) >= 5
    assert {one.data_set for one in shifts} == {"gop_debate", "deflategate", "airline", "vaccine_survey"}
    for one in shifts:
        assert one.news.endswith(".")
        assert "\n" not in one.news


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shifts: {}\n", "must be a mapping with version 1"),
        ("version: 1\nshifts:\n  a: {before: []}\n", "shift 'a' must have after, before, category"),
    ],
)
def test_files_that_hold_no_shifts(tmp_path, text, says):
    (tmp_path / "shifts.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        load_shifts(tmp_path / "shifts.yaml")


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="no research data: set MF_LLM_DATA to its folder")
def test_the_shifts_of_the_package_are_in_the_data():
    sets = load_event_sets(str(DATA))
    for one in load_shifts():
        event = one.event(sets[one.data_set])
        assert one.known_before(sets[one.data_set])
        if not one.is_survey:
            assert len(event.turns) == one.warm_up + one.n_people


def test_the_example_makes_table_and_figure(tmp_path, capsys):
    example = loaded_script(EXAMPLE)
    data = tmp_path / "data"
    data.mkdir()
    (data / "stream.jsonl").write_text("\n".join(json.dumps(event.to_dict()) for event in EVENTS))
    (tmp_path / "shifts.yaml").write_text(
        "version: 1\nwarm_up: 16\nn_people: 32\nshifts:\n  turn: {data_set: stream, before: ['s#0'], after: ['s#1'], "
        f"category: {CATEGORIES[0]}, news: They have taken it back., known: '1970-01-01T01:06:30Z'}}\n"
    )
    model = save_tiny_backbone(tmp_path / "tiny", "qwen2")
    arguments = [
        str(data),
        "--shifts",
        str(tmp_path / "shifts.yaml"),
        "--output",
        str(tmp_path / "out"),
        "--seeds",
        "2",
    ]
    arguments += ["--models", f"{model}:plain", "--dtype", "float32"]
    assert example.main(arguments) == 0
    with (tmp_path / "out/natural_experiments.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["news"], row["n_rollouts"]) for row in rows] == [("without", "2"), ("with", "2"), ("", "1")]
    assert (tmp_path / "out/natural_experiments.png").stat().st_size > 10_000
    before = (tmp_path / "out/natural_experiments.csv").read_bytes()
    assert example.main(arguments) == 0  # what was made is not made again, and gives the same
    assert (tmp_path / "out/natural_experiments.csv").read_bytes() == before
