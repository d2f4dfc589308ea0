"""The Dirichlet-multinomial carry-forward ensemble: the forecast without a language model that is to be beaten."""

from __future__ import annotations

import numpy as np

from mf_llm.evaluation.distributions import effective_size
from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import WindowPlan
from mf_llm.forecasting.forecast import Forecast
from mf_llm.forecasting.observed_windows import window_sizes


def carry_forecast(plan: WindowPlan, training: Training, data_set: str | None = None) -> Forecast:
    """``Dirichlet(counts of the warm-up + alpha * prior)``, the same for all windows.

    It is the posterior of a crowd that never changes: mean ``(counts + alpha * prior) / (W + alpha)``, which is the
    forecaster `carry`, concentration ``W + alpha``. The counts of a window are then Dirichlet-multinomial. As a
    `Forecast` it has one member.

    Args:
        plan: the event; only its warm-up is looked at (of a survey its last wave, with its effective size).
        training: gives the prior, and alpha by the rule of the reference: the lowest KL on train + validation.
        data_set: name of the data set.
    """
    turns = plan.latest if plan.windows.waves else plan.warm_up
    shares = Carry()(plan.event, plan, training)
    people = effective_size(plan.weights[turns]) if len(turns) else 0.0
    return Forecast(
        event_id=plan.event.event_id,
        event_hash=plan.event.content_hash(),
        data_set=data_set,
        dimension=plan.dimension,
        categories=plan.categories,
        unit="window",
        names=plan.names,
        n_people=window_sizes(plan),
        shares=np.broadcast_to(shares, (1, plan.n_windows, len(shares))),
        concentration=np.full(plan.n_windows, people + training.alpha),
        readout="carry",
        made_with={"alpha": training.alpha, "prior": training.prior.tolist(), "warm_up": len(turns)},
    )
