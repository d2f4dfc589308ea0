"""`evaluate_rollouts` on rollouts whose scores are known."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_rollout, make_survey, one_hot

from mf_llm.errors import InputError
from mf_llm.evaluation import evaluate_rollouts
from mf_llm.evaluation.protocol import Windows
from mf_llm.evaluation.report import COLUMNS

WINDOWS = Windows(8, 4)
EVENT = make_event("aabbccab" + "aaab" + "bbbb" + "ccab" + "a")
FAST = {"windows": WINDOWS, "n_bootstrap": 200}


def copy_of_the_truth(turn, label):
    return one_hot(label)


def uniform(turn, label):
    return (1 / 3,) * 3


def test_a_rollout_that_copies_the_truth():
    report = evaluate_rollouts([make_rollout(EVENT, copy_of_the_truth, WINDOWS)], [EVENT], ordered=["stance"], **FAST)
    row = report.rows[0]
    # What is left is the clamp at 1e-4.
    assert 0 <= row["kl"] < 3e-4
    assert 0 <= row["js"] < 3e-4
    assert row["w1"] == pytest.approx(0, abs=1e-3)
    assert row["dtw"] == pytest.approx(0, abs=1e-3)
    assert (row["n_windows"], row["n_people"], row["warm_up"]) == (3, 12, 8)
    assert row["f1_micro"] is None


def test_a_uniform_rollout():
    report = evaluate_rollouts([make_rollout(EVENT, uniform, WINDOWS)], [EVENT], **FAST)
    row = report.rows[0]
    entropies = [-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), 0, 1.5 * np.log(2)]
    assert row["kl"] == pytest.approx(np.log(3) - np.mean(entropies))
    assert row["w1"] is None
    # P pooled over 12 people: 4 a, 6 b, 2 c
    pooled = np.array([4, 6, 2]) / 12
    assert row["entropy_ratio"] == pytest.approx(np.log(3) / (-(pooled * np.log(pooled)).sum() + 2 / 24))
    # carry: 3 a, 3 b, 2 c of the warm-up and 10 pseudo-people of a uniform prior
    q = (np.array([3, 3, 2]) + 10 / 3) / 18
    truth = np.array([[3, 1, 0], [0, 4, 0], [1, 1, 2]]) / 4
    reference = np.mean([sum(p * np.log(p / q[k]) for k, p in enumerate(window) if p) for window in truth])
    assert row["reference"] == "carry(alpha=10)"
    assert row["reference_kl"] == pytest.approx(reference)
    assert row["gain"] == pytest.approx(reference - row["kl"])
    assert row["best_constant"] > 0
    assert row["sampling_alone"] > 0
    assert any("no train events" in warning for warning in report.warnings)


def test_scores_of_people_with_states():
    states = [{}] * 8 + [{"age": "30"}] * 2 + [{}] * 11
    event = make_event("aabbccab" + "aaab" + "bbbb" + "ccab" + "a", states=states)
    policy = {8: (0.5, 0.3, 0.2), 9: (0.2, 0.5, 0.3)}
    rollout = make_rollout(event, lambda turn, label: policy.get(turn, (1 / 3,) * 3), WINDOWS)
    row = evaluate_rollouts([rollout], [event], **FAST).rows[0]
    assert row["f1_micro"] == 0.5
    assert row["f1_macro"] == pytest.approx((2 / 3 + 0) / 2)
    assert row["nll"] == pytest.approx(-(np.log(0.5) + np.log(0.2)) / 2, abs=1e-3)


def test_people_of_a_step_in_part_stand_for_the_others():
    asked = {9: "b", 11: "b", 13: "b", 15: "a", 17: "c", 19: "b"}  # of the windows 8-11, 12-15, 16-19
    whole = make_rollout(EVENT, lambda turn, label: one_hot(asked.get(turn, "a")), WINDOWS)
    rows = tuple(row for row in whole.actions if row.source == "real" or row.turn in asked)
    part = replace(whole, actions=rows, config=whole.config | {"max_people_per_step": 2})
    row = evaluate_rollouts([part], [EVENT], **FAST).rows[0]
    truth = np.array([[3, 1, 0], [0, 4, 0], [1, 1, 2]]) / 4
    q = np.clip(np.array([[0, 1, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]]), 1e-4, None)
    q /= q.sum(axis=1, keepdims=True)
    kl = [sum(p * np.log(p / q[t, k]) for k, p in enumerate(window) if p) for t, window in enumerate(truth)]
    assert row["kl"] == pytest.approx(np.mean(kl)) and row["n_windows"] == 3
    assert row["n_people"] == 12  # the windows are those of everybody
    cut_short = evaluate_rollouts([replace(part, config=whole.config)], [EVENT], **FAST)
    assert not cut_short.rows
    # Told to stop within the last window: who was asked at its beginning does not stand for all of it.
    rows = tuple(row for row in rows if row.turn < 18)
    stopped = replace(part, actions=rows, config=part.config | {"max_actions": 18})
    row = evaluate_rollouts([stopped], [EVENT], **FAST).rows[0]
    assert row["n_windows"] == 2 and row["kl"] == pytest.approx(np.mean(kl[:2]))


def test_seeds_are_pooled():
    always = [make_rollout(EVENT, lambda turn, label, k=k: one_hot(k), WINDOWS, seed=n) for n, k in enumerate("abc")]
    row = evaluate_rollouts(always, [EVENT], **FAST).rows[0]
    flat = evaluate_rollouts([make_rollout(EVENT, uniform, WINDOWS)], [EVENT], **FAST).rows[0]
    assert row["kl"] == pytest.approx(flat["kl"])
    assert row["n_rollouts"] == 3


def test_sampled_labels_are_pooled_with_half_a_person_per_category_and_few_rollouts_warn():
    rollouts = [
        make_rollout(EVENT, lambda turn, label, k=k: k, WINDOWS, seed=n, readout="sampled") for n, k in enumerate("ab")
    ]
    report = evaluate_rollouts(rollouts, [EVENT], **FAST)
    row = report.rows[0]
    q = np.array([4.5, 4.5, 0.5]) / 9.5
    truth = np.array([[3, 1, 0], [0, 4, 0], [1, 1, 2]]) / 4
    assert row["kl"] == pytest.approx(
        np.mean([sum(p * np.log(p / q[k]) for k, p in enumerate(window) if p) for window in truth])
    )
    assert row["nll"] is None
    assert any("fewer than 16 rollouts" in warning for warning in report.warnings)
    enough = [
        make_rollout(EVENT, lambda turn, label: "a", WINDOWS, seed=seed, readout="sampled") for seed in range(16)
    ]
    assert not any("16 rollouts" in warning for warning in evaluate_rollouts(enough, [EVENT], **FAST).warnings)


def test_failed_rows_are_left_out_and_counted():
    rollout = make_rollout(EVENT, lambda turn, label: None if turn in (8, 12, 13, 14, 15) else one_hot("a"), WINDOWS)
    report = evaluate_rollouts([rollout], [EVENT], **FAST)
    row = report.rows[0]
    assert (row["n_failed"], row["n_windows_left_out"], row["n_windows"]) == (5, 1, 2)
    assert any("5 simulated actions failed" in warning for warning in report.warnings)
    # A failure at turn 8 does not move the first window.
    assert row["warm_up"] == 8


def test_a_rollout_that_stops_early_is_judged_on_its_whole_windows():
    rollout = make_rollout(EVENT, uniform, WINDOWS)
    rollout.actions = rollout.actions[:18]
    report = evaluate_rollouts([rollout], [EVENT], **FAST)
    assert (report.rows[0]["n_windows"], report.rows[0]["n_windows_left_out"]) == (2, 1)
    rollout.actions = rollout.actions[:10]
    assert "no whole simulated window" in evaluate_rollouts([rollout], [EVENT], **FAST).summary["skipped"][0]["reason"]


def test_a_rollout_without_a_warm_up_is_held_against_the_prior():
    rollout = make_rollout(EVENT, uniform, WINDOWS)
    rollout.actions = [
        replace(row, source="simulated", label=None, probabilities=(1 / 3,) * 3) for row in rollout.actions
    ]
    train = [make_event("aabb" * 3, f"t{n}", "train") for n in range(2)]
    row = evaluate_rollouts([rollout], [EVENT, *train], **FAST).rows[0]
    assert (row["warm_up"], row["n_windows"]) == (0, 5)
    assert np.isfinite(row["reference_kl"])


def test_weights_enter_both_sides():
    people = [("a", 3.0, {}), ("b", 1.0, {})]
    event = make_survey({"w1": people, "w2": people})
    answers = {2: one_hot("b"), 3: one_hot("a")}
    windows = Windows(0, 0, waves=True)
    rollout = make_rollout(event, lambda turn, label: answers[turn], windows)
    row = evaluate_rollouts([rollout], [event], n_bootstrap=50).rows[0]
    expected = 0.75 * np.log(0.75 / 0.25) + 0.25 * np.log(0.25 / 0.75)
    assert row["kl"] == pytest.approx(expected, abs=1e-3)
    assert row["n_windows"] == 1


def test_surveys_have_subgroup_rows_and_intervals_over_people():
    rng = np.random.default_rng(0)
    wave = [(str(rng.choice(list("abc"))), 1.0, {"age": str(age)}) for age in rng.integers(18, 90, size=400)]
    event = make_survey({"w1": wave, "w2": wave})
    rollout = make_rollout(event, copy_of_the_truth, Windows(0, 0, waves=True))
    report = evaluate_rollouts([rollout], {"d": [event]}, n_bootstrap=200)
    assert [row["subgroup"] for row in report.rows] == ["", "age=18-29", "age=30-44", "age=45-64", "age=65+"]
    for row in report.rows:
        assert row["kl"] < 1e-3
        # Truth and simulation are drawn together: the same people, the same answers.
        assert (row["kl_high"] or 0) < 1e-3
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        assert row["w1"] == pytest.approx(0, abs=1e-2)
    assert report.summary["overall"] is None


def test_data_sets_get_means_with_intervals_over_events():
    rng = np.random.default_rng(0)
    events = [make_event("".join(rng.choice(list("abc"), size=24)), f"e{n}") for n in range(8)]
    train = [make_event("".join(rng.choice(list("abc"), size=24)), f"t{n}", "train") for n in range(4)]
    rollouts = [make_rollout(event, uniform, WINDOWS) for event in events]
    report = evaluate_rollouts(rollouts, {"d": events + train}, **FAST)
    scores = report.summary["data_sets"][0]["scores"]
    assert scores["kl"]["value"] == pytest.approx(np.mean([row["kl"] for row in report.rows]))
    assert scores["kl"]["low"] < scores["kl"]["value"] < scores["kl"]["high"]
    assert report.summary["overall"]["G"]["value"] == pytest.approx(scores["gain"]["value"])
    assert report.warnings == []


def test_files_and_table(tmp_path):
    report = evaluate_rollouts([make_rollout(EVENT, uniform, WINDOWS)], [EVENT], **FAST)
    report.save(tmp_path)
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert set(report.rows[0]) == set(COLUMNS)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert (record["protocol"], record["seed"], record["rollout_seeds"]) == (1, 0, [0])
    assert "KL(human || simulated)" in report.table()
    assert "Note: d: no train events" in report.table()


def test_other_events_than_those_simulated_are_refused():
    rollout = make_rollout(EVENT, uniform, WINDOWS)
    with pytest.raises(InputError, match="got none with the id 'e'"):
        evaluate_rollouts([rollout], [make_event("a" * 20, "other")])
    with pytest.raises(InputError, match="got another content for event 'e'"):
        evaluate_rollouts([rollout], [make_event("a" * 20)])


def test_rollouts_that_cannot_be_pooled_are_refused():
    rollout = make_rollout(EVENT, uniform, WINDOWS)
    with pytest.raises(InputError, match="one rollout per event and seed"):
        evaluate_rollouts([rollout, rollout], [EVENT])
    later = make_rollout(EVENT, uniform, Windows(12, 4), seed=1)
    with pytest.raises(InputError, match="same end of the warm-up"):
        evaluate_rollouts([rollout, later], [EVENT])
    with pytest.raises(InputError, match="`rollouts` must hold at least one"):
        evaluate_rollouts([], [EVENT])
    crosswise = replace(rollout, categories=CATEGORIES[::-1])
    with pytest.raises(InputError, match="`categories` must be those of event"):
        evaluate_rollouts([crosswise], [EVENT], **FAST)


def test_rollouts_without_a_dimension_or_simulated_turns_are_skipped():
    bare = replace(make_rollout(EVENT, uniform, WINDOWS), dimension=None, categories=())
    report = evaluate_rollouts([bare], [EVENT], **FAST)
    assert "no dimension" in report.summary["skipped"][0]["reason"]
    warm = make_rollout(EVENT, uniform, WINDOWS)
    warm.actions = [row for row in warm.actions if row.source == "real"]
    assert "no turn was simulated" in evaluate_rollouts([warm], [EVENT], **FAST).summary["skipped"][0]["reason"]
