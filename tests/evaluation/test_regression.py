"""Softmax regression on carry-forward: what it learns, and when it stays `carry`."""

import numpy as np
import pytest
from made_events import CATEGORIES, make_event

from mf_llm.evaluation.distributions import normalise
from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.evaluation.regression import RIDGES, CarryRegressed, best_ridge, event_folds, fit_ridge, log_odds, softmax

WINDOWS = Windows(8, 8)


def fitted_shares(offsets, targets, ridge):
    features = np.concatenate([offsets - offsets.mean(axis=1, keepdims=True), np.ones((len(offsets), 1))], axis=1)
    assert log_odds(offsets) == pytest.approx(features)
    return normalise(np.exp(offsets + features @ fit_ridge(offsets, features, targets, ridge)))


def test_a_strong_penalty_leaves_carry_and_a_weak_one_finds_the_shift():
    rng = np.random.default_rng(0)
    start = rng.dirichlet([2, 2, 2], size=200)
    offsets, shift = np.log(start), np.array([0.8, 0.0, -0.8])
    targets = normalise(start * np.exp(shift))
    assert fitted_shares(offsets, targets, 1e6) == pytest.approx(start, abs=1e-4)
    assert fitted_shares(offsets, targets, 1e-6) == pytest.approx(targets, abs=0.01)


def test_each_input_can_have_its_own_penalty():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 2))
    offsets = np.log(rng.dirichlet([2, 2, 2], size=200))
    true = np.array([[0.5, 0.0, -0.5], [-0.4, 0.8, -0.4]])
    weights = fit_ridge(offsets, inputs, softmax(offsets + inputs @ true), np.array([1e-6, 1e6]))
    assert weights[0] == pytest.approx(true[0], abs=0.15)
    assert weights[1] == pytest.approx([0, 0, 0], abs=1e-6)
    both = fit_ridge(offsets, inputs, softmax(offsets + inputs @ true), 1e-8)
    assert both == pytest.approx(true, abs=0.01)


def test_the_penalty_is_chosen_by_what_carries_over_to_other_folds():
    rng = np.random.default_rng(0)
    start = rng.dirichlet([2, 2, 2], size=60)
    folds = np.arange(60) % 5
    offsets = np.log(start)
    learnable = normalise(start * np.exp([0.8, 0.0, -0.8]))
    assert best_ridge(offsets, log_odds(offsets), learnable, folds) == min(RIDGES)
    noise = normalise(start * np.exp(rng.normal(0, 0.5, size=start.shape)))
    assert best_ridge(offsets, log_odds(offsets), noise, folds) > min(RIDGES)


def test_blocks_of_a_group_stay_in_one_fold():
    def folds(groups):
        events = [
            make_event("a" * 16, f"t{n}", "train", group=group, block=n if group else None)
            for n, group in enumerate(groups)
        ]
        return event_folds(Training(events, WINDOWS, "stance", CATEGORIES))

    assert folds("aaaaabbbbbcc").tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert sorted(set(folds([None] * 12).tolist())) == [0, 1, 2, 3, 4]
    assert folds("a" * 12) is None
    assert folds([None] * 9) is None


def test_too_few_training_events_leave_carry():
    events = [make_event("abcabcabaabbccab", f"t{n}", "train") for n in range(9)]
    training = Training(events, WINDOWS, "stance", CATEGORIES)
    plan = plan_event(make_event("aaaabbbbaabbccab"), WINDOWS)
    assert CarryRegressed()(plan.event, plan, training) == pytest.approx(Carry()(plan.event, plan, training), abs=1e-3)


def test_crowds_that_always_turn_are_learned():
    events = [make_event("aaaaaabb" + "bbbbbbbb" * 2, f"t{n}", "train") for n in range(20)]
    training = Training(events, WINDOWS, "stance", CATEGORIES)
    plan = plan_event(make_event("aaaaaaab" + "bbbbbbbb"), WINDOWS)
    regressed = CarryRegressed()(plan.event, plan, training)
    assert regressed.sum() == pytest.approx(1)
    assert regressed[1] > 0.9 > Carry()(plan.event, plan, training)[1]
