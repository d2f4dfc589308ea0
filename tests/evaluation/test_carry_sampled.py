"""`carry-sampled`: people drawn from `carry`, counted and smoothed as the protocol has it."""

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey

from mf_llm.errors import InputError
from mf_llm.evaluation.carry_sampled import CarrySampled
from mf_llm.evaluation.distributions import kl_divergence
from mf_llm.evaluation.forecasters import Carry, Training, forecast
from mf_llm.evaluation.judged_event import judge_forecast
from mf_llm.evaluation.protocol import Windows, plan_event

WINDOWS = Windows(8, 8)


def made(labels="aaaabbbc" + "abcabcab" * 3):
    training = Training([make_event("abcabcab" * 2, "t", "train")], WINDOWS, "stance", CATEGORIES)
    return plan_event(make_event(labels), WINDOWS), training


def test_shares_are_those_of_whole_people_plus_one_half():
    plan, training = made()
    q = forecast(CarrySampled(), plan, training)
    counts = q * (16 * 8 + 1.5) - 0.5
    assert counts == pytest.approx(counts.round()) and counts.sum(axis=1) == pytest.approx([128] * 3)
    assert np.all(counts >= -1e-9)


def test_many_rollouts_are_carry_and_few_are_noisier():
    plan, training = made("aaaabbbc" + "abcabcab" * 30)
    carry = Carry()(plan.event, plan, training)
    assert CarrySampled(n_rollouts=100_000)(plan.event, plan, training) == pytest.approx(
        np.tile(carry, (30, 1)), abs=0.01
    )
    loss = [kl_divergence(carry, CarrySampled(n_rollouts=n)(plan.event, plan, training)).mean() for n in (4, 16, 64)]
    assert loss[0] > 2 * loss[1] > 4 * loss[2] > 0
    # (K - 1) / 2n nats for n people, in expectation.
    assert loss[2] == pytest.approx(2 / (2 * 64 * 8), rel=0.5)


def test_draws_follow_from_seed_event_and_window_alone():
    plan, training = made()
    q = CarrySampled(seed=1)(plan.event, plan, training)
    np.testing.assert_array_equal(q, CarrySampled(seed=1, name="renamed")(plan.event, plan, training))
    np.testing.assert_array_equal(
        q[1:], CarrySampled(seed=1)(plan.event, plan.selected([False, True, True]), training)
    )
    assert np.abs(q - CarrySampled(seed=2)(plan.event, plan, training)).max() > 0
    assert len(np.unique(q, axis=0)) > 1


def test_it_is_judged_as_a_sampled_readout():
    plan, training = made()
    judged = judge_forecast(plan, CarrySampled(), training)
    assert judged.sampled and judged.entropies is None
    np.testing.assert_array_equal(judged.q, CarrySampled()(plan.event, plan, training))
    assert not judge_forecast(plan, Carry(), training).sampled


def test_a_smoothed_share_below_the_clamp_is_not_raised():
    waves = {"w1": [("a", 1.0, {})] * 2000, "w2": [("a", 1.0, {})] * 2000}
    windows = Windows(0, 0, waves=True)
    training = Training([], windows, "intention", CATEGORIES)
    plan = plan_event(make_survey(waves), windows)
    rare = CarrySampled(n_rollouts=16)
    q = judge_forecast(plan, rare, training).q
    assert q.min() > 0
    np.testing.assert_array_equal(q, rare(plan.event, plan, training))


def test_people_of_a_survey_count_with_their_weights():
    windows = Windows(0, 0, waves=True)
    waves = {"w1": [("a", 1.0, {}), ("b", 1.0, {})], "w2": [("a", 3.0, {}), ("a", 1.0, {})]}
    plan, training = plan_event(make_survey(waves), windows), Training([], windows, "intention", CATEGORIES)
    q = CarrySampled(n_rollouts=1)(plan.event, plan, training)[0]
    # One rollout, weights 1.5 and 0.5: what is drawn can only be sums of these.
    assert set((q * 3.5 - 0.5).round(9)) <= {0.0, 0.5, 1.5, 2.0}


def test_there_must_be_a_rollout():
    with pytest.raises(InputError, match="`n_rollouts` must be at least 1"):
        CarrySampled(n_rollouts=0)
