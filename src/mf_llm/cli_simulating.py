"""The command that simulates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mf_llm import cli_options as options
from mf_llm.cli_options import LARGEST_SEED, MANY, Action, Anchor, Dtype, Events, Readout, Signal, Split, Steps


def simulate(
    events: Events,
    output: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/NAME-OF-EVENTS]")] = None,
    split: Annotated[Split | None, typer.Option(help="Only events of this split.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Only the event with this id (repeatable).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many events of each data set.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Checkpoint or causal language model: folder or Hub id.  [default: the backbone]"),
    ] = None,
    dtype: options.Weights = Dtype.auto,
    endpoint: options.EndpointUrl = None,
    endpoint_model: options.EndpointModel = None,
    api_key_env: options.ApiKeyEnv = None,
    concurrency: options.Concurrency = None,
    retries: options.Retries = None,
    timeout: options.Timeout = None,
    requests_per_minute: options.RequestsPerMinute = None,
    price: options.Price = None,
    population: options.PopulationTable = None,
    bins: options.Bins = None,
    weight_column: options.WeightColumn = None,
    n_people: options.NPeople = None,
    n_steps: options.NSteps = None,
    signal: Annotated[
        Signal | None, typer.Option(help="What people see of the population.  [default: as trained, else text]")
    ] = None,
    readout: Annotated[
        Readout, typer.Option(help="Probabilities of all options, or one drawn action.")
    ] = Readout.exact,
    anchored: Annotated[
        bool | None,
        typer.Option(
            "--anchored/--plain", help="Perturb the warm-up's shares, or not.  [default: as trained, else plain]"
        ),
    ] = None,
    anchor: Annotated[
        Anchor | None,
        typer.Option(
            help="Which shares are perturbed: the warm-up's, or what a regression fitted on training events makes of "
            "them, of themselves or with topics and texts read, too (probe).  [default: carry]"
        ),
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Divide by the options' likelihoods under a prompt without content.")
    ] = False,
    dimension: Annotated[str | None, typer.Option(help="What is read out of actions.  [default: the first]")] = None,
    action: Annotated[
        Action | None,
        typer.Option(help="What an action is; auto looks at the warm-up.  [default: as trained, else auto]"),
    ] = None,
    steps: Annotated[
        Steps, typer.Option(help="Who acts together; auto takes waves where there are any.")
    ] = Steps.auto,
    agents_per_step: Annotated[
        int | None, typer.Option(min=1, help="People who act together (by count).  [default: as trained, else 16]")
    ] = None,
    seconds_per_step: Annotated[float | None, typer.Option(help="Length of a time slot (by time).")] = None,
    people_per_wave: Annotated[
        int | None, typer.Option(min=1, help="Simulate a sample of this many people of a step (for large waves).")
    ] = None,
    choice_temperature: Annotated[
        float | None,
        typer.Option(help="Temperature of the options' probabilities (plain readout).  [default: as trained, else 1]"),
    ] = None,
    shown_answers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Answers that stand below the signal's shares, in their proportions.  [default: as trained, else 0]",
        ),
    ] = None,
    option_orders: Annotated[
        int | None,
        typer.Option(min=1, help="Orders in which the options are listed, by turns.  [default: as trained, else 2]"),
    ] = None,
    warm_up: Annotated[
        str | None,
        typer.Option(help="Real actions fed in first, or the last warm-up wave.  [default: the protocol's choice]"),
    ] = None,
    max_actions: Annotated[
        int | None, typer.Option(min=1, help="Actions of an event, warm-up included.  [default: 304; surveys: all]")
    ] = None,
    writers: Annotated[
        int | None,
        typer.Option(
            min=0, help="At most this many people of a step write a text beside their label.  [default: all]"
        ),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Bound of a person's text, in tokens.")] = None,
    signal_max_tokens: Annotated[int | None, typer.Option(min=1, help="Bound of a signal, in tokens.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=MANY, help="Number of seeds, one rollout each.")] = 1,
    warm_up_seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=LARGEST_SEED,
            help="Seed of the signals that are written in the warm-up: with one, all seeds set out from one warm-up.  "
            "[default: each seed its own]",
        ),
    ] = None,
    events_together: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rollouts, of events or seeds, that are made side by side: faster, and more memory.  [default: the "
            "seeds of one event; with --endpoint what keeps it busy]",
        ),
    ] = None,
    read_together: Annotated[
        bool,
        typer.Option(
            "--read-together",
            help="Rollouts side by side have their people asked in one batch, too: fewer and larger passes, for GPUs "
            "and short steps; probabilities differ by rounding from those made one by one.",
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the run folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print steps, tokens and time, and stop.")] = False,
) -> None:
    """Simulate events: warm-up on real actions, rollout on simulated ones."""
    from mf_llm.commands.named_endpoint import named_endpoint
    from mf_llm.commands.named_population import named_population
    from mf_llm.commands.simulate_events import SimulateRequest, run_simulate

    server = named_endpoint(
        endpoint,
        endpoint_model,
        api_key_env=api_key_env,
        price=price,
        concurrency=concurrency,
        retries=retries,
        timeout=timeout,
        requests_per_minute=requests_per_minute,
    )
    run_simulate(
        SimulateRequest(
            events=events,
            output=output,
            split=split.value if split else None,
            event_ids=tuple(event or ()),
            limit=limit,
            model=model,
            dtype=dtype.value,
            endpoint=server,
            population=named_population(population, bins=bins, weight=weight_column, n_people=n_people),
            n_steps=n_steps,
            seeds=tuple(range(seed, seed + seeds)),
            events_together=events_together,
            read_together=read_together,
            resume=resume,
            dry_run=dry_run,
            options={
                "signal": signal.value if signal else None,
                "readout": readout.value,
                "anchored": anchored,
                "anchor": anchor.value if anchor else None,
                "calibrated": calibrated,
                "choice_temperature": choice_temperature,
                "dimension": dimension,
                "action": action.value if action else None,
                "steps": steps.value,
                "agents_per_step": agents_per_step,
                "seconds_per_step": seconds_per_step,
                "max_people_per_step": people_per_wave,
                "shown_answers": shown_answers,
                "option_orders": option_orders,
                "warm_up": int(warm_up)
                if warm_up is not None and warm_up.isdecimal() and len(warm_up) < 19
                else warm_up,
                "max_actions": max_actions,
                "writers": writers,
                "max_new_tokens": max_new_tokens,
                "signal_max_tokens": signal_max_tokens,
                "warm_up_seed": warm_up_seed,
            },
        )
    )


def intervene(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run folder of `mf-llm simulate`; its seeds are what effects are over."),
    ],
    plan: Annotated[Path, typer.Option(help="Candidates, and what they are for (YAML or JSON).")],
    output: Annotated[
        Path | None, typer.Option(help="Folder of branches and results.  [default: RUN/interventions/PLAN]")
    ] = None,
    events: Annotated[str | None, typer.Option(help="Where the event is.  [default: where the run found it]")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="At most this many seeds of the run.  [default: all]")
    ] = None,
    halving: Annotated[
        bool, typer.Option("--halving/--all-seeds", help="Give up the worse half of the candidates on few seeds.")
    ] = True,
    comparison: Annotated[
        Path | None, typer.Option(help="Output of `mf-llm compare`: how far the report lets the model be trusted.")
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw trajectories, effects and the ranking.")] = True,
    branches_together: Annotated[
        int, typer.Option(min=1, help="Branches that are made side by side: faster, and more memory.")
    ] = 32,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the output folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and stop.")] = False,
) -> None:
    """Do something to a simulated population: branches, their effects, and which candidate is best."""
    from mf_llm.commands.intervene_run import InterveneRequest, run_intervene

    run_intervene(
        InterveneRequest(
            run=run,
            plan=plan,
            output=output,
            events=events,
            seeds=seeds,
            halving=halving,
            comparison=comparison,
            plots=plots,
            branches_together=branches_together,
            resume=resume,
            dry_run=dry_run,
        )
    )
