"""Types of the command line's options: what they may be, and what they say of themselves."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

# More of something that is kept in memory, or waited for, is a slip of the hand; larger seeds fit into no file.
MANY, MOST, LARGEST_SEED = 100_000, 1_000_000, 2**62

Split = StrEnum("Split", ["train", "validation", "test"])
Signal = StrEnum("Signal", ["text", "statistics", "both", "none", "recent", "popular"])
Readout = StrEnum("Readout", ["exact", "sampled"])
Anchor = StrEnum("Anchor", {"carry": "carry", "carry_regressed": "carry-regressed", "probe": "probe"})
Action = StrEnum("Action", ["auto", "text", "choice", "label_text"])
Steps = StrEnum("Steps", ["auto", "count", "time", "wave"])
Annotator = StrEnum("Annotator", ["llm", "classifier", "rule", "endpoint"])
Dtype = StrEnum("Dtype", ["auto", "float32", "bfloat16", "float16"])

Events = Annotated[
    str,
    typer.Argument(
        metavar="EVENTS",
        help="A file of events (JSONL, JSONL.gz, Parquet, CSV), a folder of them, the name of a packaged event, or a "
        "data set id on the Hub.",
    ),
]
Weights = Annotated[Dtype, typer.Option(help="Weights; auto is bfloat16 where the machine is fast in it.")]

# A language model behind a server.
EndpointUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server that answers in place of --model.")
]
EndpointModel = Annotated[str | None, typer.Option(help="What the server calls its model.")]
ApiKeyEnv = Annotated[
    str | None, typer.Option(metavar="NAME", help="Environment variable that holds the server's key.")
]
Concurrency = Annotated[
    int | None, typer.Option(min=1, max=MANY, help="Requests in flight (endpoint).  [default: 16]")
]
Retries = Annotated[
    int | None, typer.Option(min=0, max=MANY, help="Further attempts after a fault (endpoint).  [default: 4]")
]
Timeout = Annotated[float | None, typer.Option(help="Seconds for a whole reply (endpoint).  [default: 120]")]
RequestsPerMinute = Annotated[float | None, typer.Option(help="Bound of a server (endpoint).  [default: none]")]
Price = Annotated[
    str | None,
    typer.Option(metavar="IN,OUT", help="Prices of a million prompt and new tokens (endpoint), to tell costs."),
]

# Many people, as their distinct profiles.
PopulationTable = Annotated[
    str | None,
    typer.Option(
        metavar="TABLE",
        help="Parquet or CSV file, or folder of Parquet files: people who act in place of those after the warm-up, "
        "all of them in every step.",
    ),
]
Bins = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML or JSON: how fields of --population are coarsened.")
]
WeightColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of --population: how many people a row stands for.  [default: 1 each]"),
]
NPeople = Annotated[int | None, typer.Option(min=1, help="As many people, in the shares of --population.")]
NSteps = Annotated[int | None, typer.Option(min=1, max=MANY, help="Steps of --population.  [default: 1]")]


def words(text: str) -> tuple[str, ...]:
    """Comma-separated words."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
