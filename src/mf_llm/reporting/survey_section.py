"""The section about surveys: groups and subgroups of respondents."""

from __future__ import annotations

from mf_llm.reporting.blocks import ROUNDING, Cell, Section, Table, Text, number, score_cell
from mf_llm.reporting.comparison_files import ComparisonFiles

# Of so many methods at most the whole groups and the subgroups are shown without being asked for.
_OPEN = 6


def survey_section(files: ComparisonFiles) -> Section | None:
    """KL of every method in the groups and subgroups of each survey; None without surveys."""
    tables = []
    for record in files.summary["surveys"]:
        rows: list[list[Cell | str]] = []
        for event in record["events"]:
            whole = event["subgroup"] is None
            name = event["event"] if whole else f"{event['subgroup']}: {event['value']}"
            scores = [event["methods"].get(method, {}).get("kl") for method in files.names]
            known = [score["value"] for score in scores if score]
            cells = [
                score_cell(score, mark="best" if score and score["value"] - min(known) < ROUNDING else "")
                for score in scores
            ]
            detail = "" if whole else event["event"]
            rows.append(
                [Cell(text=name, detail=detail), f"{event['n_people']:,}", *cells, number(event["sampling_alone"])]
            )
        tables.append(
            Table(
                caption=f"{record['data_set']}, {record['dimension']}: KL in nats in the judged wave, 95 % weighted "
                f"bootstrap over respondents. Reference: {record['reference']}.",
                head=["group", "people", *files.names, "sampling alone"],
                rows=rows,
                folded=len(files.names) > _OPEN,
            )
        )
    if not tables:
        return None
    text = "A survey is judged on its last wave. Subgroups of at least 50 respondents are judged by themselves."
    return Section(name="surveys", title="Surveys by group", blocks=[Text(text=text), *tables])
