"""What the figures of forecasts show."""

import numpy as np
import pytest
from made_events import make_survey
from made_forecasts import crowds, make_forecast
from test_judge_forecasts import scored

from mf_llm.evaluation.plotting import COLOURS
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.forecasting import judge_forecasts, plot_forecast
from mf_llm.forecasting.forecast_plots import plot_coverage, plot_pit

pytest.importorskip("matplotlib")


def test_strips_show_median_bands_and_real_shares(tmp_path):
    plan, p = crowds(1, 20.0)[0]
    forecast = make_forecast(np.tile(p, (4, 1)), 20.0, plan=plan)
    figure = plot_forecast(forecast, plan, tmp_path / "sub" / "event.png")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["event.pdf", "event.png"]
    assert len(figure.axes) == 3
    median, real = figure.axes[0].get_lines()
    # A warm-up of 8, then windows of 16, each drawn at its middle.
    assert median.get_xdata().tolist() == [16, 32, 48, 64]
    assert median.get_ydata() == pytest.approx(forecast.median()[:, 0])
    assert real.get_xdata().tolist() == [4, 16, 32, 48, 64]
    assert real.get_ydata()[1:] == pytest.approx(plan.truth[:, 0])
    assert {line.get_color() for line in figure.axes[1].get_lines()} == {COLOURS[1]}
    counted, crowd = figure.axes[0].collections
    assert counted.get_datalim(figure.axes[0].transData).y1 == pytest.approx(
        forecast.predictive_bands([0.95])[0.95][1][0, 0]
    )
    assert crowd.get_datalim(figure.axes[0].transData).y1 == pytest.approx(forecast.bands([0.8])[0.8][1][0, 0])
    assert "simulated: 1 rollout, exact readout" in figure.get_suptitle()


def test_steps_and_waves_are_named():
    steps = make_forecast(np.full((3, 3), 1 / 3), unit="step", names=("4", "5", "6"))
    figure = plot_forecast(steps)
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["4", "5", "6"]
    assert figure.axes[-1].get_xlabel() == "step"
    assert len(figure.axes[0].get_lines()) == 1
    event = make_survey({"w1": [("a", 1.0, {})] * 8, "w2": [("a", 1.0, {})] * 6 + [("b", 1.0, {})] * 2})
    plan = plan_event(event, Windows(0, 0, waves=True))
    forecast = make_forecast([[0.5, 0.4, 0.1]], 20.0, plan=plan, dimension="intention", n_people=8)
    figure = plot_forecast(forecast, plan)
    assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["w1", "w2"]
    assert figure.axes[0].get_lines()[1].get_ydata() == pytest.approx([1, 6 / 8])


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
def test_titles_say_what_was_simulated():
    forecast = make_forecast(np.full((2, 3, 3), 1 / 3), made_with={"recalibration": "bias"})
    title = plot_forecast(forecast, title="costs $5").get_suptitle()
    assert title == "costs \\$5\nsimulated: 2 rollouts, exact readout, recalibrated (bias)"
    carried = make_forecast(np.full((3, 3), 1 / 3), seeds=(), readout="carry")
    assert plot_forecast(carried).get_suptitle() == "e\ncarry"


def test_pit_histograms_and_coverage(tmp_path):
    report = judge_forecasts({"one": scored(8, 1), "two": scored(8, 2)}, n_bootstrap=100)
    records = {name: record["methods"] for name, record in report.summary["data_sets"].items()}
    figure = plot_pit(records, tmp_path / "pit", title="what")
    assert len(figure.axes) == 4
    assert figure.get_suptitle() == "what"
    heights = [bar.get_height() for bar in figure.axes[0].patches if bar.get_zorder() == 2]
    assert heights == pytest.approx(records["one"]["known"]["pit"]["shares"])
    assert figure.axes[0].get_ylabel() == "one\n(8 events)"
    covered = plot_coverage(report.summary["overall"]["methods"], tmp_path / "coverage.pdf")
    assert [text.get_text() for text in covered.legends[0].get_texts()][1:] == ["known", "even"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coverage.pdf", "coverage.png", "pit.pdf", "pit.png"]


def test_one_event_has_no_intervals_and_is_drawn():
    report = judge_forecasts({"d": {"known": scored(1, 3)["known"]}})
    methods = report.summary["data_sets"]["d"]["methods"]
    assert len(plot_pit({"d": methods}).axes) == 1
    assert plot_coverage(methods).axes[0].get_xlabel() == "level of the central band"
