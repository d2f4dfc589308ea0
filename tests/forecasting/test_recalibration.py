"""Recalibration: what it changes, that it finds what is wrong with a forecast, and its files."""

from dataclasses import replace

import numpy as np
import pytest
from made_forecasts import crowds, make_forecast

from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import event_draws, generator
from mf_llm.forecasting import Recalibration, fit_recalibration, score_forecast
from mf_llm.forecasting.observed_windows import window_counts
from mf_llm.forecasting.pit import uniformity
from mf_llm.forecasting.recalibration_fit import KINDS, CalibrationEvent, fit_kind, log_score

LEAN = np.array([2.0, 1.0, 0.5])


def right(p, plan):
    """The forecaster that knows how the crowd of `crowds(..., concentration=20)` is made."""
    return make_forecast(np.tile(p, (plan.n_windows, 1)), 20.0, plan=plan)


def too_sure(p, plan):
    return make_forecast(np.tile(p, (plan.n_windows, 1)), plan=plan)


def leaning(p, plan):
    """Too sure, and leaning towards the first category."""
    return too_sure(p * LEAN / (p * LEAN).sum(), plan)


def calibration_events(forecaster, n=60, seed=1):
    made = crowds(n, 20.0, seed, "validation")
    return [CalibrationEvent(forecaster(p, plan), window_counts(plan)) for plan, p in made]


def judged(forecaster, recalibration=None, n=80):
    made = crowds(n, 20.0, seed=2)
    forecasts = [forecaster(p, plan) for plan, p in made]
    if recalibration is not None:
        forecasts = [recalibration.apply(forecast) for forecast in forecasts]
    scores = [score_forecast(forecast, plan) for forecast, (plan, _) in zip(forecasts, made, strict=True)]
    draws = event_draws([plan.event for plan, _ in made], generator(0, "test"), 500)
    pit = uniformity([score.pit for score in scores], draws)
    return pit, {level: np.mean([score.covered[level] for score in scores]) for level in (0.5, 0.95)}, scores


def test_a_right_forecaster_is_uniform_and_covers():
    pit, covered, _ = judged(right)
    assert pit.p_value > 0.05
    assert covered[0.5] == pytest.approx(0.5, abs=0.04)
    assert covered[0.95] == pytest.approx(0.95, abs=0.02)


def test_a_forecaster_that_is_too_sure_is_found_out_and_mended():
    pit, covered, before = judged(too_sure)
    assert pit.p_value < 0.01
    assert pit.shares[[0, -1]].min() > 0.13
    assert covered[0.95] < 0.87
    learned = fit_recalibration(calibration_events(too_sure), ["none", "concentration", "horizon"])
    assert learned.kind in ("concentration", "horizon")
    pit, covered, after = judged(too_sure, learned)
    assert pit.p_value > 0.05
    assert covered[0.95] == pytest.approx(0.95, abs=0.025)
    assert np.mean([score.crps for score in after]) < np.mean([score.crps for score in before])


def test_the_concentration_is_found():
    assert np.exp(fit_kind(calibration_events(too_sure, 300), "concentration").log_concentration) == pytest.approx(
        20, rel=0.15
    )
    # A forecast that has it already is left as it is.
    events = calibration_events(right, 300)
    mended = fit_kind(events, "concentration").apply(events[0].forecast)
    assert mended.concentration == pytest.approx(20, rel=0.15)


def test_drift_adds_its_variance_to_that_of_the_forecast():
    p, c, drift = np.array([0.2, 0.5, 0.3]), 7.0, 11.0
    forecast = Recalibration(kind="x", log_concentration=np.log(drift)).apply(make_forecast(p[None], c))
    rng = np.random.default_rng(0)
    first = rng.dirichlet(c * p, size=40_000)
    gammas = rng.standard_gamma(drift * first)
    crowds_after = gammas / gammas.sum(axis=1, keepdims=True)
    expected = p * (1 - p) / (1 + forecast.concentration[0])
    assert crowds_after.var(axis=0) == pytest.approx(expected, rel=0.03)


def test_a_leaning_forecaster_is_mended_by_a_bias():
    learned = fit_recalibration(calibration_events(leaning))
    assert learned.kind == "bias"
    assert np.diff(learned.bias) == pytest.approx(-np.diff(np.log(LEAN)), abs=0.25)
    pit, covered, after = judged(leaning, learned)
    assert pit.p_value > 0.05
    assert covered[0.5] == pytest.approx(0.5, abs=0.05)
    _, _, before = judged(leaning)
    assert np.mean([score.crps for score in after]) < 0.85 * np.mean([score.crps for score in before])


def test_a_map_of_levels_mends_a_forecaster_that_is_too_sure():
    learned = fit_kind(calibration_events(too_sure), "quantiles")
    levels, images = learned.level_map
    assert images[0] == 0 and images[-1] == 1
    assert np.all(np.diff(images) > 0)
    # Too sure: real counts lie below low levels too often, and above high ones.
    assert images[levels.index(0.1)] > 0.13
    assert images[levels.index(0.9)] < 0.87
    pit, covered, scores = judged(too_sure, learned)
    assert pit.shares.max() < 0.135 < judged(too_sure)[0].shares.max()
    assert covered[0.5] == pytest.approx(0.5, abs=0.05)
    assert scores[0].energy is None


def test_a_right_forecaster_is_left_nearly_as_it_is():
    learned = fit_recalibration(calibration_events(right))
    before, after = judged(right)[2], judged(right, learned)[2]
    assert np.mean([score.crps for score in after]) == pytest.approx(np.mean([s.crps for s in before]), rel=0.03)


def test_uncertainty_that_grows_with_the_horizon_is_found():
    rng = np.random.default_rng(0)
    events = []
    for plan, p in crowds(150, 20.0, seed=1):
        counts = np.stack([rng.multinomial(16, rng.dirichlet(c * p)) for c in (100, 20, 8, 4)])
        events.append(CalibrationEvent(too_sure(p, plan), counts))
    learned = fit_kind(events, "horizon")
    places = np.arange(4)
    _, found = learned.changed(events[0].forecast.shares, events[0].forecast.concentration, places)
    assert learned.horizon < -0.8
    assert found[0] > 2 * found[1] > 2 * found[3]


def test_nothing_is_changed_by_default():
    forecast = make_forecast([[[0.3, 0.7]], [[0.5, 0.5]]], 7.0)
    same = Recalibration().apply(forecast)
    assert (same.shares == forecast.shares).all()
    assert (same.concentration == forecast.concentration).all()
    assert same.level_map == ()


def test_what_the_parameters_do():
    shares = np.array([[[0.2, 0.8]], [[0.5, 0.5]]])
    forecast = make_forecast(np.repeat(shares, 3, axis=1))
    alike = Recalibration(kind="x", spread=0.0).apply(forecast).shares
    assert alike[0] == pytest.approx(alike[1])
    odds = alike[0, 0, 0] / alike[0, 0, 1]
    assert odds == pytest.approx(np.sqrt(0.25 * 1.0))
    even = Recalibration(kind="x", power=0.0, spread=0.0).apply(forecast).shares
    assert even == pytest.approx(0.5)
    biased = Recalibration(kind="x", bias=(np.log(2), 0.0)).apply(forecast).shares
    assert biased[0, 0, 0] / biased[0, 0, 1] == pytest.approx(2 * 0.25)
    surer = Recalibration(kind="x", log_concentration=np.log(10), horizon=-1.0).apply(forecast)
    assert surer.concentration == pytest.approx([10, 5, 10 / 3])
    assert surer.made_with["recalibration"] == "x"


def test_the_fit_is_the_same_each_time_and_in_any_order():
    events = calibration_events(leaning, 20)
    one, two = fit_recalibration(events), fit_recalibration(events)
    assert one == two
    other = fit_kind(events[::-1], "scaling")
    assert other.power == pytest.approx(fit_kind(events, "scaling").power, abs=1e-3)


def test_members_and_categories_of_several_numbers_are_fitted_together():
    events = calibration_events(too_sure, 20)
    doubled = [
        replace(
            event, forecast=replace(event.forecast, shares=np.repeat(event.forecast.shares, 2, axis=0), seeds=(0, 1))
        )
        for event in events[:10]
    ]
    learned = fit_recalibration([*doubled, *events[10:]], ["concentration"])
    assert learned.log_concentration == pytest.approx(fit_kind(events, "concentration").log_concentration, abs=1e-3)
    pair = make_forecast([[0.3, 0.7]], event_id="two", n_people=5)
    mixed = [*events, CalibrationEvent(pair, np.array([[2, 3]]))]
    assert "bias" not in fit_recalibration(mixed).made_from["cross_validated_log_score"]
    with pytest.raises(InputError, match="must not be bias alone"):
        fit_recalibration(mixed, ["bias"])


def test_few_events_choose_nothing():
    learned = fit_recalibration(calibration_events(too_sure, 3))
    assert learned.kind == "concentration"
    assert learned.made_from["cross_validated_log_score"] == {}
    assert len(learned.made_from["events"]) == 3


def test_blocks_of_one_group_are_held_out_together():
    from mf_llm.forecasting.recalibration_fit import _folds

    events = [replace(event, group="g" if n < 6 else None) for n, event in enumerate(calibration_events(right, 10))]
    folds = _folds(events, 3)
    assert sorted(place for fold in folds for place in fold) == list(range(10))
    assert sum(any(place < 6 for place in fold) for fold in folds) == 1


def test_the_log_score_is_minus_the_log_probability():
    forecast = make_forecast([[0.5, 0.5]], n_people=2)
    assert log_score(forecast, np.array([[1, 1]])) == pytest.approx(-np.log(0.5))


def test_files(tmp_path):
    for learned in (fit_kind(calibration_events(leaning, 10), kind) for kind in KINDS):
        assert Recalibration.load(learned.save(tmp_path / "r.json")) == learned
    (tmp_path / "r.json").write_text('{"schema_version": 1, "kind": "bias"}')
    with pytest.raises(InputError, match="must be a recalibration"):
        Recalibration.load(tmp_path / "r.json")


def test_errors():
    events = calibration_events(right, 6)
    with pytest.raises(InputError, match="at least one validation event"):
        fit_recalibration([])
    with pytest.raises(InputError, match="got 'validation0' twice"):
        fit_recalibration([events[0], *events])
    with pytest.raises(InputError, match="`kinds` must be some of"):
        fit_recalibration(events, ["magic"])
    with pytest.raises(InputError, match="must have the 3 categories"):
        Recalibration(kind="bias", bias=(0.0, 0.1, 0.2)).apply(make_forecast([[0.3, 0.7]]))
    mapped = Recalibration(kind="quantiles", level_map=((0.0, 1.0), (0.0, 1.0))).apply(make_forecast([[0.3, 0.7]]))
    with pytest.raises(InputError, match="must not have been recalibrated by quantiles"):
        Recalibration().apply(mapped)
    with pytest.raises(InputError, match="`counts` must be"):
        CalibrationEvent(make_forecast([[0.3, 0.7]]), np.array([[3, 3]]))
