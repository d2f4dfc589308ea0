"""Natural experiments: was a real shift foreseen from before it, without and with the news that came with it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import normalise
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.protocol import first_dimension, plan_event
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.forecasting.crps import crps_of_counts
from mf_llm.forecasting.dirichlet_carry import carry_forecast
from mf_llm.forecasting.forecast import Forecast
from mf_llm.forecasting.observed_windows import forecast_plan, window_counts
from mf_llm.forecasting.shifts import Shift
from mf_llm.simulation.rollout import Rollout
from mf_llm.simulation.simulation_config import SimulationConfig

if TYPE_CHECKING:
    from mf_llm.evaluation.protocol import WindowPlan
    from mf_llm.events import Event

CARRY = "carry"
COLUMNS = (
    "shift",
    "data_set",
    "category",
    "method",
    "news",
    "n_rollouts",
    "n_people",
    "before",
    "after",
    "forecast",
    "low_80",
    "high_80",
    "low_95",
    "high_95",
    "direction",
    "size",
    "covered_80",
    "covered_95",
    "crps",
)


def shift_config(shift: Shift, event: Event, events: Sequence[Event], options: Mapping[str, Any]) -> SimulationConfig:
    """How the event of a shift is simulated: warm-up and anchor follow from what was there before it.

    Args:
        shift: the shift.
        event: its event.
        events: of its data set, of all splits.
        options: further fields of `SimulationConfig`.
    """
    earlier = shift.known_before(events)
    config = protocol_config(earlier, {"dimension": first_dimension([event]), **options})
    if shift.is_survey:
        return config
    return replace(config, warm_up=shift.warm_up, max_actions=shift.warm_up + shift.n_people)


def judge_shift(
    shift: Shift, event: Event, events: Sequence[Event], rollouts: Mapping[tuple[str, bool], Sequence[Rollout]]
) -> list[dict[str, Any]]:
    """How far a shift was foreseen.

    ``direction`` says whether the forecast mean moved to the side the share moved to, from the share of the warm-up;
    ``size`` is how much of the way it went (1: all of it; negative: the other way). A band covers the share that was
    counted if it holds it; the sampling of the people who were counted is in it.

    Args:
        shift: the shift.
        event: its event.
        events: of its data set, of all splits: those from before it give carry-forward its prior.
        rollouts: (method, whether it was told the news) -> an ensemble.

    Returns:
        One dict per ensemble and one for carry-forward, with the keys `COLUMNS`.

    Raises:
        InputError: an ensemble did not simulate everybody.
    """
    rows, plan = [], None
    for (method, news), members in rollouts.items():
        plan = forecast_plan(event, members, shift.windows)
        if not plan.n_windows:
            raise InputError(
                f"`rollouts` must have simulated everybody behind the shift {shift.name!r}, got fewer with {method!r}"
                "; nothing can be judged; finish them with --resume."
            )
        rows.append(_row(shift, plan, Forecast.from_rollouts(members, plan), method, "with" if news else "without"))
    plan = plan or plan_event(event, shift.windows, first_dimension([event]))
    training = Training(shift.known_before(events), shift.windows, plan.dimension, plan.categories)
    return [*rows, _row(shift, plan, carry_forecast(plan, training, shift.data_set), CARRY, "")]


def _row(shift: Shift, plan: WindowPlan, forecast: Forecast, method: str, news: str) -> dict[str, Any]:
    k = plan.categories.index(shift.category)
    before = normalise(plan.counts(plan.latest if plan.windows.waves else plan.warm_up))[k]
    # A survey's shift is that of its last wave.
    counts, mean = window_counts(plan)[-1], float(forecast.mean()[-1, k])
    after = counts[k] / counts.sum()
    bands = {level: (low[-1, k], high[-1, k]) for level, (low, high) in forecast.predictive_bands((0.8, 0.95)).items()}
    moved, foreseen = after - before, mean - before
    return {
        "shift": shift.name,
        "data_set": shift.data_set,
        "category": shift.category,
        "method": method,
        "news": news,
        "n_rollouts": len(forecast.shares),
        "n_people": int(counts.sum()),
        "before": float(before),
        "after": float(after),
        "forecast": mean,
        "low_80": float(bands[0.8][0]),
        "high_80": float(bands[0.8][1]),
        "low_95": float(bands[0.95][0]),
        "high_95": float(bands[0.95][1]),
        "direction": "right" if moved * foreseen > 0 else "wrong",
        "size": float(foreseen / moved) if moved else float("nan"),
        "covered_80": bool(bands[0.8][0] <= after <= bands[0.8][1]),
        "covered_95": bool(bands[0.95][0] <= after <= bands[0.95][1]),
        "crps": float(crps_of_counts(forecast.count_cdf()[-1][k], counts[k])),
    }
