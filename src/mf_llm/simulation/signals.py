"""The population signal: what people see of what others have done."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.models.encoding import one_line
from mf_llm.models.prompts import NO_SIGNAL_YET, AnswerFormat
from mf_llm.simulation.rollout import FAILED, REAL, ActionRow

RECENT, POPULAR, POPULAR_POOL = 5, 5, 30


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Weighted shares of one step or of all so far.

    Attributes:
        n_people: people counted.
        total: ``[K]`` sums of weights per category.
    """

    n_people: int
    total: tuple[float, ...]

    @property
    def normalised(self) -> tuple[float, ...] | None:
        """``[K]`` shares, or None where nothing was counted."""
        weight = sum(self.total)
        return tuple(value / weight for value in self.total) if weight > 0 else None


def count_shares(rows: Sequence[ActionRow], categories: Sequence[str]) -> Shares:
    """Shares of the categories among `rows`: probabilities where a row has them, its counts or label otherwise.

    Failed rows are left out. A row of a population counts as the people it stands for. Where nobody weighs anything
    there are no shares (`Shares.normalised` is None).
    """
    total = np.zeros(len(categories))
    counted = 0
    for row in rows:
        if row.source == FAILED:
            continue
        if row.probabilities is not None:
            total += row.weight * np.asarray(row.probabilities)
        elif row.counts is not None:
            total += np.asarray(row.counts)
        elif row.label is not None:
            total[list(categories).index(row.label)] += row.weight
        else:
            continue
        counted += 1 if row.counts is None else sum(row.counts)
    return Shares(n_people=counted, total=tuple(float(value) for value in total))


def count_people(rows: Sequence[ActionRow], categories: Sequence[str]) -> tuple[int, ...]:
    """How many people of a population chose each category, those who have a row of their own among them."""
    total = [0] * len(categories)
    for row in rows:
        if row.counts is not None:
            total = [a + b for a, b in zip(total, row.counts, strict=True)]
        elif row.label is not None:
            total[list(categories).index(row.label)] += 1
    return tuple(total)


class PopulationHistory:
    """What people have done so far, as far as signals need it; memory does not grow with the number of steps.

    Args:
        event: the event (followers and echoes of warm-up turns come from it).
        categories: K category names, or ().
        dimension: what the categories are called, or None.
        profiles: turn -> the turn whose state its person has, where that is another one.
        shown_answers: how many answers `statistics` lists below the shares (see `SimulationConfig.shown_answers`).
    """

    def __init__(
        self,
        event: Event,
        categories: Sequence[str],
        dimension: str | None,
        profiles: Mapping[int, int] | None = None,
        *,
        shown_answers: int = 0,
    ) -> None:
        self.categories, self.dimension = tuple(categories), dimension
        answer = AnswerFormat(kind="choice", dimension=dimension, options=self.categories)
        self._answers = [f"{answer.opening}{answer.option_text(category)}." for category in self.categories]
        self._n_answers, self._only_latest = shown_answers, False
        self._event, self._profiles = event, profiles or {}
        self._echoes: Counter[int] = Counter()
        self._last: deque[ActionRow] = deque(maxlen=POPULAR_POOL)
        self._all = np.zeros(len(self.categories))
        self._n = 0
        self._population: Shares | None = None
        self.latest: Shares | None = None
        self.before: Shares | None = None

    def observe(self, rows: Sequence[ActionRow]) -> None:
        """Takes in the actions of a finished step."""
        done = [row for row in rows if row.source != FAILED]
        for row in done:
            # Who answers whom is known of real turns only, and only of those before the end of the warm-up.
            parent = self._event.turns[row.turn].parent if row.source == REAL else None
            if parent is not None:
                self._echoes[parent] += 1
        self._last.extend(row for row in done if _line(row))
        shares = count_shares(done, self.categories)
        if shares.normalised is not None:
            self.before, self.latest = self.latest, shares
            # Who is asked again and again is counted by the last answer, as `carry` counts.
            self._only_latest = any(row.counts is not None or row.wave is not None for row in done)
            if any(row.counts is not None for row in done):
                # The people of a population act in every step: what they did last counts, not each of them many times.
                self._population = shares
            else:
                self._all += np.asarray(shares.total)
                self._n += shares.n_people

    def statistics(self) -> str:
        """Shares so far and in the latest step, in words and numbers, and as answers below them if these are shown."""
        if self.latest is None or self.latest.normalised is None:
            return NO_SIGNAL_YET
        total, n = self._all, self._n
        if self._population is not None:
            total, n = total + np.asarray(self._population.total), n + self._population.n_people
        overall = tuple(float(value) for value in total / total.sum())
        lines = [f"Of {_number(n)} people so far: {shares_in_words(self.categories, overall)}."]
        if self.before is not None and self.before.normalised is not None:
            latest = shares_in_words(self.categories, self.latest.normalised)
            lines.append(f"Of the latest {_number(self.latest.n_people)}: {latest}.")
            change = np.subtract(self.latest.normalised, self.before.normalised)
            up, down = int(change.argmax()), int(change.argmin())
            if change[up] >= 0.05:
                lines.append(
                    f"Rising: {self.categories[up]} ({change[up] * 100:+.0f} points); falling: "
                    f"{self.categories[down]} ({change[down] * 100:+.0f} points)."
                )
            else:
                lines.append("Little has changed since the step before.")
        shown = self.latest.normalised if self._only_latest else overall
        return "\n".join([" ".join(lines), *(self._answers[k] for k in proportioned(shown, self._n_answers))])

    def recent(self) -> str:
        """The last 5 actions, oldest first."""
        return _listed(list(self._last)[-RECENT:])

    def popular(self) -> str:
        """The 5 of the last 30 actions that were echoed or are followed most, oldest first.

        Echoes are answers (known for the warm-up) and equal texts; ties go to the people with more followers, then to
        the newer action.
        """
        pool = list(self._last)
        equal = Counter(one_line(row.text).lower() for row in pool if row.text.strip())

        def rank(i: int) -> tuple[float, float, int]:
            row = pool[i]
            echoes = self._echoes[row.turn] + max(equal[one_line(row.text).lower()] - 1, 0)
            return (echoes, self._followers(row), i)

        unique = {(_line(pool[i])): i for i in sorted(range(len(pool)), key=rank)}
        best = sorted(sorted(unique.values(), key=rank)[-POPULAR:])
        return _listed([pool[i] for i in best])

    def _followers(self, row: ActionRow) -> float:
        state = self._event.turns[self._profiles.get(row.turn, row.turn)].state
        value = state.get("followers_count", state.get("followers", 0)) if not isinstance(state, str) else 0
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def shown_signal(kind: str, statistics: str, text: str | None) -> str | None:
    """What people see of the population, put together from its parts.

    Args:
        kind: "none", "text", "statistics" or "both" (see `SimulationConfig.signal`).
        statistics: what `PopulationHistory.statistics` says; looked at for "statistics" and "both".
        text: the signal that the mean-field model wrote last, or None; looked at for "text" and "both".

    Returns:
        The signal, or None for the baseline that sees nothing of the population.

    Raises:
        InputError: for another kind ("recent" and "popular" are lists of actions, not made of these parts).
    """
    if kind == "none":
        return None
    if kind not in ("text", "statistics", "both"):
        raise InputError(
            f'`kind` must be "none", "text", "statistics" or "both", got {kind!r}; it is not made of statistics and '
            "text; ask a `PopulationHistory` for lists of actions."
        )
    parts = (statistics if kind != "text" else "", (text or "") if kind != "statistics" else "")
    return "\n".join(part for part in parts if part) or NO_SIGNAL_YET


def shares_in_words(categories: Sequence[str], shares: Sequence[float]) -> str:
    """Shares, largest first, each in words and numbers.

    Examples:
        >>> shares_in_words(["support", "deny"], [0.25, 0.75])
        'most (75 %) deny, a quarter (25 %) support'
    """
    order = sorted(range(len(categories)), key=lambda k: -shares[k])
    return ", ".join(f"{_amount(shares[k])} ({shares[k] * 100:.0f} %) {categories[k]}" for k in order)


def proportioned(shares: Sequence[float], count: int) -> list[int]:
    """`count` categories, each as often as its share says (largest remainder), evenly spread among the others.

    Examples:
        >>> proportioned([0.25, 0.7, 0.05], 4)
        [1, 0, 1, 1]

    Args:
        shares: ``[K]``, sum 1.
        count: how many are asked for.

    Returns:
        Indices of categories.
    """
    exact = np.asarray(shares) * count
    # Sums of floats differ in their last digits with the batch they were read in; what is shown must not.
    numbers = np.floor(exact + 1e-6).astype(int)
    behind = np.argsort(np.round(numbers - exact, 6), kind="stable")
    numbers[behind[: count - int(numbers.sum())]] += 1
    places = [((j + 0.5) / number, k) for k, number in enumerate(numbers.tolist()) for j in range(number)]
    return [k for _, k in sorted(places)]


def action_line(row: ActionRow, *, with_state: bool = False) -> str:
    """One action on one line: ``label: text``, with the profile behind it if asked (the profile is cut first)."""
    line = _line(row)
    return f"{line} ({row.state})" if with_state and row.state else line


def _amount(share: float) -> str:
    bounds = [(0.02, "almost none"), (0.12, "a few"), (0.2, "some"), (0.3, "a quarter"), (0.4, "a third")]
    bounds += [(0.45, "less than half"), (0.55, "half"), (0.85, "most"), (0.98, "nearly all")]
    return next((word for bound, word in bounds if share < bound), "all")


def _number(people: int) -> str:
    return f"{people:,}" if people >= 10_000 else str(people)


def _line(row: ActionRow) -> str:
    text = one_line(row.text)
    if row.label is None:
        return text
    return f"{row.label}: {text}" if text else row.label


def _listed(rows: Sequence[ActionRow]) -> str:
    return "\n".join(f"- {_line(row)}" for row in rows) if rows else NO_SIGNAL_YET
