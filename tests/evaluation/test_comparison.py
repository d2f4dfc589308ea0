"""`compare`: rows, files, and data sets that are not as they should be."""

import csv
import json

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey

from mf_llm.errors import InputError
from mf_llm.evaluation import compare
from mf_llm.evaluation.forecasters import Carry, Uniform
from mf_llm.events.event import Event, Turn

HEADER = (
    "dataset,event,method,readout,dimension,kl,kl_low,kl_high,best_constant,reference,gain,n_windows,protocol,seed"
)
FAST = {"n_bootstrap": 200}


def data_set(n_test: int = 4, train: bool = True) -> list[Event]:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc"), size=60, p=[0.6, 0.3, 0.1])) for _ in range(n_test + 6)]
    splits = (["train"] * 6 if train else []) + ["test"] * n_test
    return [make_event(text, f"e{n}", split) for n, (text, split) in enumerate(zip(texts, splits, strict=False))]


def survey() -> list[Event]:
    rng = np.random.default_rng(0)

    def wave(n: int) -> list:
        parties = rng.choice(["Strong Democrat", "Lean Democrat", "Independent"], size=n)
        return [(str(rng.choice(list("abc"))), float(rng.uniform(0.5, 2)), {"party": str(party)}) for party in parties]

    return [make_survey({"w1": wave(120), "w2": wave(160)}, "s1"), make_survey({"w1": wave(90), "w2": wave(80)}, "s2")]


def test_columns_and_files(tmp_path):
    found = compare({"d": data_set(), "s": survey()}, seed=3, **FAST)
    found.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.csv", "summary.json"]
    text = (tmp_path / "out/results.csv").read_text()
    assert text.splitlines()[0] == HEADER
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == (4 + 2) * 4
    assert {row["seed"] for row in rows} == {"3"}
    assert {row["protocol"] for row in rows} == {"1"}
    assert {row["readout"] for row in rows} == {"forecast"}
    assert {row["method"] for row in rows} == {"uniform", "prior", "carry", "last"}
    row = next(row for row in rows if row["dataset"] == "d" and row["method"] == "carry")
    assert row["reference"].startswith(("carry(alpha=", "prior", "last(alpha="))
    assert float(row["kl_low"]) <= float(row["kl"]) <= float(row["kl_high"])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert set(summary["versions"]) == {"mf_llm", "python", "numpy", "scipy"}
    assert len(summary["data_hash"]) == 64
    assert (summary["protocol"], summary["seed"], summary["splits"]) == (1, 3, ["test"])


def test_numbers_of_an_event_by_hand():
    events = [make_event("aabb" * 6, "t", "train"), make_event("aaaabbbb" + "aabbaabb" + "bbbbbbbb" + "c", "e")]
    found = compare({"d": events}, [Uniform(), Carry(alpha=8)], **FAST)
    uniform, carry = found.rows
    assert uniform["kl"] == pytest.approx((np.log(1.5) + np.log(3)) / 2)
    assert uniform["n_windows"] == 2
    # carry: 4 a, 4 b and 8 pseudo-people of the prior (12.5, 12.5, 0.5) / 25.5
    q = np.array([4 + 8 * 12.5 / 25.5, 4 + 8 * 12.5 / 25.5, 8 * 0.5 / 25.5]) / 16
    assert carry["kl"] == pytest.approx(-np.log(2 * q[0]) / 2 - np.log(q[1]) / 2)
    rest = np.array([4, 12, 1]) / 17
    best = (np.log(0.5 / rest[0]) / 2 + np.log(0.5 / rest[1]) / 2 - np.log(rest[1])) / 2
    assert carry["best_constant"] == pytest.approx(best)
    reference = found.summary["data_sets"][0]
    assert reference["warm_up"] == reference["window"] == 8
    assert uniform["gain"] == pytest.approx(reference["reference_kl"]["value"] - uniform["kl"])


def test_summary_holds_means_over_events_with_paired_gains():
    summary = compare({"d": data_set()}, **FAST).summary
    record = summary["data_sets"][0]
    rows = compare({"d": data_set()}, **FAST).rows
    for name in ("uniform", "prior", "carry", "last"):
        scores = [row["kl"] for row in rows if row["method"] == name]
        assert record["methods"][name]["kl"]["value"] == pytest.approx(np.mean(scores))
    reference = record["reference"].split("(")[0]
    gain = record["methods"][reference]["gain"]
    assert (gain["value"], gain["low"]) == (0, None)
    assert summary["overall"]["uniform"]["G"]["value"] == pytest.approx(record["methods"]["uniform"]["gain"]["value"])
    skill = record["methods"]["uniform"]["gain"]["value"] / (
        record["reference_kl"]["value"] - record["yardsticks"]["best_constant"]["value"]
    )
    assert summary["overall"]["uniform"]["S"]["value"] == pytest.approx(skill)


def test_the_same_seed_gives_the_same_file_and_data_sets_do_not_touch_each_other():
    alone = compare({"d": data_set()}, seed=1, **FAST)
    together = compare({"x": data_set(3), "d": data_set()}, seed=1, **FAST)
    other = compare({"d": data_set()}, seed=2, **FAST)
    assert alone.rows == [row for row in together.rows if row["dataset"] == "d"]
    assert alone.summary["data_sets"] == [
        record for record in together.summary["data_sets"] if record["data_set"] == "d"
    ]
    assert [row["kl"] for row in alone.rows] == [row["kl"] for row in other.rows]
    low = [found.summary["data_sets"][0]["methods"]["uniform"]["kl"]["low"] for found in (alone, other)]
    assert low[0] != low[1]


def test_surveys_are_apart_and_have_subgroups():
    summary = compare({"s": survey()}, **FAST).summary
    assert summary["data_sets"] == []
    assert summary["overall"] == {}
    record = summary["surveys"][0]
    assert record["windows"] == "waves"
    assert record["reference"] == "carry(alpha=10)"
    groups = [(event["event"], event["value"]) for event in record["events"]]
    assert groups[:3] == [("s1", None), ("s1", "Democrat"), ("s1", "Independent")]
    for event in record["events"]:
        kl = event["methods"]["uniform"]["kl"]
        assert kl["low"] < kl["value"] < kl["high"]
        assert event["methods"]["carry"]["gain"]["value"] == 0
    whole = [event["methods"]["uniform"]["kl"]["value"] for event in record["events"] if event["subgroup"] is None]
    assert record["methods"]["uniform"]["kl"]["value"] == pytest.approx(np.mean(whole))


def test_without_a_train_split_the_prior_is_uniform_and_the_summary_says_so():
    record = compare({"d": data_set(train=False)}, **FAST).summary["data_sets"][0]
    assert record["prior"] == pytest.approx([1 / 3] * 3)
    assert record["reference"] == "carry(alpha=10)"
    assert any("no train events" in note for note in record["notes"])


def test_what_cannot_be_judged_is_skipped_with_a_reason():
    unlabelled = Event(event_id="u", topic="t", turns=(Turn(action="x"),), split="test")
    nothing = Event(
        event_id="n", topic="t", turns=(Turn(action="x"),), split="test", dimensions={"stance": CATEGORIES}
    )
    found = compare(
        {
            "no dimension": [unlabelled],
            "no labels": [nothing],
            "no test": [make_event("a" * 40, split="train")],
            "short": [make_event("aaa")],
        },
        **FAST,
    )
    assert found.rows == []
    reasons = {entry["data_set"]: entry["reason"] for entry in found.summary["skipped"]}
    assert "nothing is labelled" in reasons["no dimension"]
    assert "has a label on 'stance'" in reasons["no labels"]
    assert "no event of split test (splits found: train)" in reasons["no test"]
    assert "too short for windows 8/8" in reasons["short"]
    assert "short skipped: " in found.table()


def test_other_splits_can_be_judged():
    found = compare({"d": data_set()}, splits=("train",), **FAST)
    assert {row["event"] for row in found.rows} == {f"e{n}" for n in range(6)}


def test_a_method_is_any_callable():
    class Oracle:
        name, readout = "oracle", "exact"

        def __call__(self, event, plan, training):
            return plan.truth

    row = compare({"d": data_set(1)}, [Oracle()], **FAST).rows[0]
    assert (row["method"], row["readout"]) == ("oracle", "exact")
    assert row["kl"] < 1e-3


def test_methods_need_names_of_their_own():
    with pytest.raises(InputError, match="`methods` must have different names"):
        compare({"d": data_set()}, [Uniform(), Uniform()])


def test_categories_must_agree_within_a_data_set():
    other = Event(event_id="o", topic="t", turns=(Turn(labels={"stance": "x"}),), dimensions={"stance": ("x", "y")})
    with pytest.raises(InputError, match="must be the same in all events of 'd'"):
        compare({"d": [*data_set(), other]})


def test_the_table_shows_the_anchors_side_by_side():
    text = compare({"d": data_set(), "s": survey()}, **FAST).table(150)
    for word in ("best const.", "sampling", "reference", "party: Democrat", "All data sets", "carry(alpha=10)"):
        assert word in text
