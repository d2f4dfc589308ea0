"""Forecasts and crowds made by hand: what really happens is drawn from a known distribution."""

from __future__ import annotations

import numpy as np
from made_events import CATEGORIES, make_event

from mf_llm.evaluation.protocol import WindowPlan, Windows, plan_event
from mf_llm.events.event import Event
from mf_llm.forecasting import Forecast

WINDOWS = Windows(8, 16)


def make_forecast(shares, concentration=None, *, plan: WindowPlan | None = None, n_people: int = 16, **fields):
    """A forecast of members `[R, T, K]` (or `[T, K]`, one member)."""
    shares = np.asarray(shares, dtype=float)
    shares = shares[None] if shares.ndim == 2 else shares
    n_windows = shares.shape[1]
    about = {
        "event_id": plan.event.event_id if plan else "e",
        "event_hash": plan.event.content_hash() if plan else "",
        "data_set": "d",
        "dimension": "stance",
        "categories": CATEGORIES[: shares.shape[2]],
        "unit": "window",
        "names": plan.names if plan else tuple(str(t + 1) for t in range(n_windows)),
        "n_people": (n_people,) * n_windows,
        "seeds": tuple(range(len(shares))),
    }
    concentration = np.full(n_windows, np.inf if concentration is None else concentration)
    return Forecast(**about | {"shares": shares, "concentration": concentration} | fields)


def crowds(
    n: int, concentration: float, seed: int = 0, split: str = "test", n_windows: int = 4
) -> list[tuple[WindowPlan, np.ndarray]]:
    """Events whose crowd in each window is ``Dirichlet(concentration * p)``, with the p `[K]` of each."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        p = 0.9 * rng.dirichlet([4, 3, 2]) + 0.1 / 3
        labels = draw(rng, p, WINDOWS.warm_up)
        for _ in range(n_windows):
            labels += draw(rng, rng.dirichlet(concentration * p), WINDOWS.window)
        event: Event = make_event(labels, f"{split}{number}", split)
        made.append((plan_event(event, WINDOWS), p))
    return made


def draw(rng: np.random.Generator, p: np.ndarray, n: int) -> str:
    """n labels."""
    return "".join(rng.choice(list(CATEGORIES), p=p, size=n))
