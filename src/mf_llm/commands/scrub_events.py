"""``mf-llm scrub``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import write_json, write_lines
from mf_llm.errors import InputError
from mf_llm.events import iter_events
from mf_llm.events.scrub import CHANGES, IDS, MAY_REMAIN, EventScrubber

ENDING = ".jsonl"


@dataclass(frozen=True, kw_only=True)
class ScrubRequest:
    """What the command line asked for.

    Attributes:
        events: where the events are.
        output: JSONL file that the scrubbed ones go to.
        names: file with a name in each line.
        ner: token-classification checkpoint that finds further names.
        keep: what stays as it is; see `EventScrubber`.
        report: JSON file that says what was changed.
    """

    events: str
    output: Path
    names: Path | None = None
    ner: str | None = None
    keep: Sequence[str] = ()
    report: Path | None = None


def run_scrub(request: ScrubRequest) -> dict[str, Any]:
    """Writes the scrubbed events, one at a time, and says what was changed: counts, never what was taken out.

    Returns:
        The report.

    Raises:
        InputError: a file or an option cannot be used.
    """
    if request.output.suffix != ENDING:
        raise InputError(
            f"`--output` must be a file that ends in {ENDING}, got {request.output.name!r}; nothing was written."
        )
    if request.report is not None and request.report.resolve() == request.output.resolve():
        raise InputError("`--report` must be another file than `--output`; one would overwrite the other.")
    names = _listed_names(request.names)
    scrubber = EventScrubber(request.keep, names)
    if request.ner is not None:
        from mf_llm.events.scrub_tagger import NameTagger

        scrubber = EventScrubber(request.keep, names, NameTagger(request.ner))
    by_event: list[dict[str, Any]] = []
    total = Counter[tuple[str, str]]()
    write_lines(request.output, _scrubbed_lines(request, scrubber, by_event, total))
    report = {
        "n_events": scrubber.n_events,
        "kept": sorted(scrubber.keep),
        "names": {"listed": len(names), "ner": request.ner is not None},
        "changed": _by_field(total),
        "events": by_event,
        "may_remain": list(MAY_REMAIN),
    }
    if request.report is not None:
        write_json(request.report, report)
    _print_summary(request, report)
    return report


def _scrubbed_lines(
    request: ScrubRequest, scrubber: EventScrubber, by_event: list[dict[str, Any]], total: Counter[tuple[str, str]]
) -> Iterator[str]:
    ids: set[str] = set()
    for event in iter_events(request.events):
        scrubbed, changes = scrubber.scrub(event)
        if scrubbed.event_id in ids:
            raise InputError(
                f"`--keep {IDS}` must be left out for files that share ids of events, such as {scrubbed.event_id!r}; "
                "one file cannot hold both; nothing was written; scrub the files one by one."
            )
        ids.add(scrubbed.event_id)
        total.update(changes)
        by_event.append({"event": scrubber.n_events, "changed": _by_field(changes)})
        yield json.dumps(scrubbed.to_dict(), ensure_ascii=False)


def _listed_names(path: Path | None) -> list[str]:
    """The names in a file, one in each line."""
    if path is None:
        return []
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InputError(
            f"`--names` must be a text file in UTF-8 with a name in each line, but {path} cannot be read ({why}); "
            "nothing was scrubbed."
        ) from None
    return [name.strip() for name in names if name.strip()]


def _by_field(changes: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Field -> kind of change -> how often."""
    found: dict[str, dict[str, int]] = {}
    for (field, kind), count in sorted(changes.items()):
        found.setdefault(field, {})[kind] = count
    return found


def _print_summary(request: ScrubRequest, report: dict[str, Any]) -> None:
    sums = Counter[str]()
    for kinds in report["changed"].values():
        sums.update(kinds)
    changed = ", ".join(f"{sums[kind]:,} {kind}" for kind in CHANGES if sums[kind]) or "nothing"
    print(f"{report['n_events']:,} events scrubbed. Changed: {changed}.")
    print("A help, no guarantee. What may remain:")
    for line in report["may_remain"]:
        print(f"  - {line}")
    print(f"Events: {request.output}" + (f"\nReport: {request.report}" if request.report else ""))
