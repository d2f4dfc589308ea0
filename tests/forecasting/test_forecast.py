"""`Forecast`: from rollouts, its two layers of uncertainty, its files and its errors."""

from dataclasses import replace

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_rollout, make_survey
from made_forecasts import make_forecast
from scipy.stats import binom

from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import Windows
from mf_llm.forecasting import Forecast
from mf_llm.forecasting.members import without_sampling
from mf_llm.forecasting.observed_windows import forecast_plan, window_counts, window_sizes
from mf_llm.simulation.rollout import StepRow

WINDOWS = Windows(8, 4)
EVENT = make_event("aabbccab" + "aaab" + "bbbb" + "ccab")
TILTS = ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5), (0.3, 0.4, 0.3))


def ensemble(event=EVENT, windows=WINDOWS, **fields):
    return [
        make_rollout(event, lambda turn, label, tilt=tilt: tilt, windows, seed=seed, **fields)
        for seed, tilt in enumerate(TILTS)
    ]


def forecast_of(rollouts, event=EVENT, windows=WINDOWS):
    return Forecast.from_rollouts(rollouts, forecast_plan(event, rollouts, windows))


def test_members_are_the_shares_of_the_people_of_each_window():
    forecast = forecast_of(ensemble())
    assert forecast.shares == pytest.approx(np.repeat(np.array(TILTS)[:, None], 3, axis=1))
    assert (forecast.names, forecast.n_people, forecast.seeds) == (("1", "2", "3"), (4, 4, 4), (0, 1, 2))
    assert (forecast.unit, forecast.readout, forecast.joint) == ("window", "exact", True)
    assert forecast.mean()[0] == pytest.approx(np.mean(TILTS, axis=0))
    assert forecast.median()[0] == pytest.approx([0.3, 0.3, 0.3])


def test_windows_that_a_rollout_does_not_reach_are_dropped_or_refused():
    rollouts = ensemble()
    rollouts[1].actions = rollouts[1].actions[:18]
    plan = forecast_plan(EVENT, rollouts, WINDOWS)
    assert plan.names == ("1", "2")
    assert Forecast.from_rollouts(rollouts, plan).names == ("1", "2")
    whole = forecast_plan(EVENT, ensemble(), WINDOWS)
    with pytest.raises(InputError, match="not all reached with seed 1"):
        Forecast.from_rollouts(rollouts, whole)


def test_a_plan_of_another_event_is_refused():
    other = make_event("aabbccab" + "cccc" * 3, "other")
    plan = forecast_plan(other, ensemble(other), WINDOWS)
    with pytest.raises(InputError, match="`plan` must be one of event 'e'"):
        Forecast.from_rollouts(ensemble(), plan)


def test_nothing_of_what_people_did_after_the_warm_up_enters():
    other = make_event("aabbccab" + "cccc" + "acac" + "bbbb")
    one, two = forecast_of(ensemble()), forecast_of(ensemble(other), other)
    assert (one.shares == two.shares).all()
    assert one.n_people == two.n_people


def test_steps_are_forecast_without_a_plan():
    rollouts = ensemble()
    for rollout, tilt in zip(rollouts, TILTS, strict=True):
        rollout.steps = [
            StepRow(step=t, real=t < 2, wave=None, n_people=4, n_failed=t, signal="", signal_failure=None, shares=tilt)
            for t in range(4)
        ]
    forecast = Forecast.from_rollouts(rollouts)
    assert (forecast.unit, forecast.names, forecast.n_people) == ("step", ("2", "3"), (4, 4))
    assert forecast.shares[:, 1] == pytest.approx(np.array(TILTS))
    assert forecast.n_failed == 3 * (2 + 3)
    rollouts[2].steps[3] = replace(rollouts[2].steps[3], shares=None)
    with pytest.raises(InputError, match="got none at step 3 of event 'e' with seed 2"):
        Forecast.from_rollouts(rollouts)
    rollouts[2].steps.pop()
    with pytest.raises(InputError, match="must have simulated the same steps"):
        Forecast.from_rollouts(rollouts)


def test_a_sampled_readout_keeps_only_the_spread_that_sampling_does_not_explain():
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.2])
    same = rng.multinomial(16, p, size=(400, 1)) / 16
    left = without_sampling(same, np.array([16.0]))
    assert left.std(axis=0).max() < 0.35 * same.std(axis=0).max()
    crowds = rng.dirichlet(12 * p, size=400)
    seen = np.stack([rng.multinomial(16, crowd) for crowd in crowds])[:, None] / 16
    found = without_sampling(seen, np.array([16.0]))
    assert found.std(axis=0)[0] == pytest.approx(crowds.std(axis=0), rel=0.15)
    assert found.mean(axis=0)[0] == pytest.approx(seen.mean(axis=0)[0], abs=2e-3)
    assert (found > 0).all()


def test_what_no_rollout_drew_gets_half_a_person():
    found = without_sampling(np.tile([1.0, 0.0, 0.0], (2, 1, 1)), np.array([16.0]))
    assert found[:, 0] == pytest.approx(np.array([[32.5, 0.5, 0.5]] * 2) / 33.5)


def test_sampled_rollouts_make_a_forecast():
    rollouts = [
        make_rollout(EVENT, lambda turn, label, k=k: k, WINDOWS, seed=n, readout="sampled")
        for n, k in enumerate("aab")
    ]
    forecast = forecast_of(rollouts)
    assert forecast.readout == "sampled"
    # All people of a rollout agree: sampling explains nothing of it.
    assert forecast.mean()[0] == pytest.approx(np.array([8.5, 4.5, 0.5]) / 13.5)


def test_failed_actions_are_counted_and_left_out():
    rollouts = ensemble()
    broken = make_rollout(EVENT, lambda turn, label: None if turn == 8 else (1, 0, 0), WINDOWS, seed=9)
    forecast = forecast_of([*rollouts, broken])
    assert forecast.n_failed == 1
    assert forecast.shares[3, 0, 0] == pytest.approx(1, abs=1e-3)


def test_the_two_layers():
    forecast = make_forecast([[[0.3, 0.7]], [[0.3, 0.7]]])
    # Two alike members: no spread between rollouts, and still 16 people are a sample.
    low, high = forecast.bands([0.8])[0.8]
    assert low[0] == pytest.approx([0.3, 0.7])
    assert high[0] == pytest.approx([0.3, 0.7])
    low, high = forecast.predictive_bands([0.8])[0.8]
    assert low[0] == pytest.approx(binom.ppf(0.1, 16, [0.3, 0.7]) / 16)
    assert high[0] == pytest.approx(binom.ppf(0.9, 16, [0.3, 0.7]) / 16)
    assert forecast.count_cdf()[0][0] == pytest.approx(binom.cdf(np.arange(17), 16, 0.3))
    scattered = make_forecast([[0.3, 0.7]], 10.0)
    assert (scattered.bands([0.8])[0.8][1] > 0.4).any()
    assert (scattered.predictive_bands([0.8])[0.8][1] > high).any()


def test_windows_of_different_sizes():
    forecast = make_forecast([[0.3, 0.7], [0.3, 0.7]], n_people=4)
    forecast = replace(forecast, n_people=(4, 9))
    first, second = forecast.count_cdf()
    assert second[0] == pytest.approx(binom.cdf(np.arange(10), 9, 0.3))
    assert first.shape == (2, 5)
    assert forecast.predictive_counts(None, 5, key=1).sum(axis=2).tolist() == [[4, 9]] * 5
    assert forecast.predictive_counts(100, 5, key=1).sum(axis=2).tolist() == [[100, 100]] * 5


def test_a_map_of_levels_moves_both_layers():
    # Levels .25 and .75 become .4 and .6: the forecast was not sure enough.
    levels = ((0.0, 0.25, 0.75, 1.0), (0.0, 0.4, 0.6, 1.0))
    plain = make_forecast([[0.3, 0.7]], 10.0)
    mapped = replace(plain, level_map=levels)
    assert mapped.count_cdf()[0] == pytest.approx(np.interp(plain.count_cdf()[0], *levels))
    assert mapped.bands([0.2])[0.2][0] == pytest.approx(plain.bands([0.5])[0.5][0])
    assert mapped.predictive_bands([0.2])[0.2][1] == pytest.approx(plain.predictive_bands([0.5])[0.5][1])
    assert not mapped.joint
    with pytest.raises(InputError, match="recalibrated category by category"):
        mapped.predictive_counts(None, 2, key=0)


def test_table():
    frame = forecast_of(ensemble()).to_frame(levels=(0.5, 0.95))
    assert len(frame) == 3 * 3
    assert frame["name"].tolist() == ["1"] * 3 + ["2"] * 3 + ["3"] * 3
    assert frame["category"].tolist() == list(CATEGORIES) * 3
    assert frame["mean"][:3].tolist() == pytest.approx(np.mean(TILTS, axis=0))
    for name in ("low_50", "high_50", "low_95", "high_95", "counted_low_95", "counted_high_95"):
        assert name in frame
    assert (frame["low_95"] <= frame["median"]).all()
    assert (frame["median"] <= frame["high_95"]).all()
    with pytest.raises(InputError, match="`levels` must lie between 0 and 1, got 95"):
        make_forecast([[0.3, 0.7]]).bands([95])


def test_files(tmp_path):
    forecast = forecast_of(ensemble())
    forecast = replace(forecast, concentration=[4.0, np.inf, 8.0], level_map=((0.0, 0.5, 1.0), (0.0, 0.4, 1.0)))
    found = Forecast.load(forecast.save(tmp_path / "sub" / "f.json"))
    for name in forecast.__dataclass_fields__:
        one, other = getattr(forecast, name), getattr(found, name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, name
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["f.json"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_files_that_hold_no_forecast(tmp_path, text):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"f\.json must"):
        Forecast.load(path)
    with pytest.raises(InputError, match=r"none\.json must be a forecast"):
        Forecast.load(tmp_path / "none.json")


def test_what_is_no_ensemble_is_refused():
    first, second, third = ensemble()
    with pytest.raises(InputError, match="at least one rollout"):
        Forecast.from_rollouts([])
    with pytest.raises(InputError, match="several of event 'e' with seed 0"):
        Forecast.from_rollouts([first, first])
    other = make_rollout(make_event("ab" * 10, "other"), lambda turn, label: TILTS[0], WINDOWS, seed=5)
    changes = {
        "event": other,
        "dimension": replace(second, dimension="mood"),
        "categories": replace(second, categories=CATEGORIES[::-1]),
        "configuration": replace(second, config={"readout": "exact", "signal": "none"}),
        "model": replace(second, versions={"weights": "x"}),
        "warm-up": make_rollout(EVENT, lambda turn, label: TILTS[0], Windows(12, 4), seed=5),
    }
    for what, changed in changes.items():
        with pytest.raises(InputError, match=f"must have the same {what}, but"):
            Forecast.from_rollouts([first, changed])
    bare = [replace(rollout, dimension=None) for rollout in (first, third)]
    with pytest.raises(InputError, match="got free text"):
        Forecast.from_rollouts(bare)


def test_a_plan_needs_simulated_people_of_the_same_event():
    rollouts = ensemble()
    with pytest.raises(InputError, match="got another content"):
        forecast_plan(make_event("ab" * 10), rollouts, WINDOWS)
    for rollout in rollouts:
        rollout.actions = [row for row in rollout.actions if row.source == "real"]
    with pytest.raises(InputError, match="must hold simulated people"):
        forecast_plan(EVENT, rollouts, WINDOWS)


def test_shapes_are_checked():
    with pytest.raises(InputError, match="`shares` must be"):
        make_forecast([[0.3, 0.7]], names=("1", "2"))
    with pytest.raises(InputError, match="`shares` must be distributions"):
        make_forecast([[0.3, 0.9]])
    with pytest.raises(InputError, match="`concentration` and `n_people` must be 1 positive"):
        make_forecast([[0.3, 0.7]], 0.0)


def test_weighted_people_count_with_their_effective_number():
    people = [("a", 3.0, {}), ("b", 1.0, {}), ("c", 1.0, {}), ("a", 1.0, {})]
    event = make_survey({"w1": people, "w2": people * 5})
    windows = Windows(0, 0, waves=True)
    rollouts = [make_rollout(event, lambda turn, label: (0.2, 0.3, 0.5), windows, seed=seed) for seed in (0, 1)]
    plan = forecast_plan(event, rollouts, windows)
    assert window_sizes(plan) == (15,)
    # 36 / 12 of every four people; shares 4/6, 1/6, 1/6 of 15.
    assert window_counts(plan).tolist() == [[10, 3, 2]]
    assert forecast_of(rollouts, event, windows).n_people == (15,)
