"""The command that makes events fit to be shared: scrub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mf_llm.cli_options import Events, words


def scrub(
    events: Events,
    output: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Where the scrubbed events go.")],
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Further names to be taken out, one in each line (UTF-8).")
    ] = None,
    ner: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Token-classification checkpoint that finds further names of people."),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(help="Comma-separated: what stays as it is, out of numbers, links, ids, extra.  [default: none]"),
    ] = "",
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file of what was changed, in numbers.")
    ] = None,
) -> None:
    """Take names, handles, links, addresses and numbers out of events: a help, no guarantee."""
    from mf_llm.commands.scrub_events import ScrubRequest, run_scrub

    run_scrub(ScrubRequest(events=events, output=output, names=names, ner=ner, keep=words(keep), report=report))
