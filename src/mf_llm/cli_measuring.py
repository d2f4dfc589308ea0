"""The commands that measure: evaluate, compare, forecast, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mf_llm import cli_options as options
from mf_llm.cli_options import LARGEST_SEED, MOST, Dtype, Events, words


def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder of `mf-llm simulate`.")],
    events: Annotated[
        str | None, typer.Option(help="Where the real events are.  [default: where the run found them]")
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw each event's trajectory into RUN_DIR/plots.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Score a run against what people really did."""
    from mf_llm.commands.evaluate_run import run_evaluate

    run_evaluate(run_dir, events=events, plots=plots, seed=seed)


def compare(
    events: Events,
    output: Annotated[Path, typer.Option(help="Folder of results and rollouts.")] = Path("runs/compare"),
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated methods or groups: all, forecasters (no language model), replays, untuned, tuned; "
            "with +sampled an action is drawn per person."
        ),
    ] = "uniform,prior,carry,last",
    data_sets: Annotated[str, typer.Option(help="Comma-separated data sets.  [default: all]")] = "",
    checkpoints: Annotated[
        Path, typer.Option(help="Folder of the checkpoints of tuned methods (METHOD-seedN).")
    ] = Path("runs/train"),
    model: Annotated[
        str | None, typer.Option(help="Backbone of untuned methods: folder or Hub id.  [default: the backbone]")
    ] = None,
    dtype: options.Weights = Dtype.auto,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many test events of each data set.")] = None,
    method_list: Annotated[
        str, typer.Option(help="Methods, options and pairs: benchmark, robustness, or a YAML file.")
    ] = "benchmark",
    rollouts: Annotated[
        Path | None,
        typer.Option(help="Folder of the rollouts, which are made once.  [default: OUTPUT/rollouts]"),
    ] = None,
    events_together: Annotated[
        int, typer.Option(min=1, help="Events that are simulated side by side: faster, and more memory.")
    ] = 32,
    train: Annotated[
        bool, typer.Option("--train", help="Train missing checkpoints first (hours; what is finished stays).")
    ] = False,
    training_table: Annotated[Path | None, typer.Option(help="How (YAML).  [default: the package's]")] = None,
    simulate: Annotated[bool, typer.Option(help="Make missing rollouts, or judge what is there.")] = True,
    validation: Annotated[
        bool,
        typer.Option(
            "--validation",
            help="Judge on validation events, and on a survey's wave before the last: to choose settings by.",
        ),
    ] = False,
    disjoint_stories: Annotated[
        bool, typer.Option("--disjoint-stories", help="Only test events whose story no training event tells.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A trial of minutes: one event of each data set, two windows, few methods."),
    ] = False,
    long_horizon: Annotated[
        bool, typer.Option("--long-horizon", help="Join the test blocks of each stream into one long event.")
    ] = False,
    replay: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Repeat the long events up to this many actions (synthetic).")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write OUTPUT/report.html, too: a page without texts.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which rollouts are there, and stop.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the bootstrap.")] = 0,
    bootstrap: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Bootstrap samples.  [default: the protocol's]")
    ] = None,
) -> None:
    """Compare methods on the test events, side by side, with intervals; what was finished is not made again."""
    from mf_llm.commands.compare_methods import CompareRequest, run_compare

    given: dict[str, Any] = {"model": model, "n_bootstrap": bootstrap}
    run_compare(
        CompareRequest(
            events=events,
            methods=words(methods),
            output=output,
            method_list=method_list,
            data_sets=words(data_sets),
            checkpoints=str(checkpoints),
            rollouts=rollouts,
            dtype=dtype.value,
            limit=limit,
            events_together=events_together,
            train=train,
            training_table=training_table,
            simulate=simulate,
            validation=validation,
            disjoint_stories=disjoint_stories,
            quick=quick,
            long_horizon=long_horizon,
            replay=replay,
            report=report,
            dry_run=dry_run,
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    )


def forecast(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders; rollouts of one event with several seeds are an ensemble."),
    ],
    data: Annotated[str, typer.Option(help="Where the real events are.")],
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/forecast"),
    recalibrate_on: Annotated[
        list[Path] | None,
        typer.Option(
            help="Run folder of validation events to recalibrate on (repeatable).  [default: no recalibration]"
        ),
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw trajectories with bands, PIT and coverage.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the bootstrap and of random draws.")] = 0,
    bootstrap: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Bootstrap samples.  [default: the protocol's]")
    ] = None,
) -> None:
    """Make forecasts with bands out of rollouts of several seeds, and judge them by CRPS, PIT and coverage."""
    from mf_llm.commands.forecast_events import ForecastRequest, run_forecast

    given = {} if bootstrap is None else {"n_bootstrap": bootstrap}
    run_forecast(
        ForecastRequest(
            runs=tuple(runs),
            data=data,
            output=output,
            recalibrate_on=tuple(recalibrate_on or ()),
            plots=plots,
            seed=seed,
            **given,
        )
    )


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of `mf-llm compare`.")],
    events: Annotated[
        str | None, typer.Option(help="The events that were compared.  [default: nothing real is shown]")
    ] = None,
    rollouts: Annotated[Path | None, typer.Option(help="Folder of the rollouts.  [default: DIR/rollouts]")] = None,
    output: Annotated[Path | None, typer.Option(help="The page.  [default: DIR/report.html]")] = None,
    max_events: Annotated[int, typer.Option(min=0, help="Trajectories drawn of each data set.")] = 2,
    texts: Annotated[bool, typer.Option(help="Show texts that people or models wrote.")] = True,
) -> None:
    """Write a comparison as one HTML page that needs nothing beside itself."""
    from mf_llm.commands.write_report import run_report

    run_report(folder, events=events, rollouts=rollouts, output=output, max_events=max_events, texts=texts)
