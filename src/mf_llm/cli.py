"""The command line ``mf-llm``: reads arguments, calls `mf_llm.commands`, turns errors into exit codes.

Exit codes: 0 done; 2 something the user gave is not usable (one line says what and where); 1 a fault of ours;
130 interrupted (what was finished is kept).
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mf_llm.errors import InputError

app = typer.Typer(
    help="Simulate how a population reacts to an event, and measure how far that is from what people did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Split = StrEnum("Split", {name: name for name in ("train", "validation", "test")})
Signal = StrEnum("Signal", {name: name for name in ("text", "statistics", "both", "none", "recent", "popular")})
Readout = StrEnum("Readout", {name: name for name in ("exact", "sampled")})
Action = StrEnum("Action", {name: name for name in ("auto", "text", "choice", "label_text")})
Steps = StrEnum("Steps", {name: name for name in ("auto", "count", "time", "wave")})
Annotator = StrEnum("Annotator", {name: name for name in ("llm", "classifier", "rule", "endpoint")})
Dtype = StrEnum("Dtype", {name: name for name in ("auto", "float32", "bfloat16", "float16")})

# typer carries its own copy of click or uses the installed one, depending on its version; this is the right class in
# both cases: BadParameter -> UsageError -> ClickException.
_ClickException = typer.BadParameter.__mro__[2]

_INTERRUPTED = 130
_HOW_TO_GO_ON = "interrupted; finished steps are kept; go on with --resume"

Events = Annotated[
    str,
    typer.Argument(
        metavar="EVENTS",
        help="A file of events (JSONL, JSONL.gz, Parquet, CSV), a folder of them, the name of a packaged event, or a "
        "data set id on the Hub.",
    ),
]


@app.command()
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
    dtype: Annotated[
        Dtype, typer.Option(help="Weights; auto is bfloat16 where the machine is fast in it.")
    ] = Dtype.auto,
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
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, one rollout each.")] = 1,
    events_together: Annotated[
        int, typer.Option(min=1, help="Events that are simulated side by side: faster, and more memory.")
    ] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in the run folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print steps, tokens and time, and stop.")] = False,
) -> None:
    """Simulate events: warm-up on real actions, rollout on simulated ones."""
    from mf_llm.commands.simulate_events import SimulateRequest, run_simulate

    run_simulate(
        SimulateRequest(
            events=events,
            output=output,
            split=split.value if split else None,
            event_ids=tuple(event or ()),
            limit=limit,
            model=model,
            dtype=dtype.value,
            seeds=tuple(range(seed, seed + seeds)),
            events_together=events_together,
            resume=resume,
            dry_run=dry_run,
            options={
                "signal": signal.value if signal else None,
                "readout": readout.value,
                "anchored": anchored,
                "calibrated": calibrated,
                "dimension": dimension,
                "action": action.value if action else None,
                "steps": steps.value,
                "agents_per_step": agents_per_step,
                "seconds_per_step": seconds_per_step,
                "max_people_per_step": people_per_wave,
                "warm_up": int(warm_up) if warm_up is not None and warm_up.isdigit() else warm_up,
                "max_actions": max_actions,
                "writers": writers,
                "max_new_tokens": max_new_tokens,
                "signal_max_tokens": signal_max_tokens,
            },
        )
    )


@app.command()
def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder of `mf-llm simulate`.")],
    events: Annotated[
        str | None, typer.Option(help="Where the real events are.  [default: where the run found them]")
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw each event's trajectory into RUN_DIR/plots.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Score a run against what people really did."""
    from mf_llm.commands.evaluate_run import run_evaluate

    run_evaluate(run_dir, events=events, plots=plots, seed=seed)


@app.command()
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
    dtype: Annotated[
        Dtype, typer.Option(help="Weights; auto is bfloat16 where the machine is fast in it.")
    ] = Dtype.auto,
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
        int | None, typer.Option(min=1, help="Repeat the long events up to this many actions (synthetic).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which rollouts are there, and stop.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    bootstrap: Annotated[int | None, typer.Option(min=1, help="Bootstrap samples.  [default: the protocol's]")] = None,
) -> None:
    """Compare methods on the test events, side by side, with intervals; what was finished is not made again."""
    from mf_llm.commands.compare_methods import CompareRequest, run_compare

    given = {"model": model, "n_bootstrap": bootstrap}
    run_compare(
        CompareRequest(
            events=events,
            methods=_words(methods),
            output=output,
            method_list=method_list,
            data_sets=_words(data_sets),
            checkpoints=str(checkpoints),
            rollouts=rollouts,
            dtype=dtype.value,
            limit=limit,
            events_together=events_together,
            train=train,
            training_table=training_table,
            simulate=simulate,
            disjoint_stories=disjoint_stories,
            quick=quick,
            long_horizon=long_horizon,
            replay=replay,
            dry_run=dry_run,
            seed=seed,
            **{name: value for name, value in given.items() if value is not None},
        )
    )


@app.command()
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


@app.command()
def annotate(
    events: Events,
    annotator: Annotated[Annotator, typer.Option(help="Who reads the texts.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model, saved head, classifier, or the server's name for its model.  [default: backbone; "
            "a head is fitted]"
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="What a head is fitted on.  [default: the backbone]")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Address of the server; its key is read from MF_LLM_API_KEY.")
    ] = None,
    dimension: Annotated[str | None, typer.Option(help="What is read.  [default: the first]")] = None,
    split: Annotated[Split, typer.Option(help="Split that is judged.")] = Split.test,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the results.  [default: annotations/NAME-OF-EVENTS]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many events of each data set.")] = None,
    with_topic: Annotated[bool, typer.Option(help="A fitted head also reads the topic.")] = True,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Divide by likelihoods without content (llm).")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of samples and bootstrap.")] = 0,
) -> None:
    """Judge an annotator against people's labels, and what its errors cost."""
    from mf_llm.commands.annotate_events import AnnotateRequest, run_annotate

    run_annotate(
        AnnotateRequest(
            events=events,
            annotator=annotator.value,
            model=model,
            backbone=backbone,
            base_url=base_url,
            dimension=dimension,
            split=split.value,
            output=output,
            limit=limit,
            with_topic=with_topic,
            calibrated=calibrated,
            seed=seed,
        )
    )


@app.command()
def memory(
    events: Events,
    model: Annotated[
        str | None, typer.Option(help="Backbone or checkpoint (its policy).  [default: the backbone]")
    ] = None,
    data_sets: Annotated[str, typer.Option(help="Comma-separated data sets.  [default: all]")] = "",
    n_texts: Annotated[int, typer.Option(min=2, help="Texts of each data set and split; topics are all taken.")] = 100,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the results.  [default: memory/NAME-OF-EVENTS]")
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Weights; auto is bfloat16 where the machine is fast in it.")
    ] = Dtype.auto,
    seed: Annotated[int, typer.Option(min=0, help="Seed of samples and bootstrap.")] = 0,
) -> None:
    """Can a backbone continue the texts that it is judged on?"""
    from mf_llm.commands.probe_memory import run_probe_memory
    from mf_llm.evaluation.memorisation import MemorisationConfig

    config = MemorisationConfig(n_texts=n_texts, seed=seed)
    given = {} if model is None else {"model": model}
    run_probe_memory(events, output=output, data_sets=_words(data_sets), dtype=dtype.value, config=config, **given)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _version(value: bool) -> None:
    if value:
        from mf_llm import __version__

        typer.echo(f"mf-llm {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of ``mf-llm``."""
    try:
        code = app(standalone_mode=False) or 0
        if code != _INTERRUPTED:
            sys.exit(code)
        _fail(_HOW_TO_GO_ON, _INTERRUPTED)
    except InputError as error:
        _fail(str(error), 2)
    except _ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail(_HOW_TO_GO_ON, _INTERRUPTED)
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; install the extra that needs it: pip install 'mf-llm[eval,plot]'", 1)
    except OSError as error:
        _fail(f"{error}; what was written before is kept", 1)
    except Exception as error:
        if os.environ.get("MF_LLM_DEBUG"):
            raise
        _fail(f"{type(error).__name__}: {error} (a fault of mf-llm; MF_LLM_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    print(f"mf-llm: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
