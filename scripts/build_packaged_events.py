"""Builds the packaged events ``vaccine-intention`` from the research file ``vaccine_survey.jsonl.gz``.

    python scripts/build_packaged_events.py [FOLDER_WITH_THE_FILE]

The folder may also come from the environment variable MF_LLM_DATA. What is kept and why stands in
``src/mf_llm/data/vaccine-intention/README.md``; the script writes the Parquet file beside it and prints what it wrote.
The other packaged events are fictional and have no source to be built from.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import pyarrow
import pyarrow.parquet

from mf_llm.errors import InputError
from mf_llm.events import Event, load_events

SOURCE_FILE = "vaccine_survey.jsonl.gz"
JUDGED_WAVE = "w6"
TARGET = Path(__file__).parents[1] / "src/mf_llm/data/vaccine-intention/events.parquet"


def persona_and_choice(event: Event) -> Event:
    """The event without what is never shown to a model: each person's guess of how many others are vaccinated."""
    return replace(event, turns=tuple(replace(turn, extra={}) for turn in event.turns))


def check(events: list[Event]) -> None:
    """Raises an `InputError` if the source is not what the card says."""
    for event in events:
        waves = {turn.wave for turn in event.turns}
        if (event.split == "test") != (JUDGED_WAVE in waves):
            raise InputError(
                f"{event.event_id}: the judged wave must be in the test events, and only there, got {waves}"
            )
        if not all(turn.labels and turn.state and turn.person for turn in event.turns):
            raise InputError(f"{event.event_id}: every turn must have a profile, a person and a choice")


def schema(events: list[Event]) -> pyarrow.Schema:
    """The columns, in an order that gives back each profile in the order of the source (prompts follow that order)."""
    before: dict[str, dict[str, None]] = {}  # dicts, not sets: the order of the file must not depend on hashes
    for turn in (turn for event in events for turn in event.turns):
        names = list(turn.state)
        for earlier, later in zip([None, *names], names, strict=False):
            before.setdefault(later, {}).update({earlier: None} if earlier else {})
    state = [(name, pyarrow.string()) for name in TopologicalSorter(before).static_order()]
    text = pyarrow.string()
    dimensions = [(name, pyarrow.list_(text)) for name in events[0].dimensions]
    turn = [
        ("time", pyarrow.int64()),
        ("wave", text),
        ("state", pyarrow.struct(state)),
        ("action", text),
        ("labels", pyarrow.struct([(name, text) for name in events[0].dimensions])),
        ("person", text),
        ("weight", pyarrow.float64()),
    ]
    event = [(name, text) for name in ("event_id", "domain", "language", "source", "split", "topic")]
    return pyarrow.schema(
        [*event, ("dimensions", pyarrow.struct(dimensions)), ("turns", pyarrow.list_(pyarrow.struct(turn)))]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", nargs="?", default=os.environ.get("MF_LLM_DATA"), help="the folder of the source file"
    )
    folder = parser.parse_args().folder
    if folder is None:
        parser.error("give the folder of the source file, or set MF_LLM_DATA")
    events = [persona_and_choice(event) for event in load_events(Path(folder) / SOURCE_FILE)]
    check(events)
    table = pyarrow.Table.from_pylist([event.to_dict() for event in events], schema=schema(events))
    # One row group per event, so that events can be read one at a time.
    pyarrow.parquet.write_table(table, TARGET, compression="zstd", compression_level=19, row_group_size=1)
    # As texts, so that the order of the fields of a profile counts, too.
    if repr(load_events(TARGET)) != repr(events):
        raise RuntimeError("the file does not give back the events it was written from")
    for event in events:
        waves = dict(Counter(turn.wave for turn in event.turns))
        sys.stdout.write(f"{event.event_id}: split {event.split}, {len(event.turns)} turns, waves {waves}\n")
    sys.stdout.write(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"build_packaged_events: {error}")
