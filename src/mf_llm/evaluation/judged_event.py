"""`JudgedEvent`: what one model or forecaster said about one event, ready to be paired with what another said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation import distributions
from mf_llm.evaluation.forecasters import Method, Training, forecast
from mf_llm.evaluation.protocol import WindowPlan, Windows, plan_event
from mf_llm.evaluation.readouts import end_of_warm_up, read_answers
from mf_llm.events.event import Event

if TYPE_CHECKING:
    from mf_llm.simulation import Rollout

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class JudgedEvent:
    """Human and simulated shares of one event.

    Attributes:
        plan: the judged windows, T of them.
        q: simulated shares `[T, K]`, clamped or smoothed.
        answers: per window `[n_t, K]`, what the judged people answered (summed over rollouts); None for forecasts.
        sampled: the answers are label counts, not probabilities.
        n_failed: rows without an answer; they are left out of `q`.
    """

    plan: WindowPlan
    q: Floats
    answers: tuple[Floats, ...] | None = None
    sampled: bool = False
    n_failed: int = 0

    @cached_property
    def kl(self) -> float:
        """``KL(P || Q)`` in nats, mean over the windows."""
        return float(distributions.kl_divergence(self.plan.truth, self.q).mean())

    @cached_property
    def entropies(self) -> tuple[float, float] | None:
        """``H(pooled P)``, Miller-Madow corrected, and ``H(mean Q)``, in nats; None for a sampled readout."""
        if self.sampled:
            return None
        people = np.concatenate(self.plan.judged)
        pooled = distributions.normalise(self.plan.counts(people))
        n_real = distributions.effective_size(self.plan.weights[people])
        return distributions.corrected_entropies(pooled, self.q, n_real)

    @property
    def windows_key(self) -> tuple[str, str, tuple[bytes, ...]]:
        """Equal for two judged events exactly where the same people were judged in the same windows."""
        return self.plan.event.event_id, self.plan.dimension, tuple(window.tobytes() for window in self.plan.judged)


def judge_forecast(plan: WindowPlan, method: Method, training: Training) -> JudgedEvent:
    """A forecaster's answer to one event.

    A method with the readout "sampled" answers with shares of sampled people, smoothed already: they are not clamped.
    """
    q = forecast(method, plan, training)
    sampled = getattr(method, "readout", None) == "sampled"
    return JudgedEvent(plan, q if sampled else distributions.clamp(q), sampled=sampled)


def judge_rollouts(event: Event, rollouts: Sequence[Rollout], windows: Windows) -> JudgedEvent:
    """The rollouts of one model on one event; those of several seeds are pooled, as in `evaluate_rollouts`.

    Args:
        event: the event.
        rollouts: its rollouts, alike in dimension, readout and warm-up (`mf_llm.evaluation.matching.match` checks it).
        windows: how the event is cut; the windows begin after the warm-up.

    Raises:
        InputError: no whole window was simulated.
    """
    dimension, start = rollouts[0].dimension, end_of_warm_up(rollouts[0])
    if dimension is None or start is None:
        raise InputError(
            f"`rollouts` must hold simulated people on a dimension, got none of event {event.event_id!r}; there is "
            "nothing to judge; simulate it with a dimension."
        )
    plan = plan_event(event, windows, dimension, start=start)
    if tuple(rollouts[0].categories) != plan.categories:
        raise InputError(
            f"`categories` must be those of event {event.event_id!r}, {list(plan.categories)}, got "
            f"{list(rollouts[0].categories)}; shares would be compared crosswise; simulate again."
        )
    answers = read_answers(event, rollouts, len(plan.categories))
    plan = plan.selected(answers.covered(plan))
    if not plan.n_windows:
        raise InputError(
            f"`rollouts` must reach over a whole window ({windows}), those of event {event.event_id!r} do not; it has "
            "no KL; simulate it to its end."
        )
    return JudgedEvent(
        plan,
        answers.windows(plan),
        tuple(answers.mass[window] for window in plan.judged),
        answers.sampled,
        answers.n_failed,
    )
