"""Text tables for the terminal, drawn with rich."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from mf_llm.errors import InputError


def render(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int, caption: str | None = None
) -> str:
    """One table as plain text; the first column is left-aligned, the others right-aligned.

    Raises:
        InputError: rich is not installed.
    """
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError as error:
        raise InputError(
            "the package `rich` is not installed; tables are drawn with it (files can be saved without); install it "
            "with: pip install 'mf-llm[eval]'"
        ) from error
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption
    )
    table.caption_justify = "left"
    for number, column in enumerate(columns):
        # Names stay on one line where the terminal has room for them.
        names = number == 0 or column == "reference"
        table.add_column(
            column, justify="left" if number == 0 else "right", overflow="fold", no_wrap=names and width >= 100
        )
    for row in rows:
        table.add_row(*row)
    drawn = StringIO()
    console = Console(file=drawn, width=width, color_system=None)
    console.print(table)
    return drawn.getvalue()


def score(record: Mapping[str, float | None] | float | None, *, bounds: bool = False) -> str:
    """A score, with its interval where asked for; a dash where there is none."""
    if record is None:
        return "-"
    if not isinstance(record, Mapping):
        return f"{record:.3f}" if record == record else "-"
    text = score(record["value"])
    if bounds and record["low"] is not None:
        text += f" [{record['low']:.3f}, {record['high']:.3f}]"
    return text


# More methods than these do not fit side by side: they become rows.
_SIDE_BY_SIDE = 6


def comparison_table(summary: Mapping[str, Any], width: int) -> str:
    """KL per data set and method with the yardsticks; G and S; surveys; what was skipped."""
    methods, parts = summary["methods"], []
    if len(methods) > _SIDE_BY_SIDE:
        parts.append(_methods_below_each_other(summary, width))
    elif summary["data_sets"]:
        columns = ["data set", "dimension (K)", "events", "W/win", *methods, "reference", "best const.", "sampling"]
        rows = [_data_set_row(record, methods) for record in summary["data_sets"]]
        caption = "KL(human || forecast) in nats, mean over events. sampling = KL expected from sampling alone."
        parts.append(render(f"Protocol {summary['protocol']}", columns, rows, width, caption))
    if summary["overall"]:
        means = [
            (name, score(record["G"], bounds=True), score(record["S"], bounds=True), str(len(record["data_sets"])))
            for name, record in summary["overall"].items()
        ]
        caption = "G: mean gain over the reference in nats. S: pooled skill. 95 % bootstrap over events."
        parts.append(render("All data sets", ["method", "G", "S", "data sets"], means, width, caption))
    parts += [_survey_table(record, methods, width) for record in summary["surveys"]]
    notes = [
        f"{record['data_set']}: {note}"
        for record in [*summary["data_sets"], *summary["surveys"]]
        for note in record["notes"]
    ]
    notes += [f"{entry['data_set']} skipped: {entry['reason']}" for entry in summary["skipped"]]
    return "\n".join(part.rstrip() + "\n" for part in parts) + ("\n" + "\n".join(notes) + "\n" if notes else "")


def _methods_below_each_other(summary: Mapping[str, Any], width: int) -> str:
    records = [*summary["data_sets"], *summary["surveys"]]
    columns = ["method", *(record["data_set"] for record in records)]
    rows = [(name, *(score(record["methods"][name].get("kl")) for record in records)) for name in summary["methods"]]
    for yardstick in ("best_constant", "sampling_alone") if summary["data_sets"] else ():
        cells = [record.get("yardsticks", {}).get(yardstick) for record in records]
        rows.append((_LABELS[yardstick], *map(score, cells)))
    caption = "KL(human || simulated) in nats, mean over events (surveys: over groups)."
    return render(f"Protocol {summary['protocol']}", columns, rows, width, caption)


def _survey_table(record: Mapping[str, Any], methods: Sequence[str], width: int) -> str:
    """A survey's groups and subgroups by methods; of many methods the groups alone, one method a row."""
    names = [
        (event["event"] if event["subgroup"] is None else f"  {event['subgroup']}: {event['value']}", event)
        for event in record["events"]
    ]
    title = f"{record['data_set']}, {record['dimension']} ({len(record['categories'])}), last wave"
    caption = f"KL in nats, 95 % weighted bootstrap over respondents. Reference: {record['reference']}."
    if len(methods) > _SIDE_BY_SIDE:
        whole = [(name, event) for name, event in names if event["subgroup"] is None]
        columns = ["method", *(f"{name} ({event['n_people']} people)" for name, event in whole)]
        rows = [(method, *(_survey_cell(event, method) for _, event in whole)) for method in methods]
        return render(title, columns, rows, width, caption)
    rows = [
        (name, str(event["n_people"]), *(_survey_cell(event, method) for method in methods)) for name, event in names
    ]
    return render(title, ["event", "people", *methods], rows, width, caption)


def _survey_cell(event: Mapping[str, Any], method: str) -> str:
    return score(event["methods"].get(method, {}).get("kl"), bounds=True)


def _data_set_row(record: Mapping[str, Any], methods: Sequence[str]) -> list[str]:
    return [
        record["data_set"],
        f"{record['dimension']} ({len(record['categories'])})",
        str(record["n_events"]),
        record["windows"],
        *(score(record["methods"][name].get("kl")) for name in methods),
        record["reference"],
        score(record["yardsticks"]["best_constant"]),
        score(record["yardsticks"]["sampling_alone"]),
    ]


def report_table(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], width: int) -> str:
    """Scores per data set with intervals, one row per score; the rows of surveys; warnings."""
    parts = []
    for record in summary["data_sets"]:
        scores = record["scores"]
        body = [(_LABELS.get(name, name), score(value), _bounds(value)) for name, value in scores.items()]
        body.append((_LABELS["sampling_alone"], score(record["sampling_alone"]), ""))
        title = (
            f"{record['data_set']}, {record['dimension']} ({len(record['categories'])}): {record['n_events']} events, "
            f"windows {record['windows']}, {record['readout']} readout"
        )
        caption = f"Reference: {record['reference']}. Nats where not said otherwise. Protocol {summary['protocol']}."
        parts.append(render(title, ["score", "mean", "95 %"], body, width, caption))
    groups = [row for row in rows if row["subgroup"]]
    if groups:
        of_groups = [
            (
                f"{row['event']} {row['subgroup']}",
                str(row["n_people"]),
                score({"value": row["kl"], "low": row["kl_low"], "high": row["kl_high"]}, bounds=True),
                score(row["reference_kl"]),
                score({"value": row["gain"], "low": row["gain_low"], "high": row["gain_high"]}, bounds=True),
            )
            for row in groups
        ]
        parts.append(render("Subgroups", ["subgroup", "people", "KL", "reference KL", "gain"], of_groups, width))
    if summary["overall"]:
        overall = summary["overall"]
        body = [("G: mean gain", score(overall["G"]), _bounds(overall["G"]))]
        body.append(("S: pooled skill", score(overall["S"]), _bounds(overall["S"])))
        parts.append(render("All data sets", ["score", "value", "95 %"], body, width))
    notes = [f"Note: {warning}" for warning in summary["warnings"]]
    notes += [f"{entry['event']} skipped: {entry['reason']}" for entry in summary["skipped"]]
    return "\n".join(part.rstrip() + "\n" for part in parts) + ("\n" + "\n".join(notes) + "\n" if notes else "")


def _bounds(record: Mapping[str, float | None]) -> str:
    return "" if record["low"] is None else f"{record['low']:.3f} to {record['high']:.3f}"


_LABELS = {
    "kl": "KL(human || simulated)",
    "reference_kl": "KL of the reference",
    "gain": "gain over the reference",
    "js": "Jensen-Shannon",
    "w1": "Wasserstein-1 (categories)",
    "dtw": "DTW (total variation per step)",
    "entropy_ratio": "entropy ratio (no unit)",
    "f1_micro": "micro F1 per person (no unit)",
    "f1_macro": "macro F1 per person (no unit)",
    "nll": "NLL per person",
    "best_constant": "KL of the best constant",
    "sampling_alone": "KL of sampling alone",
}
