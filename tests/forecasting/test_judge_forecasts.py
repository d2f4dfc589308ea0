"""`judge_forecasts`: means, paired differences and files, and who may be compared."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from made_events import make_event, make_survey
from made_forecasts import crowds, make_forecast

from mf_llm.errors import InputError
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.forecasting import Recalibration, judge_forecasts, score_forecast
from mf_llm.forecasting.crps import crps_of_counts
from mf_llm.forecasting.event_scores import survey_crps
from mf_llm.forecasting.forecast_report import EVENT_COLUMNS, WINDOW_COLUMNS


def scored(n=12, seed=0, n_windows=3):
    """Scores of the true shares and of even shares over some events."""
    made = crowds(n, 20.0, seed, n_windows=n_windows)
    known = [score_forecast(make_forecast(np.tile(p, (n_windows, 1)), 20.0, plan=plan), plan) for plan, p in made]
    even = [score_forecast(make_forecast(np.full((n_windows, 3), 1 / 3), 20.0, plan=plan), plan) for plan, _ in made]
    return {"known": known, "even": even}


def test_means_and_paired_differences():
    scores = scored()
    report = judge_forecasts({"d": scores}, [("known", "even")], n_bootstrap=300)
    record = report.summary["data_sets"]["d"]
    means = {name: np.mean([score.crps.mean() for score in found]) for name, found in scores.items()}
    for name, mean in means.items():
        assert record["methods"][name]["crps"]["value"] == pytest.approx(mean)
        assert record["methods"][name]["energy"]["value"] > 0
        assert len(record["methods"][name]["pit"]["shares"]) == 10
    (difference,) = record["differences"]
    assert difference["crps"]["value"] == pytest.approx(means["known"] - means["even"])
    assert difference["crps"]["high"] < 0
    energy = {name: np.mean([score.energy.mean() for score in found]) for name, found in scores.items()}
    assert difference["energy"]["value"] == pytest.approx(energy["known"] - energy["even"])
    # Paired: narrower than the scores' own intervals.
    own = record["methods"]["even"]["crps"]
    assert difference["crps"]["high"] - difference["crps"]["low"] < 1.5 * (own["high"] - own["low"])
    assert (record["n_events"], record["n_windows"]) == (12, 36)


def test_overall_is_the_mean_over_data_sets_and_pools_events_for_calibration():
    scores = {"one": scored(8, seed=1), "two": scored(16, seed=2)}
    report = judge_forecasts(scores, [("known", "even")], n_bootstrap=200)
    parts = [report.summary["data_sets"][name] for name in scores]
    overall = report.summary["overall"]
    assert overall["n_events"] == 24
    assert overall["differences"][0]["crps"]["value"] == pytest.approx(
        np.mean([part["differences"][0]["crps"]["value"] for part in parts])
    )
    pooled = (
        8 * parts[0]["methods"]["known"]["pit"]["shares"] + 16 * parts[1]["methods"]["known"]["pit"]["shares"]
    ) / 24
    assert overall["methods"]["known"]["pit"]["shares"] == pytest.approx(pooled)
    assert overall["methods"]["known"]["pit"]["p_value"] is not None


def test_the_same_seed_gives_the_same_report():
    one, two = (judge_forecasts({"d": scored(6)}, [("known", "even")], n_bootstrap=100) for _ in range(2))
    assert one.rows == two.rows
    assert one.windows == two.windows
    assert str(one.summary) == str(two.summary)


def test_all_forecasts_of_a_window_share_the_random_part_of_the_pit():
    plan, p = crowds(1, 20.0)[0]
    one, two = (score_forecast(make_forecast(np.tile(p, (4, 1)), c, plan=plan), plan, seed=3) for c in (1e7, None))
    assert one.pit == pytest.approx(two.pit, abs=1e-4)
    other = score_forecast(make_forecast(np.tile(p, (4, 1)), plan=plan), plan, seed=4)
    assert np.abs(other.pit - two.pit).max() > 0.01
    assert other.crps == pytest.approx(two.crps)


def test_blocks_that_are_always_drawn_together_have_no_interval():
    scores = scored(3)["known"]
    for block, score in enumerate(scores):
        event = replace(score.plan.event, group="g", block=block)
        object.__setattr__(score, "plan", replace(score.plan, event=event))
    report = judge_forecasts({"d": {"known": scores}}, n_bootstrap=50)
    assert report.summary["data_sets"]["d"]["methods"]["known"]["crps"]["low"] is None
    assert report.summary["overall"] == {}


def test_forecasts_of_single_categories_have_no_energy_score():
    scores = scored(4)
    plans = [score.plan for score in scores["known"]]
    learned = Recalibration(kind="quantiles", level_map=((0.0, 1.0), (0.0, 1.0)))
    mapped = [score_forecast(learned.apply(s.forecast), p) for s, p in zip(scores["known"], plans, strict=True)]
    report = judge_forecasts({"d": scores | {"mapped": mapped}}, [("mapped", "known")], n_bootstrap=50)
    record = report.summary["data_sets"]["d"]
    assert record["methods"]["mapped"]["energy"] is None
    assert record["differences"][0]["energy"] is None
    assert record["differences"][0]["crps"]["value"] == pytest.approx(0)
    assert [row["energy"] for row in report.rows if row["method"] == "mapped"] == [None] * 4


def test_files_and_table(tmp_path):
    report = judge_forecasts({"d": scored(5)}, [("known", "even")], n_bootstrap=50)
    report.save(tmp_path)
    rows = list(csv.DictReader((tmp_path / "forecast_scores.csv").read_text().splitlines()))
    assert tuple(rows[0]) == EVENT_COLUMNS
    assert len(rows) == 10
    windows = list(csv.DictReader((tmp_path / "forecast_windows.csv").read_text().splitlines()))
    assert tuple(windows[0]) == WINDOW_COLUMNS
    assert len(windows) == 2 * 5 * 3 * 3
    assert sum(int(row["count"]) for row in windows[:3]) == 16
    record = json.loads((tmp_path / "forecast.json").read_text())
    assert (record["protocol"], record["seed"], record["n_bootstrap"]) == (1, 0, 50)
    assert "scoringrules" in record["versions"]
    text = report.table()
    assert "known - even" in text
    assert "d: known" in text


def survey_scores(shares):
    event = make_survey({"w1": [("a", 1.0, {})] * 8, "w2": [("a", 1.0, {})] * 60 + [("b", 2.0, {})] * 30})
    plan = plan_event(event, Windows(0, 0, waves=True))
    return [score_forecast(make_forecast([shares], plan=plan, dimension="intention", n_people=80), plan)]


def test_of_a_survey_respondents_are_resampled():
    event = {"near": survey_scores([0.5, 0.4, 0.1]), "far": survey_scores([0.1, 0.4, 0.5])}
    report = judge_forecasts({"s": event}, [("near", "far")], n_bootstrap=400)
    record = report.summary["data_sets"]["s"]
    near, difference = record["methods"]["near"], record["differences"][0]
    assert near["crps"]["low"] < near["crps"]["value"] < near["crps"]["high"]
    assert difference["crps"]["high"] < 0
    assert near["pit"]["p_value"] is None
    assert near["energy"]["low"] is None
    assert report.summary["overall"] == {}
    assert "s: near" in report.table()


def test_a_resample_is_counted_with_its_weights():
    [score] = survey_scores([0.5, 0.4, 0.1])
    drawn = np.ones((2, 90))
    drawn[1, 60:] = 0  # without those who answered b
    found = survey_crps(score, [drawn])
    (cdf,) = score.forecast.count_cdf()
    whole, without = (crps_of_counts(cdf, counts).mean() for counts in ([40, 40, 0], [80, 0, 0]))
    assert found.value == pytest.approx(score.crps.mean()) == pytest.approx(whole)
    assert found.replicates[1] - found.replicates[0] == pytest.approx(without - whole)
    assert found.replicates.mean() == pytest.approx(found.value)


def test_the_overall_difference_takes_surveys_with_their_respondents():
    near, far = survey_scores([0.5, 0.4, 0.1]), survey_scores([0.1, 0.4, 0.5])
    known = scored()["known"]
    scores = {"d": {"a": known, "b": known}, "s": {"a": near, "b": far}}
    overall = judge_forecasts(scores, [("a", "b")], n_bootstrap=200).summary["overall"]
    [difference] = overall["differences"]
    assert (overall["data_sets"], overall["surveys"], overall["n_events"]) == (["d"], ["s"], len(known))
    assert difference["crps"]["value"] == pytest.approx((near[0].crps.mean() - far[0].crps.mean()) / 2)
    assert difference["crps"]["high"] < 0
    assert difference["energy"]["value"] == 0


def test_other_windows_or_people_are_refused():
    (plan, p), (other, _) = crowds(2, 20.0)
    forecast = make_forecast(np.tile(p, (4, 1)), plan=plan)
    with pytest.raises(InputError, match="`forecast` must be one of the 4 windows of event 'test1'"):
        score_forecast(forecast, other)
    with pytest.raises(InputError, match="`forecast` must be one of the 2 windows"):
        score_forecast(forecast, plan.selected([True, True, False, False]))
    short = plan_event(make_event("ab", plan.event.event_id), plan.windows)
    with pytest.raises(InputError, match="`forecast` must be one of the 0 windows"):
        score_forecast(forecast, short)
    scores = scored(4)
    with pytest.raises(InputError, match="got others for 'even'"):
        judge_forecasts({"d": scores | {"even": scores["even"][1:]}})
    with pytest.raises(InputError, match="`pairs` must name methods among known, even, got 'none'"):
        judge_forecasts({"d": scores}, [("known", "none")])
    with pytest.raises(InputError, match="got none"):
        judge_forecasts({"d": {"known": []}})
