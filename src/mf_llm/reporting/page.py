"""`write_report`: the report of a comparison as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_bytes
from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.reporting.blocks import Section, listed
from mf_llm.reporting.comparison_files import ComparisonFiles, reporting
from mf_llm.reporting.findings import compared, findings
from mf_llm.reporting.real_events import RealEvents
from mf_llm.reporting.record_sections import optional_sections, record_section
from mf_llm.reporting.rollout_files import RolloutFiles
from mf_llm.reporting.rollout_sections import costs_section, samples_section, trajectories_section
from mf_llm.reporting.score_sections import differences_section, gains_section, scores_section, variety_section
from mf_llm.reporting.survey_section import survey_section

TEMPLATE = "report.html.jinja"
MAX_EVENTS = 2


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    event_sets: Mapping[str, Sequence[Event]] | None = None,
    rollouts: str | Path | None = None,
    max_events: int = MAX_EVENTS,
    texts: bool = True,
) -> Path:
    """Writes the report of a comparison; the same files give the same bytes.

    Args:
        folder: where ``mf-llm compare`` wrote its results.
        output: the page; ``FOLDER/report.html`` by default.
        event_sets: data set -> its events, all that were compared; without them nothing real is shown.
        rollouts: folder of the rollouts; ``FOLDER/rollouts`` by default.
        max_events: trajectories that are drawn of each data set.
        texts: show texts that people or models wrote; without them a report can be shared more widely.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder holds no comparison, or the events are others.
    """
    folder = Path(folder)
    files = ComparisonFiles.load(folder)
    with reporting(folder):
        real = None if event_sets is None else RealEvents(event_sets, files)
        found = RolloutFiles(folder / "rollouts" if rollouts is None else Path(rollouts), files)
        page = render(files, found, real, max_events=max_events, texts=texts)
    path = folder / "report.html" if output is None else Path(output)
    # A lone half of a character pair, which JSON can hold and a file cannot, becomes a question mark.
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


def render(
    files: ComparisonFiles, rollouts: RolloutFiles, real: RealEvents | None, *, max_events: int, texts: bool
) -> str:
    """The page as HTML; arguments as `write_report`."""
    drawn = environment()
    sections: list[Section | None] = [
        scores_section(files),
        gains_section(files, real),
        differences_section(files),
        survey_section(files),
        trajectories_section(files, rollouts, real, max_events, texts=texts),
        variety_section(files),
        *optional_sections(files, texts=texts),
        samples_section(files, rollouts, real, texts=texts),
        costs_section(files, rollouts),
        record_section(files),
    ]
    return drawn.get_template(TEMPLATE).render(
        title=f"Comparison on {listed(map(files.short, files.records), 3) or 'no data set'}",
        compared=compared(files),
        facts=_facts(files),
        findings=findings(files),
        sections=[section for section in sections if section is not None],
        texts=texts,
    )


def _facts(files: ComparisonFiles) -> dict[str, str]:
    """What identifies the comparison."""
    summary = files.summary
    return {
        "data sets": ", ".join(files.records) or "none",
        "methods": ", ".join(files.names),
        "data hash": str(summary.get("data_hash", ""))[:16],
        "protocol": f"version {summary.get('protocol')}",
        "bootstrap": f"seed {summary.get('seed')}, {summary.get('n_bootstrap')} samples",
        "mf-llm": str(summary.get("versions", {}).get("mf_llm", "")),
    }


def environment() -> Any:
    """Jinja that escapes everything: what people wrote is data and never becomes markup."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise InputError(
            "the package `jinja2` is not installed; reports are written with it; install it with: pip install jinja2"
        ) from error
    loader = PackageLoader("mf_llm", "data")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
