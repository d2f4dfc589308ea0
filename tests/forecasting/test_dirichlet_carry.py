"""The carry-forward ensemble against its closed form."""

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_rollout, make_survey
from scipy.stats import betabinom

from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.forecasting import Forecast, carry_forecast
from mf_llm.forecasting.members import anchor_concentration
from mf_llm.forecasting.observed_windows import forecast_plan


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


def simulated(event, events, windows):
    """The forecast and the plan of an anchored rollout without adapters: it is carry-forward."""
    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor, tiny_backbone, tiny_tokenizer
    from mf_llm.simulation import simulate

    model, processor = (
        MFLLMForSimulation.from_backbones(tiny_backbone("llama")),
        MFLLMProcessor(tiny_tokenizer("llama")),
    )
    options = {"anchored": True, "signal": "statistics", "action": "choice"}
    config = protocol_config(events, options if windows.waves else options | {"warm_up": windows.warm_up})
    rollout = simulate(model, processor, event, config, progress=False)
    plan = forecast_plan(event, [rollout], windows)
    return Forecast.from_rollouts([rollout], plan), plan


def test_an_anchored_rollout_without_adapters_is_the_carry_forward_ensemble():
    windows = Windows(4, 2)
    events = [make_event("aabbcc" * 3, "t", "train"), make_event("aabb" + "ccabca", "e", "test")]
    forecast, plan = simulated(events[1], events, windows)
    carry = carry_forecast(plan, Training(events, windows, "stance", CATEGORIES))
    assert forecast.concentration.tolist() == carry.concentration.tolist()
    assert forecast.shares == pytest.approx(carry.shares)
    assert len(forecast.names) == 3


def test_of_a_survey_too_with_the_effective_size_of_its_last_wave():
    waves = {"w1": [("c", 1, {})] * 3, "w2": [("a", 3, {}), ("b", 1, {})], "w3": [("a", 1, {})] * 2}
    windows = Windows(0, 0, waves=True)
    event = make_survey(waves)
    forecast, plan = simulated(event, [event], windows)
    carry = carry_forecast(plan, Training([event], windows, "intention", CATEGORIES))
    assert forecast.concentration.tolist() == carry.concentration.tolist() == [16 / 10 + 10]
    assert forecast.shares == pytest.approx(carry.shares)


def test_a_rollout_that_is_not_anchored_scatters_about_nothing():
    rollout = make_rollout(make_event("aabbccab" + "aaab"), lambda turn, label: (0.5, 0.3, 0.2), Windows(8, 4))
    assert anchor_concentration(rollout) == np.inf
    rollout.config |= {"anchored": True, "anchor_strength": 5.0}
    assert anchor_concentration(rollout) == 13
