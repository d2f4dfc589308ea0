"""The commands about texts: annotate, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mf_llm import cli_options as options
from mf_llm.cli_options import Annotator, Dtype, Events, Split, words


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
    seed: Annotated[int, typer.Option(min=0, max=options.LARGEST_SEED, help="Seed of samples and bootstrap.")] = 0,
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
    dtype: options.Weights = Dtype.auto,
    seed: Annotated[int, typer.Option(min=0, max=options.LARGEST_SEED, help="Seed of samples and bootstrap.")] = 0,
) -> None:
    """Can a backbone continue the texts that it is judged on?"""
    from mf_llm.commands.probe_memory import run_probe_memory
    from mf_llm.evaluation.memorisation import MemorisationConfig

    config = MemorisationConfig(n_texts=n_texts, seed=seed)
    given = {} if model is None else {"model": model}
    run_probe_memory(events, output=output, data_sets=words(data_sets), dtype=dtype.value, config=config, **given)
