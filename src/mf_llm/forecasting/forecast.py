"""`Forecast`: what an ensemble of rollouts from one warm-up says about a population, per category and step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import clamp, normalise
from mf_llm.forecasting.count_distributions import count_probabilities, count_quantiles, draw_counts, share_quantiles
from mf_llm.forecasting.members import anchor_concentration, step_members, window_members

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

    from mf_llm.evaluation.protocol import WindowPlan
    from mf_llm.simulation import Rollout

FORECAST_SCHEMA_VERSION = 1
LEVELS = (0.5, 0.8, 0.95)

Floats = NDArray[np.float64]
# Of each level: lower and upper bounds, `[T, K]` each.
Bands = dict[float, tuple[Floats, Floats]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """An ensemble of R trajectories of shares over T steps and K categories, and how sure of them to be.

    Two layers of uncertainty are kept apart:

    * **between rollouts**: what share of a large crowd chooses k. The members differ; a `concentration` (of a
      recalibration, or of a Dirichlet posterior: that of the warm-up is kept where rollouts are anchored) lets the
      crowd scatter about each of them. `median`, `bands`.
    * **sampling**: `n_people` of that crowd are looked at, a multinomial draw. Shares counted among 16
      people have a standard deviation of up to .125 even where the forecast is perfect. `predictive_bands`,
      `predictive_counts`, `count_cdf`. What people really did in a window is to be held against this layer.

    Attributes:
        event_id, event_hash, data_set: the event.
        dimension, categories: what is forecast.
        unit: "window" (of the protocol) or "step" (of the rollouts).
        names: name of each window or step.
        n_people: people of each of them, T numbers.
        shares: members `[R, T, K]`, clamped at 1e-4.
        concentration: `[T]`; `inf`: the crowd does not scatter about the members.
        seeds: seed of each member (empty for a forecaster).
        readout: "exact", "sampled", or the name of a forecaster.
        n_failed: failed actions of all rollouts; they are left out of the shares.
        level_map: (levels, images), both increasing from 0 to 1: a recalibration of quantiles, under which the
            probability to stay below a value, u, becomes what `levels` -> `images` makes of it. () for none. It speaks
            of categories one by one, so that there are no joint draws.
        made_with: configuration and versions of the rollouts, or of the forecaster.

    Examples:
        >>> from mf_llm import MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_events, simulate
        >>> from mf_llm.models import tiny_backbone, tiny_tokenizer  # random weights: replies mean nothing
        >>> model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
        >>> processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
        >>> [event] = load_events("bridge-closure")
        >>> config = SimulationConfig(signal="statistics", action="choice", max_actions=64)
        >>> rollouts = simulate(model, processor, event, config, seeds=[1, 2], progress=False)
        >>> forecast = Forecast.from_rollouts(rollouts)
        >>> forecast.categories, forecast.shares.shape, forecast.median().shape
        (('support', 'oppose', 'question', 'neutral'), (2, 1, 4), (1, 4))
    """

    event_id: str
    event_hash: str
    data_set: str | None
    dimension: str
    categories: tuple[str, ...]
    unit: str
    names: tuple[str, ...]
    n_people: tuple[int, ...]
    shares: Floats
    concentration: Floats
    seeds: tuple[int, ...] = ()
    readout: str = "exact"
    n_failed: int = 0
    level_map: tuple[tuple[float, ...], ...] = ()
    made_with: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.names), len(self.categories))
        shares, concentration = np.asarray(self.shares, dtype=np.float64), np.asarray(self.concentration, dtype=float)
        if shares.ndim != 3 or not len(shares) or shares.shape[1:] != shape:
            raise InputError(
                f"`shares` must be [R, T, K] with T, K = {shape}, got {shares.shape}; the forecast of event "
                f"{self.event_id!r} cannot be read; give one row of shares per member and {self.unit}."
            )
        if not np.all(shares >= 0) or np.any(np.abs(shares.sum(axis=-1) - 1) > 1e-3):
            raise InputError(
                f"`shares` must be distributions (>= 0, sum 1) for event {self.event_id!r}, got others; probabilities "
                "of counts would be meaningless; divide counts by their sum."
            )
        if concentration.shape != shape[:1] or not np.all(concentration > 0) or len(self.n_people) != shape[0]:
            raise InputError(
                f"`concentration` and `n_people` must be {shape[0]} positive numbers for event {self.event_id!r}, got "
                f"{concentration.tolist()} and {list(self.n_people)}; the forecast cannot be read; give one per "
                f"{self.unit}."
            )
        object.__setattr__(self, "shares", clamp(shares))
        object.__setattr__(self, "concentration", concentration)

    @classmethod
    def from_rollouts(cls, rollouts: Sequence[Rollout], plan: WindowPlan | None = None) -> Forecast:
        """The forecast of one event, one member per rollout.

        Members of the sampled readout are shares of as many people as were simulated: they scatter by sampling
        already, which is taken out of them (`mf_llm.forecasting.members.without_sampling`) before `predictive_*` puts
        the sampling of real people in. Members of the anchored readout move the mean of a posterior whose uncertainty
        they do not know of: it becomes their `concentration` (`mf_llm.forecasting.members.anchor_concentration`).

        Args:
            rollouts: of one event, by one configuration, from one warm-up, with different seeds.
            plan: the windows that are forecast (of `forecast_plan`): then a member's share of a window is the mean
                over its people. Only their places and weights are used, not their labels. None: the steps of the
                rollouts after the warm-up, whose people are simulated ones.

        Raises:
            InputError: there are no rollouts, they differ in more than their seed, two have the same seed, or some
                rollout has no answer in a window or step.
        """
        check_ensemble(rollouts)
        first = rollouts[0]
        assert first.dimension is not None  # who has shares has a dimension
        members = step_members(rollouts) if plan is None else window_members(plan, rollouts)
        return cls(
            event_id=first.event_id,
            event_hash=first.event_hash,
            data_set=first.data_set,
            dimension=first.dimension,
            categories=tuple(first.categories),
            unit="step" if plan is None else "window",
            names=members.names,
            n_people=members.n_people,
            shares=members.shares,
            concentration=np.full(len(members.names), anchor_concentration(first)),
            seeds=tuple(rollout.seed for rollout in rollouts),
            readout=members.readout,
            n_failed=members.n_failed,
            made_with={"config": _settings(first), "versions": first.versions},
        )

    @property
    def joint(self) -> bool:
        """Whether it speaks of all categories together, not only of each by itself."""
        return not self.level_map

    def mean(self) -> Floats:
        """Mean over the members, `[T, K]`."""
        return self.shares.mean(axis=0)

    def median(self) -> Floats:
        """Median share of the crowd, `[T, K]`; rows need not sum to 1."""
        return share_quantiles(self.shares, self.concentration, self._levels([0.5]))[0]

    def bands(self, levels: Sequence[float] = LEVELS) -> Bands:
        """Central bands of the crowd's share: between rollouts, without the sampling of people."""
        return self._bands(levels, lambda wanted: share_quantiles(self.shares, self.concentration, wanted))

    def predictive_bands(self, levels: Sequence[float] = LEVELS) -> Bands:
        """Central bands of the share among `n_people`: the sampling of people included.

        Counts are whole, so that the bands hold at least the level.
        """
        people = np.asarray(self.n_people)[:, None]
        cdf = self._cdf()

        def quantiles(wanted: Sequence[float]) -> Floats:
            return np.stack([count_quantiles(step, wanted) for step in cdf], axis=1) / people

        return self._bands(levels, quantiles)

    def count_cdf(self) -> tuple[Floats, ...]:
        """``P(X_k <= x)`` for x = 0..n, the sampling of people included: for each step `[K, n + 1]`."""
        cdf = self._cdf()
        if not self.level_map:
            return cdf
        levels, images = self.level_map
        return tuple(np.interp(step, levels, images) for step in cdf)

    def predictive_counts(self, n: int | Sequence[int] | None, size: int, key: int) -> NDArray[np.int64]:
        """Keyed draws of how many of n people choose each category, `[size, T, K]`.

        Args:
            n: number of people, one or one per step (None: `n_people`).
            size: number of draws; the members take turns, each for a whole trajectory.
            key: stream key (`mf_llm.simulation.keyed_draws.stream_key`).

        Raises:
            InputError: the forecast speaks of each category by itself (`joint` is False).
        """
        if not self.joint:
            raise InputError(
                f"`predictive_counts` must have a joint forecast, but that of event {self.event_id!r} was "
                "recalibrated category by category; counts of several categories would not sum to n; use `count_cdf`."
            )
        n = self.n_people if n is None else np.broadcast_to(n, len(self.names)).tolist()
        return draw_counts(self.shares, self.concentration, n, size, key)

    def table(self, levels: Sequence[float] = LEVELS) -> pa.Table:
        """One row per step and category as a `pyarrow.Table`: mean, median, bands of both layers."""
        import pyarrow as pa

        bands = {"low": self.bands(levels), "counted_low": self.predictive_bands(levels)}
        columns: dict[str, Any] = {
            "data_set": [self.data_set] * self.mean().size,
            "event_id": [self.event_id] * self.mean().size,
            "unit": [self.unit] * self.mean().size,
            "name": np.repeat(self.names, len(self.categories)).tolist(),
            "category": list(self.categories) * len(self.names),
            "n_people": np.repeat(self.n_people, len(self.categories)),
            "n_rollouts": [len(self.shares)] * self.mean().size,
            "mean": self.mean().ravel(),
            "median": self.median().ravel(),
        }
        for name, found in bands.items():
            for level, (low, high) in found.items():
                columns[f"{name}_{100 * level:g}"] = low.ravel()
                columns[f"{name.replace('low', 'high')}_{100 * level:g}"] = high.ravel()
        return pa.table(columns)

    def to_frame(self, levels: Sequence[float] = LEVELS) -> pandas.DataFrame:
        """`table` as a data frame."""
        return self.table(levels).to_pandas()

    def save(self, path: str | Path) -> Path:
        """Writes one JSON file, whole or not at all; an infinite concentration is written as null."""
        record = {"schema_version": FORECAST_SCHEMA_VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}
        write_json(Path(path), record)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Forecast:
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, or is no forecast of this version.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            version = record.pop("schema_version", None)
            if version == FORECAST_SCHEMA_VERSION:
                for name in ("categories", "names", "n_people", "seeds"):
                    record[name] = tuple(record[name])
                record["level_map"] = tuple(map(tuple, record["level_map"]))
                record["concentration"] = [np.inf if entry is None else entry for entry in record["concentration"]]
                return cls(**record)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path} must be a forecast written by Forecast.save, but it cannot be read "
                f"({str(error).splitlines()[0]}); make it again."
            ) from error
        raise InputError(
            f"{path} must have schema_version {FORECAST_SCHEMA_VERSION}, got {version!r}; it was written by another "
            "version of mf_llm; make it again or install that version."
        )

    def _cdf(self) -> tuple[Floats, ...]:
        sizes = np.asarray(self.n_people)
        found: dict[int, Floats] = {}
        for n in set(self.n_people):
            places = np.flatnonzero(sizes == n)
            pmf = count_probabilities(self.shares[:, places], self.concentration[places], n)
            found |= dict(zip(places.tolist(), normalise(pmf).cumsum(axis=-1), strict=True))
        return tuple(found[place] for place in range(len(sizes)))

    def _levels(self, levels: Sequence[float]) -> list[float]:
        """Where the wanted levels lie before the recalibration of quantiles."""
        if not self.level_map:
            return list(levels)
        known, images = self.level_map
        return np.interp(levels, images, known).tolist()

    def _bands(self, levels: Sequence[float], quantiles: Any) -> Bands:
        for level in levels:
            if not 0 < level < 1:
                raise InputError(f"`levels` must lie between 0 and 1, got {level}; 0.8 is a band of 80 %.")
        lower = quantiles(self._levels([(1 - level) / 2 for level in levels]))
        upper = quantiles(self._levels([(1 + level) / 2 for level in levels]))
        return {level: (lower[place], upper[place]) for place, level in enumerate(levels)}


def check_ensemble(rollouts: Sequence[Rollout]) -> None:
    """Refuses rollouts that are no ensemble: of several events, configurations or warm-ups, or with a seed twice.

    Raises:
        InputError: saying what differs.
    """
    if not rollouts:
        raise InputError("`rollouts` must hold at least one rollout, got none; simulate the event first.")
    first = rollouts[0]
    for what, read in (
        ("event", lambda rollout: (rollout.event_id, rollout.event_hash)),
        ("dimension", lambda rollout: rollout.dimension),
        ("categories", lambda rollout: tuple(rollout.categories)),
        ("warm-up", lambda rollout: [(row.turn, row.label, row.text) for row in rollout.actions if _real(row)]),
        ("configuration", _settings),
        ("model", lambda rollout: rollout.versions.get("weights")),
    ):
        for rollout in rollouts[1:]:
            if read(rollout) != read(first):
                raise InputError(
                    f"`rollouts` of a forecast must have the same {what}, but those of event {first.event_id!r} with "
                    f"seeds {first.seed} and {rollout.seed} (event {rollout.event_id!r}) differ; their spread would "
                    "not be the uncertainty of one model about one event; make a forecast of each kind."
                )
    seeds = [rollout.seed for rollout in rollouts]
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise InputError(
            f"`rollouts` must have different seeds, got several of event {first.event_id!r} with seed {twice}; a "
            "rollout would count twice; give each once."
        )
    if first.dimension is None:
        raise InputError(
            f"`rollouts` must have a dimension, got free text of event {first.event_id!r}; no shares can be forecast; "
            "annotate them, or simulate with a dimension."
        )


def _real(row: Any) -> bool:
    return row.source == "real"


def _settings(rollout: Rollout) -> dict[str, Any]:
    return {name: value for name, value in rollout.config.items() if name != "seed"}
