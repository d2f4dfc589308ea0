"""`trajectory`: closed forms, what it learns, and when it stays `carry`."""

import logging

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey

from mf_llm.evaluation import trajectory_forecaster
from mf_llm.evaluation.distributions import normalise
from mf_llm.evaluation.forecasters import Carry, Training, forecast
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.evaluation.trajectory_forecaster import Trajectory

WINDOWS = Windows(8, 8)


def known(labels, windows=WINDOWS, **fields) -> Training:
    events = [make_event(text, f"t{n}", "train", **fields) for n, text in enumerate(labels)]
    return Training(events, windows, "stance", CATEGORIES)


def drawn(rng, shares, n) -> str:
    return "".join(rng.choice(list(CATEGORIES), p=share) for share in np.resize(shares, (n, 3)))


def test_constant_trajectories_are_forecast_as_constant():
    training = known(["a" * 32, "b" * 32, "c" * 32] * 5)
    plan = plan_event(make_event("b" * 48), WINDOWS)
    q = Trajectory()(plan.event, plan, training)
    assert q.shape == (5, 3)
    assert np.ptp(q, axis=0) == pytest.approx([0, 0, 0], abs=1e-9)
    # What they teach beside: that crowds are more constant than `carry` expects.
    assert q[0, 1] > Carry()(plan.event, plan, training)[1]


def test_without_anything_to_learn_it_is_carry():
    rng = np.random.default_rng(0)
    still = drawn(rng, [0.5, 0.3, 0.2], 32)
    plan = plan_event(make_event(still), WINDOWS)
    few, one_group = known(["abcabcabaabbccab"] * 9), known(["abcabcabaabbccab"] * 12, group="g")
    for training in (few, one_group):
        assert Trajectory().fit(training).weights is None
        q = forecast(Trajectory(), plan, training)
        np.testing.assert_array_equal(q, np.tile(Carry()(plan.event, plan, training), (3, 1)))


def test_an_infinite_penalty_is_carry(monkeypatch):
    training = known(["aaaaaabb" + "bbbbbbbb" * 2] * 20)
    plan = plan_event(make_event("aaaaaaab" + "bbbbbbbb" * 2), WINDOWS)
    carry = Carry()(plan.event, plan, training)
    assert np.abs(Trajectory()(plan.event, plan, training) - carry).max() > 0.1
    monkeypatch.setattr(trajectory_forecaster, "RIDGES", (1e12,))
    monkeypatch.setattr(trajectory_forecaster, "DISCOUNTS", (1.0,))
    again = known(["aaaaaabb" + "bbbbbbbb" * 2] * 20)
    assert Trajectory()(plan.event, plan, again) == pytest.approx(np.tile(carry, (2, 1)), abs=1e-6)


def test_crowds_that_turn_slowly_are_followed_window_by_window():
    windows = Windows(48, 8)
    text = "a" * 48 + "aaaaaaab" + "aaaaaabb" + "aaaaabbb" + "aaaabbbb"
    turned = [text.translate(str.maketrans("abc", order)) for order in ("abc", "bca", "cab")]
    training = known(turned * 6, windows)
    plan = plan_event(make_event(turned[1]), windows)
    fit = Trajectory().fit(training)
    assert fit.relaxation > 0 and fit.n_failed == 0
    q = Trajectory()(plan.event, plan, training)
    assert np.all(np.diff(q[:, 1]) < -0.05) and np.all(np.diff(q[:, 2]) > 0.05)
    assert plan.score(q).mean() < 0.3 * plan.score(Carry()(plan.event, plan, training)).mean()


def test_newer_labels_count_more_where_that_helps():
    rng = np.random.default_rng(1)
    windows = Windows(48, 8)
    texts = []
    for _ in range(40):
        old, new = rng.dirichlet([1, 1, 1], size=2)
        texts.append(drawn(rng, old, 32) + drawn(rng, new, 32))
    training = known(texts, windows)
    assert Trajectory().fit(training).discount < 1


def test_the_same_events_give_the_same_forecast():
    rng = np.random.default_rng(2)
    texts = [drawn(rng, rng.dirichlet([1, 2, 3]), 24) for _ in range(15)]
    plan = plan_event(make_event(texts[0] + "abc" * 3), WINDOWS)
    q = [forecast(Trajectory(), plan, known(texts)) for _ in range(2)]
    np.testing.assert_array_equal(*q)
    assert q[0].sum(axis=1) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("texts", [["a" * 16] * 12, ["ab" * 8] * 12, ["a" * 8 + "b" * 8] * 12])
def test_categories_that_nobody_chose_leave_it_finite(texts):
    plan = plan_event(make_event("c" * 8 + "abcabcab"), WINDOWS)
    q = forecast(Trajectory(), plan, known(texts))
    assert np.all(q > 0) and np.all(np.isfinite(q))


@pytest.mark.parametrize("n_waves", [2, 3])
def test_surveys_stay_carry(n_waves):
    people = [("a", 1.0, {}), ("b", 2.0, {}), ("c", 0.5, {})]
    waves = {f"w{number}": people for number in range(n_waves)}
    windows = Windows(0, 0, waves=True)
    training = Training([make_survey(waves, "t", "train")], windows, "intention", CATEGORIES)
    plan = plan_event(make_survey(waves), windows)
    assert forecast(Trajectory(), plan, training) == pytest.approx(Carry()(plan.event, plan, training)[None])


def test_a_regression_that_fails_drops_its_setting_and_is_counted(monkeypatch, caplog):
    training = known(["aaaaaabb" + "bbbbbbbb" * 2] * 20)
    monkeypatch.setattr(trajectory_forecaster, "RIDGES", (np.nan, 0.01))
    with caplog.at_level(logging.WARNING, logger=trajectory_forecaster.__name__):
        fit = Trajectory().fit(training)
    n_settings = len(trajectory_forecaster.DISCOUNTS) * len(trajectory_forecaster.RELAXATIONS)
    assert fit.n_failed == n_settings
    assert f"{n_settings} settings could not be tried" in caplog.text
    plan = plan_event(make_event("aaaaaaab" + "bbbbbbbb"), WINDOWS)
    assert forecast(Trajectory(), plan, training)[0, 1] > 0.8


def test_the_model_equation():
    training = known(["aaaaaabb" + "bbbbbbbb" * 2] * 20)
    plan = plan_event(make_event("aaaabbbc" + "abcabcab" * 3), WINDOWS)
    fit, prior = Trajectory().fit(training), training.prior
    weights = fit.discount ** (np.arange(8)[::-1] / 8)
    counts = np.array([weights[:4].sum(), weights[4:7].sum(), weights[7]])
    level = (counts + training.alpha * prior) / (weights.sum() + training.alpha)
    inputs = np.append(level - prior, 1.0)
    start, limit = level + inputs @ fit.weights[:4], level + inputs @ fit.weights[4:]
    q = [np.maximum(limit + fit.relaxation**h * (start - limit), np.minimum(level, 1e-3)) for h in (1, 2, 3)]
    assert Trajectory()(plan.event, plan, training) == pytest.approx(normalise(np.array(q)))
