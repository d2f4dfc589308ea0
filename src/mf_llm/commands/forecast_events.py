"""``mf-llm forecast``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.atomic_files import write_table
from mf_llm.commands.evaluate_run import MAX_PLOTS, terminal_width
from mf_llm.errors import InputError
from mf_llm.evaluation.intervals import N_BOOTSTRAP
from mf_llm.events import Event, load_event_sets
from mf_llm.folder_lock import only_writer
from mf_llm.simulation.rollout import load_rollouts
from mf_llm.simulation.run_folder import rollout_name

if TYPE_CHECKING:
    from mf_llm.evaluation.protocol import WindowPlan
    from mf_llm.forecasting import Forecast, ForecastReport, Recalibration
    from mf_llm.forecasting.event_scores import EventScores
    from mf_llm.forecasting.recalibration_fit import CalibrationEvent

ROLLOUTS, CARRY = "rollouts", "carry"
RECALIBRATED = ", recalibrated"


@dataclass(frozen=True, kw_only=True)
class ForecastRequest:
    """What the command line asked for.

    Attributes:
        runs: run folders; rollouts of one event in several of them are one ensemble.
        data: where the real events are.
        output: folder of the results.
        recalibrate_on: run folders of validation events; without them forecasts are left as they are.
        plots: draw figures.
        seed: of the bootstrap, the PIT's v and the draws of the energy score.
        n_bootstrap: bootstrap samples.
    """

    runs: tuple[Path, ...]
    data: str
    output: Path
    recalibrate_on: tuple[Path, ...] = ()
    plots: bool = True
    seed: int = 0
    n_bootstrap: int = N_BOOTSTRAP


@dataclass(frozen=True, eq=False)
class _DataSet:
    """The forecasts of one data set: of windows that people can be counted in, else of the steps of the rollouts."""

    plans: list[WindowPlan]
    forecasts: dict[str, list[Forecast]]
    unjudged: list[Forecast]


def run_forecast(request: ForecastRequest) -> ForecastReport | None:
    """Makes forecasts out of rollouts of several seeds; recalibrates, judges, writes and draws them.

    Written are ``forecasts.parquet`` (and one JSON file per event under ``forecasts/``), ``recalibrations/``, figures,
    and where people's labels are known ``forecast_scores.csv``, ``forecast_windows.csv`` and ``forecast.json``.

    Returns:
        The scores; None where there are no labels to judge by.

    Raises:
        InputError: the runs do not belong to the events or to each other, or a test event was to be calibrated on.
    """
    from mf_llm.forecasting import judge_forecasts

    sets = load_event_sets(request.data)
    judged = _data_sets(request.runs, sets)
    with only_writer(request.output):
        learned: dict[str, dict[str, Recalibration]] = {}
        if request.recalibrate_on:
            validation = _data_sets(request.recalibrate_on, sets)
            _check_held_out(judged, validation)
            learned = {
                name: _recalibrations(name, validation, sorted(data.forecasts)) for name, data in judged.items()
            }
            _save_recalibrations(learned, request.output / "recalibrations")
        methods = {name: _recalibrated(data.forecasts, learned.get(name, {})) for name, data in judged.items()}
        best = ROLLOUTS + (RECALIBRATED if request.recalibrate_on else "")
        _save_forecasts(judged, methods, best, request.output)
        scores = {
            name: {method: _score(made, judged[name].plans, request.seed) for method, made in found.items()}
            for name, found in methods.items()
            if found
        }
        report = None
        if scores:
            pairs = [(best, CARRY)] + ([(best, CARRY + RECALIBRATED)] if request.recalibrate_on else [])
            report = judge_forecasts(scores, pairs, seed=request.seed, n_bootstrap=request.n_bootstrap)
            report.summary["recalibrations"] = {
                name: {method: _described(one) for method, one in found.items()} for name, found in learned.items()
            }
            report.save(request.output)
            print(report.table(terminal_width()))
        else:
            print("No window of labelled people was simulated: there are forecasts, and nothing to judge them by.")
        if request.plots:
            _plot(judged, methods, best, report, request.output)
        print(f"Forecasts: {request.output / 'forecasts.parquet'}")
        return report


def _data_sets(runs: Sequence[Path], sets: Mapping[str, list[Event]]) -> dict[str, _DataSet]:
    from mf_llm.evaluation.matching import match
    from mf_llm.evaluation.protocol import choose_windows, first_dimension
    from mf_llm.forecasting import Forecast
    from mf_llm.forecasting.observed_windows import forecast_plan

    rollouts = [rollout for run in runs for rollout in load_rollouts(run)]
    found: dict[str, _DataSet] = {}
    for (name, dimension), members in match(rollouts, sets).items():
        if dimension is None:
            raise InputError(
                f"`RUN` must hold rollouts with a dimension, got free text of event {members[0][0].event_id!r}; no "
                "shares can be forecast; simulate with a dimension."
            )
        windows = choose_windows(sets[name], dimension)
        ensembles = [(forecast_plan(event, group, windows), group) for event, group in members]
        plans = [plan for plan, _ in ensembles if plan.n_windows]
        made = [Forecast.from_rollouts(group, plan) for plan, group in ensembles if plan.n_windows]
        unjudged = [Forecast.from_rollouts(group) for plan, group in ensembles if not plan.n_windows]
        forecasts = {ROLLOUTS: made, CARRY: _carried(name, plans, sets[name])} if plans else {}
        label = name if dimension == first_dimension(sets[name]) else f"{name}/{dimension}"
        found[label] = _DataSet(plans, forecasts, unjudged)
    return found


def _carried(name: str, plans: Sequence[WindowPlan], events: Sequence[Event]) -> list[Forecast]:
    from mf_llm.evaluation.forecasters import Training
    from mf_llm.forecasting import carry_forecast

    first = plans[0]
    windows = first.windows
    if not windows.waves:
        # Fitted with the warm-up the rollouts had, as in `evaluate_rollouts`.
        usual = Counter(len(plan.warm_up) for plan in plans).most_common(1)[0][0]
        windows = replace(windows, warm_up=max(usual, 1))
    training = Training(events, windows, first.dimension, first.categories)
    return [carry_forecast(plan, training, name) for plan in plans]


def _check_held_out(judged: Mapping[str, _DataSet], validation: Mapping[str, _DataSet]) -> None:
    """Nothing is learned from test events, nor from an event that is judged."""
    ids = {(name, plan.event.event_id) for name, data in judged.items() for plan in data.plans}
    for name, data in validation.items():
        for plan in data.plans:
            if plan.event.split == "test" or (name, plan.event.event_id) in ids:
                why = "a test event" if plan.event.split == "test" else "one of the judged events"
                raise InputError(
                    f"`--recalibrate-on` must hold validation events, got {plan.event.event_id!r}, {why}; the scores "
                    "would look better than the forecasts are; simulate validation events for it (--split validation)."
                )
    if not any(data.plans for data in validation.values()):
        raise InputError(
            "`--recalibrate-on` must hold events in which a whole window of labelled people was simulated, got none; "
            "nothing can be learned; simulate validation events to their end."
        )


def _recalibrations(name: str, validation: Mapping[str, _DataSet], methods: Sequence[str]) -> dict[str, Recalibration]:
    """Of each method the recalibration for one data set.

    It is fitted on the data set's own validation events where there are enough of them, else on those of all data sets
    together, in which case nothing that belongs to single categories is learned. Both methods get the same events.
    """
    from mf_llm.forecasting import fit_recalibration
    from mf_llm.forecasting.recalibration_fit import KINDS, MIN_EVENTS

    own = {name: validation[name]} if name in validation and len(validation[name].plans) >= MIN_EVENTS else {}
    kinds = KINDS if own else [kind for kind in KINDS if kind != "bias"]
    events = {method: _calibration_events(own or validation, method) for method in methods}
    return {method: fit_recalibration(found, kinds) for method, found in events.items()}


def _calibration_events(validation: Mapping[str, _DataSet], method: str) -> list[CalibrationEvent]:
    from mf_llm.forecasting.observed_windows import window_counts
    from mf_llm.forecasting.recalibration_fit import CalibrationEvent

    return [
        CalibrationEvent(forecast, window_counts(plan), plan.event.group)
        for data in validation.values()
        if data.plans
        for forecast, plan in zip(data.forecasts[method], data.plans, strict=True)
    ]


def _recalibrated(
    forecasts: Mapping[str, list[Forecast]], learned: Mapping[str, Recalibration]
) -> dict[str, list[Forecast]]:
    """Each method as it is and, where it was fitted, recalibrated."""
    found = {}
    for method, made in forecasts.items():
        found[method] = made
        if method in learned:
            found[method + RECALIBRATED] = [learned[method].apply(forecast) for forecast in made]
    return found


def _score(forecasts: Sequence[Forecast], plans: Sequence[WindowPlan], seed: int) -> list[EventScores]:
    from mf_llm.forecasting import score_forecast

    return [score_forecast(forecast, plan, seed=seed) for forecast, plan in zip(forecasts, plans, strict=True)]


def _save_recalibrations(learned: Mapping[str, Mapping[str, Recalibration]], folder: Path) -> None:
    for name, found in learned.items():
        for method, recalibration in found.items():
            recalibration.save(folder / f"{_file_name(name)}-{method}.json")


def _described(recalibration: Recalibration) -> dict[str, Any]:
    made = recalibration.made_from
    scores = {key: made[key] for key in ("data_sets", "cross_validated_log_score")}
    return {"kind": recalibration.kind, "n_events": len(made["events"]), **scores}


def _save_forecasts(
    judged: Mapping[str, _DataSet], methods: Mapping[str, Mapping[str, list[Forecast]]], best: str, output: Path
) -> None:
    import pyarrow as pa

    tables = []
    for name, data in judged.items():
        for forecast in [*methods[name].get(best, []), *data.unjudged]:
            forecast.save(output / "forecasts" / _file_name(name) / f"{_file_name(forecast.event_id)}.json")
            tables.append(forecast.table())
    write_table(output / "forecasts.parquet", pa.concat_tables(tables, promote_options="permissive"))


def _plot(
    judged: Mapping[str, _DataSet],
    methods: Mapping[str, Mapping[str, list[Forecast]]],
    best: str,
    report: ForecastReport | None,
    output: Path,
) -> None:
    from mf_llm.forecasting import plot_forecast
    from mf_llm.forecasting.forecast_plots import plot_calibration

    left = MAX_PLOTS
    for name, data in judged.items():
        pairs = [*zip(methods[name].get(best, []), data.plans, strict=False), *((one, None) for one in data.unjudged)]
        for forecast, plan in pairs[:left]:
            plot_forecast(forecast, plan, output / "plots" / _file_name(name) / _file_name(forecast.event_id))
        left -= len(pairs[:left])
    if report is not None:
        title = "Counts of real people in forecasts by simulated people (rollouts) and by carry-forward"
        plot_calibration(report.summary, output, title=title)


def _file_name(text: str) -> str:
    return rollout_name(text, 0).removesuffix("-seed0")
