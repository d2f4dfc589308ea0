"""What a forecast of one event is worth: CRPS, energy score, PIT and coverage of each window and category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import normalise
from mf_llm.evaluation.intervals import centred
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.evaluation.scoring import Replicated
from mf_llm.forecasting.coverage import central_coverage, central_width
from mf_llm.forecasting.crps import crps_of_counts, energy_score
from mf_llm.forecasting.forecast import LEVELS, Forecast
from mf_llm.forecasting.observed_windows import window_counts
from mf_llm.forecasting.pit import pit_bounds, randomised_pit
from mf_llm.simulation.keyed_draws import stream_key, uniform_number

N_DRAWS = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EventScores:
    """Scores of one forecast of one event; shares are those of the people of a window.

    Attributes:
        plan: the judged windows.
        forecast: the forecast.
        counts: human label counts, `[T, K]`.
        crps: exact, of each category's share, `[T, K]`.
        energy: fair energy score of `N_DRAWS` draws of all categories, `[T]`; None where a forecast speaks of each
            category by itself.
        pit: randomised PIT, `[T, K]`.
        covered: level -> how far each count lies in the central interval, `[T, K]`.
        width: level -> width of that interval, `[T, K]`.
    """

    plan: WindowPlan
    forecast: Forecast
    counts: NDArray[np.int64]
    crps: Floats
    energy: Floats | None
    pit: Floats
    covered: dict[float, Floats]
    width: dict[float, Floats]


def score_forecast(forecast: Forecast, plan: WindowPlan, *, seed: int = 0) -> EventScores:
    """Holds a forecast against what people did.

    Args:
        forecast: of the windows of `plan`.
        plan: the event, cut as for the forecast.
        seed: of the PIT's v and of the draws; both are keyed by event and window, so that all forecasts share them.

    Raises:
        InputError: the forecast is one of other windows.
    """
    _check_same(forecast, plan)
    counts, cdf = window_counts(plan), forecast.count_cdf()
    low, high = (np.stack(part) for part in zip(*map(pit_bounds, cdf, counts), strict=True))
    event, dimension = plan.event.event_id, plan.dimension
    v = [
        [uniform_number(stream_key(seed, event, dimension, name, category, "pit")) for category in plan.categories]
        for name in plan.names
    ]
    energy = None
    if forecast.joint:
        sizes = np.asarray(forecast.n_people)[:, None]
        draws = forecast.predictive_counts(None, N_DRAWS, stream_key(seed, event, dimension, "forecast draws")) / sizes
        # Window by window: the library holds all pairs of draws at once.
        energy = np.asarray([energy_score(draws[:, t], counts[t] / sizes[t]) for t in range(len(counts))])
    return EventScores(
        plan=plan,
        forecast=forecast,
        counts=counts,
        crps=np.stack([crps_of_counts(step, row) for step, row in zip(cdf, counts, strict=True)]),
        energy=energy,
        pit=randomised_pit(low, high, v),
        covered={level: central_coverage(low, high, level) for level in LEVELS},
        width={level: np.stack([central_width(step, level) for step in cdf]) for level in LEVELS},
    )


def survey_crps(score: EventScores, draws: Sequence[Floats]) -> Replicated:
    """CRPS of a survey event (mean over waves and categories), with respondents resampled together with their weights.

    The forecast is held fixed. Replicates are centred, as those of the KL are
    (`mf_llm.evaluation.scoring.survey_score`).

    Args:
        score: of a forecast of waves.
        draws: for each judged wave how often each respondent is drawn, `[B, n_t]`.
    """
    plan, replicates = score.plan, []
    for window, drawn, cdf in zip(plan.judged, draws, score.forecast.count_cdf(), strict=True):
        shares = normalise((drawn * plan.weights[window]) @ np.eye(len(plan.categories))[plan.labels[window]])
        counts = np.rint(shares * (cdf.shape[-1] - 1))
        replicates.append(crps_of_counts(cdf, counts).mean(axis=-1))
    value = float(score.crps.mean())
    return Replicated(value, centred(value, np.mean(replicates, axis=0)))


def _check_same(forecast: Forecast, plan: WindowPlan) -> None:
    wanted = (plan.event.event_id, plan.dimension, plan.categories, plan.names)
    found = (forecast.event_id, forecast.dimension, forecast.categories, forecast.names)
    if wanted != found or forecast.unit != "window" or not plan.n_windows:
        raise InputError(
            f"`forecast` must be one of the {plan.n_windows} windows of event {wanted[0]!r} on {wanted[1]!r}, got one "
            f"of {len(forecast.names)} {forecast.unit}s of event {found[0]!r} on {found[1]!r}; people and forecast "
            "would not belong together; make both from one plan (`forecast_plan`)."
        )
