"""Softmax regression on carry-forward: what it learns, and when it stays `carry`."""

import numpy as np
import pytest
from made_events import CATEGORIES, make_event

from mf_llm.evaluation.distributions import normalise
from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.evaluation.regression import RIDGES, CarryRegressed, best_ridge, fit_ridge

WINDOWS = Windows(8, 8)


def fitted_shares(offsets, targets, ridge):
    weights = fit_ridge(offsets, targets, ridge)
    features = np.concatenate([offsets - offsets.mean(axis=1, keepdims=True), np.ones((len(offsets), 1))], axis=1)
    return normalise(np.exp(offsets + features @ weights))


def test_a_strong_penalty_leaves_carry_and_a_weak_one_finds_the_shift():
    rng = np.random.default_rng(0)
    start = rng.dirichlet([2, 2, 2], size=200)
    offsets, shift = np.log(start), np.array([0.8, 0.0, -0.8])
    targets = normalise(start * np.exp(shift))
    assert fitted_shares(offsets, targets, 1e6) == pytest.approx(start, abs=1e-4)
    assert fitted_shares(offsets, targets, 1e-6) == pytest.approx(targets, abs=0.01)


def test_the_penalty_is_chosen_by_what_carries_over_to_other_folds():
    rng = np.random.default_rng(0)
    start = rng.dirichlet([2, 2, 2], size=60)
    folds = np.arange(60) % 5
    learnable = normalise(start * np.exp([0.8, 0.0, -0.8]))
    assert best_ridge(np.log(start), learnable, folds) == min(RIDGES)
    noise = normalise(start * np.exp(rng.normal(0, 0.5, size=start.shape)))
    assert best_ridge(np.log(start), noise, folds) > min(RIDGES)


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
