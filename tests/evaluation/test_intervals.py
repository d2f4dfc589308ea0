"""The bootstrap: what is drawn together, what is paired."""

import numpy as np
import pytest
from made_events import make_event

from mf_llm.evaluation.intervals import centred, event_draws, generator, interval, window_interval
from mf_llm.evaluation.scoring import Gains, Replicated


def blocks(group: str, n: int, first: int = 0) -> list:
    return [make_event("a", f"{group}{n}", group=group, block=first + n) for n in range(n)]


def test_blocks_of_a_group_are_drawn_in_runs_of_three():
    events = blocks("g", 9)
    draws = event_draws(events, np.random.default_rng(0), 500)
    assert draws.shape == (500, 9)
    for sample in draws.reshape(-1, 3):
        assert (np.diff(sample) % 9 == 1).all()
    assert len(np.unique(draws[:, 0])) == 9


def test_runs_follow_the_block_numbers_not_the_order_of_events():
    events = blocks("g", 6)[::-1]
    draws = event_draws(events, np.random.default_rng(0), 200)
    assert (np.diff(draws.reshape(-1, 3), axis=1) % 6 == 5).all()


def test_runs_never_mix_groups_and_every_event_is_equally_likely():
    events = blocks("g", 5) + blocks("h", 2) + [make_event("a", f"lone{n}") for n in range(2)]
    draws = event_draws(events, np.random.default_rng(0), 20_000)
    shares = np.bincount(draws.ravel(), minlength=9) / draws.size
    assert shares == pytest.approx(np.full(9, 1 / 9), abs=0.01)
    first_two = draws[:, :2]
    inside = first_two[:, 0] == 5
    # Block 5 is the first of group h: its run goes on with block 6.
    assert (first_two[inside, 1] == 6).all()


def test_events_without_groups_are_drawn_one_by_one():
    events = [make_event("a", str(n)) for n in range(50)]
    draws = event_draws(events, np.random.default_rng(0), 2000)
    means = np.arange(50.0)[draws].mean(axis=1)
    assert means.std() == pytest.approx(np.arange(50).std() / np.sqrt(50), rel=0.05)


def test_a_single_short_group_has_no_interval():
    draws = event_draws(blocks("g", 2), np.random.default_rng(0), 100)
    score = Replicated.mean([1.0, 2.0], draws).interval()
    assert (score.value, score.low, score.high) == (1.5, None, None)


def test_window_intervals():
    rng = np.random.default_rng(0)
    assert window_interval(np.array([0.3]), rng).low is None
    score = window_interval(np.array([0.0, 1.0] * 50), rng)
    assert score.value == 0.5
    assert (score.low, score.high) == pytest.approx((0.4, 0.6), abs=0.02)


def test_centred_replicates_have_the_value_as_their_mean():
    assert centred(0.5, np.array([1.0, 2.0, 3.0])).tolist() == [-0.5, 0.5, 1.5]


def test_generators_are_independent_of_each_other():
    first = generator(0, "events", "a").random()
    assert first == generator(0, "events", "a").random()
    assert len({first, generator(0, "events", "b").random(), generator(1, "events", "a").random()}) == 3


def test_differences_are_paired():
    draws = event_draws([make_event("a", str(n)) for n in range(20)], np.random.default_rng(0), 500)
    scores = np.random.default_rng(1).random(20)
    difference = Replicated.mean(scores + 0.1, draws) - Replicated.mean(scores, draws)
    assert np.ptp(difference.replicates) < 1e-12
    assert difference.value == pytest.approx(0.1)


def test_mean_gain_and_pooled_skill():
    gains = Gains()
    gains.add("x", Replicated(0.2, np.array([0.1, 0.3])), Replicated(0.4, np.array([0.4, 0.4])))
    gains.add("y", Replicated(0.0, np.array([0.1, -0.1])), Replicated(0.6, np.array([0.6, 0.4])))
    assert gains.mean_gain().value == pytest.approx(0.1)
    assert gains.pooled_skill().value == pytest.approx(0.2)
    assert gains.pooled_skill().replicates == pytest.approx([0.2, 0.25])


def test_pooled_skill_without_a_margin_is_no_number():
    gains = Gains()
    gains.add("x", Replicated(0.2, np.array([0.1, 0.3])), Replicated(-0.1, np.array([-0.1, 0.4])))
    assert np.isnan(gains.pooled_skill().value)
    assert gains.pooled_skill().interval().low is None


def test_percentiles():
    score = interval(0.5, np.linspace(0, 1, 1001))
    assert (score.low, score.high) == pytest.approx((0.025, 0.975))
    assert str(score) == "0.500 [0.025, 0.975]"
