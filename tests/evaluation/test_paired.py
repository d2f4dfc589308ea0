"""Paired differences and the table of methods, on rollouts whose KL is known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from made_events import make_event, make_rollout, make_survey, one_hot

from mf_llm.errors import InputError
from mf_llm.evaluation import evaluate_rollouts
from mf_llm.evaluation.forecasters import Carry, Training, Uniform
from mf_llm.evaluation.judged_event import judge_forecast, judge_rollouts
from mf_llm.evaluation.method_table import ALL, COMPLETE, EVENTS, KL_COLUMNS, PAIRED_COLUMNS, Cell, MethodTable, lowest
from mf_llm.evaluation.paired import MethodScores, Resampling, mean_kl, paired_difference
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.evaluation.readouts import end_of_warm_up

WINDOWS = Windows(8, 4)
WAVES = Windows(0, 0, waves=True)
RESAMPLING = Resampling(seed=0, n_bootstrap=400)
UNIFORM = (1 / 3,) * 3


def stream_events(n=12, seed=0, **fields):
    """Events whose crowds differ much: the share of "a" runs from 0 to 1."""
    rng = np.random.default_rng(seed)
    shares = [np.array([a, (1 - a) / 2, (1 - a) / 2]) for a in np.linspace(0, 1, n)]
    letters = ["".join(rng.choice(list("abc"), size=24, p=share)) for share in shares]
    return [make_event(text, f"e{number:02}", **fields) for number, text in enumerate(letters)]


EVENTS_OF_D = stream_events()


def scores(policies, *, events=EVENTS_OF_D, method="m", data_set="d", windows=WINDOWS, seeds=None):
    """Scores of a method: one policy per training seed; a policy gives shares from (event, turn, true label)."""
    judged = {}
    for seed, policy in zip(seeds or range(len(policies)), policies, strict=True):
        judged[seed] = [
            judge_rollouts(event, [make_rollout(event, partial(policy, event), windows)], windows) for event in events
        ]
    return MethodScores(method, data_set, judged)


def always(*shares):
    return lambda event, turn, label: shares


def near_truth(weight):
    return lambda event, turn, label: tuple(weight * np.asarray(one_hot(label)) + (1 - weight) / 3)


def survey(name="s", n=120, seed=0):
    rng = np.random.default_rng(seed)
    waves = {
        wave: [(str(rng.choice(list("abc"), p=p)), float(weight), {}) for weight in rng.uniform(0.5, 2, size=n)]
        for wave, p in (("w1", [0.5, 0.3, 0.2]), ("w2", [0.3, 0.3, 0.4]))
    }
    return make_survey(waves, name)


# -- one event --------------------------------------------------------------------------------------------------------


def test_a_judged_event_has_the_scores_of_evaluate_rollouts():
    event = make_event("aabbccab" + "aaab" + "bbbb" + "ccab" + "a")
    rollout = make_rollout(event, lambda turn, label: (0.5, 0.3, 0.2), WINDOWS)
    judged = judge_rollouts(event, [rollout], WINDOWS)
    row = evaluate_rollouts([rollout], [event], windows=WINDOWS, n_bootstrap=20).rows[0]
    truth = np.array([[3, 1, 0], [0, 4, 0], [1, 1, 2]]) / 4
    by_hand = np.mean([sum(p * np.log(p / q) for p, q in zip(t, (0.5, 0.3, 0.2), strict=True) if p) for t in truth])
    assert judged.kl == pytest.approx(by_hand)
    assert judged.kl == pytest.approx(row["kl"])
    assert judged.entropies == pytest.approx((row["h_real"], row["h_simulated"]))


def test_a_survey_keeps_the_people_before_the_first_of_a_sample():
    event = survey()
    rollout = make_rollout(event, lambda turn, label: (0.2, 0.3, 0.5), WAVES)
    sample = [row for row in rollout.actions if row.source == "real" or row.turn % 7 == 5]
    part = replace(rollout, actions=sample)
    assert end_of_warm_up(part) == 120 and min(row.turn for row in sample if row.source == "simulated") > 120
    judged = judge_rollouts(event, [part], WAVES)
    assert [len(window) for window in judged.plan.judged] == [120]
    # Everybody gives the same answer, so that the sample does not matter.
    assert judged.kl == pytest.approx(judge_rollouts(event, [rollout], WAVES).kl)


def test_events_that_cannot_be_judged_are_refused():
    event = EVENTS_OF_D[3]
    rollout = make_rollout(event, lambda turn, label: UNIFORM, WINDOWS)
    with pytest.raises(InputError, match="reach over a whole window"):
        judge_rollouts(event, [replace(rollout, actions=rollout.actions[:10])], WINDOWS)
    with pytest.raises(InputError, match="must hold simulated people on a dimension"):
        judge_rollouts(event, [replace(rollout, actions=rollout.actions[:8])], WINDOWS)
    with pytest.raises(InputError, match="`categories` must be those of event"):
        judge_rollouts(event, [replace(rollout, categories=("c", "b", "a"))], WINDOWS)


# -- one data set -----------------------------------------------------------------------------------------------------


def test_known_kls_and_their_difference():
    a, b = scores([always(*UNIFORM)], method="a"), scores([near_truth(0.5)], method="b")
    entropies = [[-sum(p * np.log(p) for p in window if p) for window in judged.plan.truth] for judged in a.events]
    assert mean_kl(a, RESAMPLING).value == pytest.approx(np.log(3) - np.mean(entropies))
    found = paired_difference(a, b, RESAMPLING)
    assert found.value == pytest.approx(np.mean(a.kl()) - np.mean(b.kl()))
    assert found.interval().low > 0


def test_the_same_answers_differ_by_exactly_nothing():
    events = EVENTS_OF_D
    for policies in ([near_truth(0.3)], [near_truth(0.3), near_truth(0.6), near_truth(0.1)]):
        found = paired_difference(
            scores(policies, method="a", events=events), scores(policies, method="b", events=events), RESAMPLING
        )
        assert found.value == 0.0
        assert np.all(found.replicates == 0.0)
        assert (found.interval().low, found.interval().high) == (None, None)
    waves = [scores([near_truth(0.3)] * 2, events=[survey()], windows=WAVES, method=name) for name in "ab"]
    assert np.all(paired_difference(*waves, RESAMPLING).replicates == 0.0)


def test_pairing_is_narrower_than_two_samples():
    a, b = scores([always(*UNIFORM)], method="a"), scores([always(0.36, 0.32, 0.32)], method="b")
    paired = paired_difference(a, b, RESAMPLING).replicates
    other = Resampling(seed=1, n_bootstrap=RESAMPLING.n_bootstrap)
    unpaired = mean_kl(a, RESAMPLING).replicates - mean_kl(b, other).replicates
    assert 0 < np.std(paired) < 0.5 * np.std(unpaired)


def test_surveys_are_paired_by_respondent():
    event = survey()
    a = scores([always(0.3, 0.3, 0.4)], events=[event], windows=WAVES, method="a")
    b = scores([always(0.35, 0.3, 0.35)], events=[event], windows=WAVES, method="b")
    paired = paired_difference(a, b, RESAMPLING)
    unpaired = mean_kl(a, RESAMPLING).replicates - mean_kl(b, Resampling(1, 400)).replicates
    assert 0 < np.std(paired.replicates) < 0.8 * np.std(unpaired)
    assert paired.value == pytest.approx(a.kl().mean() - b.kl().mean())
    # A forecast has no answers to resample, only people; it can be paired all the same.
    training = Training([event], WAVES, "intention", "abc")
    forecast = MethodScores("carry", "d", {0: [judge_forecast(plan_event(event, WAVES), Carry(), training)]})
    assert paired_difference(a, forecast, RESAMPLING).interval().low is not None


# -- training seeds ---------------------------------------------------------------------------------------------------


def test_seeds_are_scored_by_themselves_and_then_averaged():
    lone = [scores([always(*one_hot(k))]).kl().mean() for k in "abc"]
    three = scores([always(*one_hot(k)) for k in "abc"])
    assert mean_kl(three, RESAMPLING).value == pytest.approx(np.mean(lone))
    # Pooled answers would be uniform, and much nearer to people.
    assert np.mean(lone) > 2 * scores([always(*UNIFORM)]).kl().mean()


def test_seeds_that_differ_widen_the_interval():
    same = scores([near_truth(0.4)] * 3)
    apart = scores([near_truth(weight) for weight in (0.05, 0.4, 0.75)])
    b = scores([near_truth(0.2)], method="b")
    narrow, wide = (paired_difference(a, b, RESAMPLING).interval() for a in (same, apart))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    one = paired_difference(scores([near_truth(0.4)]), b, RESAMPLING)
    # Three equal models are one model.
    assert np.allclose(paired_difference(same, b, RESAMPLING).replicates, one.replicates)


def test_the_draws_of_seeds_are_shared_by_equal_seeds_and_independent_otherwise():
    def part(seeds):
        policies = [near_truth(weight) for weight in (0.05, 0.4, 0.75)]
        return mean_kl(scores(policies, seeds=seeds), Resampling(0, 4000)).replicates

    events_only = mean_kl(scores([near_truth(0.4)]), Resampling(0, 4000)).replicates
    first, again, other = part((0, 1, 2)), part((0, 1, 2)), part((5, 6, 7))
    assert np.array_equal(first, again)

    def from_seeds(replicates):  # what is left when the draw of events is taken out
        slope = np.polyfit(events_only, replicates, 1)
        return replicates - np.polyval(slope, events_only)

    assert abs(np.corrcoef(from_seeds(first), from_seeds(other))[0, 1]) < 0.1
    shares = RESAMPLING.of_seeds((0, 1, 2))
    assert np.allclose(shares.sum(axis=1), 1) and set(np.unique(shares * 3).round()) == {0, 1, 2, 3}


def test_one_draw_of_seeds_holds_for_all_data_sets():
    """A seed is one model: where it is better on both data sets, their mean is not surer than one of them."""
    policies = [near_truth(weight) for weight in (0.05, 0.4, 0.75)]
    training = {name: Training(EVENTS_OF_D, WINDOWS, "stance", "abc") for name in ("d1", "d2")}
    cells = {("m", name): Cell(scores(policies, data_set=name)) for name in training}
    table = MethodTable(cells, training, Resampling(0, 4000))
    assert np.std(table.kl("m", ALL).replicates) > 0.85 * np.std(table.kl("m", "d1").replicates)


# -- what may not be paired -------------------------------------------------------------------------------------------


def test_other_events_are_refused():
    a, b = scores([always(*UNIFORM)], method="a"), scores([always(*UNIFORM)], method="b", events=EVENTS_OF_D[:-1])
    with pytest.raises(InputError, match=r"the events of 'd' must be the same for 'a' and 'b', got 12 and 11 \('e11'"):
        paired_difference(a, b, RESAMPLING)
    with pytest.raises(InputError, match="must be judged on one data set, got 'd' and 'other'"):
        paired_difference(a, replace(a, data_set="other"), RESAMPLING)


def test_other_windows_are_refused():
    event = EVENTS_OF_D[5]
    whole = make_rollout(event, lambda turn, label: UNIFORM, WINDOWS)
    failed = make_rollout(event, lambda turn, label: None if turn in range(12, 16) else UNIFORM, WINDOWS)
    a, b = (MethodScores("m", "d", {0: [judge_rollouts(event, [r], WINDOWS)]}) for r in (whole, failed))
    with pytest.raises(InputError, match=r"windows of event 'e05' of 'd' must be the same .* got 4 and 3 windows"):
        paired_difference(a, b, RESAMPLING)


def test_training_seeds_of_one_method_must_be_judged_on_the_same_events():
    whole = scores([always(*UNIFORM)])
    with pytest.raises(InputError, match=r"must be the same for 'm' on 'd' \(seed 0\) and 'm' on 'd' \(seed 1\)"):
        MethodScores("m", "d", {0: whole.events, 1: whole.events[:-1]})
    with pytest.raises(InputError, match="must hold judged events for each seed"):
        MethodScores("m", "d", {0: []})


def test_events_in_another_order_are_the_same_events():
    a = scores([near_truth(0.2)], method="a")
    b = scores([near_truth(0.2)], method="b", events=EVENTS_OF_D[::-1])
    assert np.all(paired_difference(a, b, RESAMPLING).replicates == 0.0)


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    train = stream_events(6, seed=1, split="train")
    training = {
        "d1": Training([*train, *EVENTS_OF_D], WINDOWS, "stance", "abc"),
        "d2": Training(EVENTS_OF_D, WINDOWS, "stance", "abc"),
        "poll": Training([survey()], WAVES, "intention", "abc"),
    }
    cells = {}
    for name in training:
        kind = {"events": [survey()], "windows": WAVES} if name == "poll" else {}
        for method, weights in (("good", (0.7, 0.6)), ("bad", (0.1,))):
            policies = [near_truth(weight) for weight in weights]
            cells[method, name] = Cell(scores(policies, method=method, data_set=name, **kind))
        plans = cells["good", name].scores.plans
        judged = [judge_forecast(plan, Uniform(), training[name]) for plan in plans]
        cells["uniform", name] = Cell(MethodScores("uniform", name, {0: judged}))
    return MethodTable(cells, training, RESAMPLING)


def rows_of(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_means_are_over_data_sets_with_and_without_surveys(table):
    per_set = {name: table.kl("good", name).value for name in ("d1", "d2", "poll")}
    assert table.kl("good", ALL).value == pytest.approx(np.mean(list(per_set.values())))
    assert table.kl("good", EVENTS).value == pytest.approx((per_set["d1"] + per_set["d2"]) / 2)
    gain = table.gain("good", "bad", ALL)
    assert gain.value == pytest.approx(table.kl("bad", ALL).value - table.kl("good", ALL).value)
    assert gain.interval().low > 0
    assert table.difference("good", "bad", ALL).value == -gain.value
    assert lowest(table, ["bad", "good", "uniform"], ALL) == "good"


def test_rows_of_files(table):
    rows = table.kl_rows()
    assert all(set(row) == set(KL_COLUMNS) and row["status"] == COMPLETE for row in rows)
    good = rows_of(rows, method="good", dataset="d1")
    assert [row["training_seed"] for row in good] == [0, 1, "mean"]
    assert good[2]["kl"] == pytest.approx((good[0]["kl"] + good[1]["kl"]) / 2)
    assert good[2]["gain"] == pytest.approx(good[2]["reference_kl"] - good[2]["kl"])
    assert good[2]["kl_low"] < good[2]["kl"] < good[2]["kl_high"]
    assert [row["dataset"] for row in rows_of(rows, method="bad")] == ["d1", "d2", "poll", ALL, EVENTS]
    uniform = rows_of(rows, method="uniform", dataset="d1")[0]
    real = [judged.entropies[0] for judged in table.cells["uniform", "d1"].scores.events]
    assert uniform["entropy_ratio"] == pytest.approx(np.log(3) / np.mean(real))
    assert rows_of(rows, method="uniform", dataset="poll")[0]["best_constant"] is None
    pairs = table.paired_rows([("good", "bad")])
    assert all(set(row) == set(PAIRED_COLUMNS) and row["status"] == COMPLETE for row in pairs)
    assert [row["dataset"] for row in pairs] == ["d1", "d2", "poll", ALL, EVENTS]
    for row in pairs:
        assert row["difference"] == pytest.approx(row["kl_a"] - row["kl_b"])
        assert row["low"] < row["difference"] < row["high"]
        assert row["high"] < 0 or row["dataset"] == "poll"
    assert (pairs[0]["n_seeds_a"], pairs[0]["n_seeds_b"], pairs[0]["n_events"]) == (2, 1, 12)
    assert pairs[3]["n_events"] == 25


def test_a_missing_run_is_named_and_no_mean_goes_round_it(table):
    table.cells["good", "d2"] = Cell(None, "seed 0: no run; seed 1: 3 of 12 events")
    assert table.kl("good", ALL) is None and table.difference("good", "bad", ALL) is None
    assert table.missing("good", ALL) == "d2: seed 0: no run; seed 1: 3 of 12 events"
    rows = table.kl_rows()
    for scope in ("d2", ALL, EVENTS):
        [row] = rows_of(rows, method="good", dataset=scope)
        assert row["kl"] is None and "seed 0: no run" in row["status"]
    assert rows_of(rows, method="good", dataset="d1", training_seed="mean")[0]["status"] == COMPLETE
    status = {row["dataset"]: row["status"] for row in table.paired_rows([("good", "bad")])}
    assert status["d1"] == COMPLETE
    assert status["d2"].startswith("missing: good: seed 0: no run")
    assert status[ALL].startswith("missing: good: d2: seed 0")
    assert lowest(table, ["bad", "good"], ALL) is None


def test_a_missing_seed_is_named_and_keeps_the_method_out_of_the_mean(table):
    whole = table.cells["good", "d2"].scores
    one = MethodScores("good", "d2", {0: whole.seeds[0]})
    table.cells["good", "d2"] = Cell(one, "seed 1: no run")
    assert table.kl("good", "d2").value == pytest.approx(one.kl().mean())
    assert table.kl("good", ALL) is None
    [row] = rows_of(table.kl_rows(), method="good", dataset="d2")
    assert (row["n_seeds"], row["status"]) == (1, "missing: seed 1: no run")
    # Whoever forgets to say so is found out by the seeds themselves.
    table.cells["good", "d2"] = Cell(one)
    assert table.missing("good", ALL) == "other training seeds on some data sets"
    with pytest.raises(InputError, match="must say why a cell has no scores"):
        Cell(None)


def test_a_method_that_was_not_asked_for_is_missing(table):
    del table.cells["bad", "poll"]
    assert table.missing("bad", ALL) == "poll: not asked for"
    assert table.kl("bad", EVENTS) is not None
    assert table.difference("good", "bad", "poll") is None


def test_methods_judged_on_other_events_are_refused_by_the_table(table):
    table.cells["bad", "d1"] = Cell(scores([near_truth(0.1)], method="bad", data_set="d1", events=EVENTS_OF_D[:9]))
    with pytest.raises(InputError, match="the events of 'd1' must be the same for 'good' and 'bad'"):
        table.paired_rows([("good", "bad")])
