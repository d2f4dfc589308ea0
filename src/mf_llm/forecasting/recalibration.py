"""`Recalibration`: a forecast made as sure as validation events say it may be, and freed of its bias.

Two kinds of change, never both:

* of the **distribution of the crowd**: a member's shares p become ``softmax(power * log c + spread * (log p - log c) +
  bias)``, with c the geometric mean of the members; the crowd of window t = 0, 1, ... drifts away from where the
  forecast has it, with concentration ``exp(log_concentration + horizon * log(1 + t))``, which comes on top of a
  concentration that the forecast has itself (variances add). Right where a forecast is too sure, more so the further
  ahead, too even or too peaked, or leans towards some category everywhere; or where its members differ more than they
  should (`spread`). It keeps counts of all categories together, and tens of validation events bear its handful of
  parameters.
* of the **quantiles** (`level_map`; Kuleshov, Fenner and Ermon 2018): levels are mapped to how often validation events
  stayed below them. Right where the *shape* of the distribution is wrong, with many validation events; it treats
  categories one by one, so that there are no joint draws and no energy score.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import normalise
from mf_llm.forecasting.forecast import Forecast

RECALIBRATION_SCHEMA_VERSION = 1

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """What is changed about a forecast; fitted by `mf_llm.forecasting.recalibration_fit.fit_recalibration`.

    Attributes:
        kind: which parameters were fitted ("none": nothing is changed).
        log_concentration: of the drift; None for no drift.
        horizon: how the log of that concentration changes with ``log(1 + t)``.
        power: exponent of the members' centre (1: as it is; 0: even shares).
        spread: exponent of a member against the centre (0: all members alike).
        bias: what is added to the log shares, `[K]`; () for nothing.
        level_map: see `Forecast`; () for none.
        made_from: how it was fitted: events, scores of the kinds that were tried.
    """

    kind: str = "none"
    log_concentration: float | None = None
    horizon: float = 0.0
    power: float = 1.0
    spread: float = 1.0
    bias: tuple[float, ...] = ()
    level_map: tuple[tuple[float, ...], ...] = ()
    made_from: dict[str, Any] = field(default_factory=dict)

    def apply(self, forecast: Forecast) -> Forecast:
        """The recalibrated forecast.

        Raises:
            InputError: the bias is that of another number of categories, or the forecast was recalibrated before.
        """
        if forecast.level_map:
            raise InputError(
                f"`forecast` must not have been recalibrated by quantiles before, that of event "
                f"{forecast.event_id!r} was; two maps would be confused; start from the first forecast."
            )
        if self.bias and len(self.bias) != len(forecast.categories):
            raise InputError(
                f"`forecast` must have the {len(self.bias)} categories that the recalibration was fitted on, got "
                f"{list(forecast.categories)} of event {forecast.event_id!r}; a bias would hit another category; fit "
                "it on events of this data set."
            )
        places = np.arange(len(forecast.names))
        shares, concentration = self.changed(forecast.shares, forecast.concentration, places)
        made_with = forecast.made_with | {"recalibration": self.kind}
        return replace(
            forecast, shares=shares, concentration=concentration, level_map=self.level_map, made_with=made_with
        )

    def changed(self, shares: Floats, concentration: Floats, places: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Members `[R, T, K]` and concentration `[T]` after the change of the crowd's distribution.

        Args:
            shares: members `[R, T, K]`, positive.
            concentration: `[T]`.
            places: number of each window in its event, from 0, `[T]`.
        """
        if self.power != 1 or self.spread != 1 or self.bias:
            logs = np.log(shares)
            centre = logs.mean(axis=0)
            logs = self.power * centre + self.spread * (logs - centre) + np.asarray(self.bias or 0.0)
            shares = normalise(np.exp(logs - logs.max(axis=-1, keepdims=True)))
        if self.log_concentration is not None:
            drift = np.exp(self.log_concentration + self.horizon * np.log1p(places))
            # If q ~ Dirichlet(c p) and then q' ~ Dirichlet(d q), q' has the variance of Dirichlet(e p) with this e.
            own = 1 / (1 + concentration)
            concentration = 1 / (own + (1 - own) / (1 + drift)) - 1
        return shares, concentration

    def save(self, path: str | Path) -> Path:
        """Writes one JSON file, whole or not at all."""
        write_json(Path(path), {"schema_version": RECALIBRATION_SCHEMA_VERSION} | asdict(self))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Recalibration:
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, or is no recalibration of this version.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            if record.pop("schema_version") != RECALIBRATION_SCHEMA_VERSION:
                raise ValueError("another version of mf_llm wrote it")
            record = {f.name: record[f.name] for f in fields(cls)}
            bias, level_map = tuple(record["bias"]), tuple(map(tuple, record["level_map"]))
            return cls(**record | {"bias": bias, "level_map": level_map})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path} must be a recalibration written by Recalibration.save, but it cannot be read "
                f"({str(error).splitlines()[0]}); fit it again."
            ) from error
