"""``mf-llm report``."""

from __future__ import annotations

from pathlib import Path

from mf_llm.events import load_event_sets


def run_report(
    folder: Path,
    *,
    events: str | None = None,
    rollouts: Path | None = None,
    output: Path | None = None,
    max_events: int = 2,
    texts: bool = True,
) -> Path:
    """Writes the report of a comparison and says where it is.

    Args:
        folder: the output folder of ``mf-llm compare``.
        events: where the events that were compared are; without them nothing real is shown.
        rollouts: folder of the rollouts; ``FOLDER/rollouts`` by default.
        output: the page; ``FOLDER/report.html`` by default.
        max_events: trajectories that are drawn of each data set.
        texts: show texts that people or models wrote.

    Raises:
        InputError: the folder holds no comparison, or the events are others.
    """
    from mf_llm.reporting.page import write_report

    event_sets = None if events is None else load_event_sets(events)
    path = write_report(folder, output, event_sets=event_sets, rollouts=rollouts, max_events=max_events, texts=texts)
    print(f"Report: {path}")
    return path
