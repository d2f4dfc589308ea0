"""Forecasting: ensembles of rollouts as forecasts, their calibration, and what carry-forward would have said.

Names are imported on first use: scipy, scoringrules and matplotlib load only where they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mf_llm._lazy_names import lazy_names

# No module here is named like a public function: importing it would put the module in the function's place.
_PUBLIC_NAMES = {
    "Forecast": "mf_llm.forecasting.forecast",
    "ForecastReport": "mf_llm.forecasting.forecast_report",
    "Recalibration": "mf_llm.forecasting.recalibration",
    "carry_forecast": "mf_llm.forecasting.dirichlet_carry",
    "fit_recalibration": "mf_llm.forecasting.recalibration_fit",
    "judge_forecasts": "mf_llm.forecasting.judge",
    "plot_forecast": "mf_llm.forecasting.forecast_plots",
    "score_forecast": "mf_llm.forecasting.event_scores",
}

if TYPE_CHECKING:
    from mf_llm.forecasting.dirichlet_carry import carry_forecast as carry_forecast
    from mf_llm.forecasting.event_scores import score_forecast as score_forecast
    from mf_llm.forecasting.forecast import Forecast as Forecast
    from mf_llm.forecasting.forecast_plots import plot_forecast as plot_forecast
    from mf_llm.forecasting.forecast_report import ForecastReport as ForecastReport
    from mf_llm.forecasting.judge import judge_forecasts as judge_forecasts
    from mf_llm.forecasting.recalibration import Recalibration as Recalibration
    from mf_llm.forecasting.recalibration_fit import fit_recalibration as fit_recalibration
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
