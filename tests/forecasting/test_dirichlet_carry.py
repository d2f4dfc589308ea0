"""The carry-forward ensemble against its closed form."""

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey
from scipy.stats import betabinom

from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.forecasting import carry_forecast


def test_it_is_the_posterior_of_a_crowd_that_does_not_change():
    windows = Windows(4, 2)
    training = Training([make_event("aabbcc" * 3, "t", "train")], windows, "stance", CATEGORIES)
    plan = plan_event(make_event("aabb" + "ccabc"), windows)
    forecast = carry_forecast(plan, training, "d")
    assert training.alpha == 100
    assert forecast.mean() == pytest.approx(np.tile((np.array([2, 2, 0]) + 100 / 3) / 104, (2, 1)))
    assert forecast.mean()[0] == pytest.approx(Carry()(plan.event, plan, training))
    assert forecast.concentration.tolist() == [104, 104]
    assert (forecast.names, forecast.n_people, forecast.readout, forecast.data_set) == (
        ("1", "2"),
        (2, 2),
        "carry",
        "d",
    )
    alpha = 2 + 100 / 3
    assert forecast.count_cdf()[0][0] == pytest.approx(betabinom.cdf([0, 1, 2], 2, alpha, 104 - alpha))


def test_what_people_do_after_the_warm_up_does_not_enter():
    windows = Windows(4, 2)
    training = Training([], windows, "stance", CATEGORIES)
    one, two = (carry_forecast(plan_event(make_event("aabb" + rest), windows), training) for rest in ("ccab", "aaaa"))
    assert (one.shares == two.shares).all()


def test_a_survey_carries_its_last_wave_with_its_effective_size():
    waves = {"w1": [("c", 1, {})], "w2": [("a", 3, {}), ("b", 1, {})], "w3": [("a", 1, {})]}
    windows = Windows(0, 0, waves=True)
    plan = plan_event(make_survey(waves), windows)
    forecast = carry_forecast(plan, Training([], windows, "intention", CATEGORIES))
    assert forecast.concentration == pytest.approx([16 / 10 + 10])
    assert forecast.mean()[0] == pytest.approx((np.array([1.5, 0.5, 0]) + 10 / 3) / 12)
