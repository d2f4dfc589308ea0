"""The sections about scores: the table of all methods, gains, differences and bars, variety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mf_llm.evaluation.method_table import ALL, COMPLETE, EVENTS
from mf_llm.reporting.blocks import (
    MINUS,
    NONE,
    ROUNDING,
    Block,
    Cell,
    Figure,
    Gallery,
    Section,
    Table,
    Text,
    bounds,
    listed,
    number,
    score_cell,
    with_bounds,
)
from mf_llm.reporting.comparison_files import FORECASTER, TUNED, UNTUNED, ComparisonFiles
from mf_llm.reporting.domains import MIN_EVENTS, domain_gains
from mf_llm.reporting.dot_figure import DotRow, draw_dots
from mf_llm.reporting.real_events import RealEvents

_KINDS = {TUNED: "tuned", UNTUNED: "untuned", FORECASTER: "forecaster"}
_HOW_TO_READ = (
    "KL tells how far the simulated shares Q are from the real shares P: KL(P || Q) in nats, the mean over windows of "
    "an event, then over events. 0 is no distance; lower is better. A dash is a missing run, a star a mean over some "
    "of the training seeds. Two yardsticks stand below: best constant is the best that one set of shares per event "
    "could do (chosen with the answers known, so no method need reach it), sampling alone is the KL of the true "
    "shares when only as many people as in a window are drawn."
)
_HOW_TO_READ_GAINS = (
    "A gain is the KL of the reference minus that of the method, in nats: right of zero the method is nearer to "
    "people than the reference. The reference of a data set is the one of prior, carry and last that did best on the "
    "training events. A filled dot has a 95 % interval that does not contain zero. An arrow is a value too far left "
    "to be shown; its number stands beside it."
)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of the table of scores: one score per method, or None; of a data set (`label`) or over several."""

    head: str
    scores: Sequence[Mapping[str, Any] | None]
    label: str = ""
    digits: int = 3
    higher: bool = False

    def is_best(self, score: Mapping[str, Any] | None) -> bool:
        """Whether no other method is better; what rounds to the same is equal."""
        known = [one["value"] for one in self.scores if one is not None and one["value"] is not None]
        if score is None or score["value"] is None:
            return False
        return max(known) - score["value"] < ROUNDING if self.higher else score["value"] - min(known) < ROUNDING


def scores_section(files: ComparisonFiles) -> Section:
    """KL of every method on every data set, means, G and S, with the yardsticks."""
    columns = _columns(files)
    rows: list[list[Cell | str]] = []
    for place, name in enumerate(files.names):
        row: list[Cell | str] = [Cell(text=name, detail=_KINDS[files.kind(name)] if files.made(name) else "")]
        for column in columns:
            score, missing = column.scores[place], "some data set is missing"
            if column.label:
                missing = files.missing(name, column.label)
            partly = column.label and missing and score is not None
            best = column.is_best(score) and not partly
            cell = score_cell(score, column.digits, mark="best" if best else "", missing=missing)
            row.append(replace(cell, text=cell.text + "*", title=missing) if partly else cell)
        rows.append(row)
    table = Table(
        caption="KL in nats with 95 % intervals; the best of each column is marked. G and S: 95 % bootstrap over "
        "events, higher is better.",
        head=["method", *(column.head for column in columns)],
        rows=rows + _yardsticks(files, columns),
    )
    return Section(name="scores", title="All methods on all data sets", blocks=[Text(text=_HOW_TO_READ), table])


def _columns(files: ComparisonFiles) -> list[_Column]:
    """Means come first, where they are seen without scrolling."""
    scopes = [ALL] if len(files.records) > 1 else []
    scopes += [EVENTS] if files.surveys and len(files.streams) > 1 else []
    columns = [
        _Column(head=f"{files.short(scope)} KL", scores=[files.mean(name, scope) for name in files.names])
        for scope in scopes
    ]
    overall = files.summary["overall"]
    for head, key, digits in (("G: mean gain", "G", 4), ("S: pooled skill", "S", 3)):
        scores = [overall.get(name, {}).get(key) for name in files.names]
        columns += [_Column(head=head, scores=scores, digits=digits, higher=True)] if overall else []
    return columns + [
        _Column(head=files.short(label), scores=[files.score(name, label) for name in files.names], label=label)
        for label in files.records
    ]


def gains_section(files: ComparisonFiles, real: RealEvents | None) -> Section:
    """Gains as dots with whiskers: in the mean, per data set, by domain and by backbone."""
    blocks: list[Block] = [Text(text=_HOW_TO_READ_GAINS)]
    order = _by_gain(files)
    if files.summary["overall"]:
        gains = {name: files.gain(name) for name in order}
        caption = "G: mean gain over the data sets (without surveys), 95 % bootstrap over events."
        spoken = f"Mean gain over the reference with 95 % interval, per method. {_spoken(gains)}"
        blocks.append(Figure(source=_method_figure(files, gains), alt=spoken, caption=caption))
        near = _near_zero(gains)
        if 1 < len(near) < len(gains):
            caption = "The same, of the methods near the reference alone."
            alt = f"The methods near the reference. {_spoken(near)}"
            blocks.append(Figure(source=_method_figure(files, near), alt=alt, caption=caption))
    figures = []
    for label in files.records:
        scores = {name: files.score(name, label, "gain") for name in order}
        people = "respondents" if label in files.surveys else f"{files.records[label]['n_events']} events"
        reference = files.records[label]["reference"]
        figures.append(
            Figure(
                source=_method_figure(files, scores),
                alt=f"Gain over {reference} on {files.short(label)}, per method. {_spoken(scores)}",
                caption=f"{label}: over {reference}; bootstrap over {people}.",
            )
        )
    if len(files.records) > 1 or not files.summary["overall"]:
        blocks += [Text(heading="Per data set", text="Each has a scale of its own."), Gallery(figures=figures)]
    return Section(
        name="gains", title="Gains over the reference", blocks=[*blocks, *_domains(files, real), *_backbones(files)]
    )


def differences_section(files: ComparisonFiles) -> Section:
    """Paired differences and bars."""
    blocks: list[Block] = []
    if files.pairs:
        scopes = list(dict.fromkeys(row["dataset"] for row in files.pairs))
        scopes.sort(key=lambda scope: scope in files.records)
        found = {(row["a"], row["b"], row["dataset"]): row for row in files.pairs}
        pairs = list(dict.fromkeys((row["a"], row["b"]) for row in files.pairs))
        rows: list[list[Cell | str]] = [
            [f"{a} {MINUS} {b}", *(_difference(found.get((a, b, s))) for s in scopes)] for a, b in pairs
        ]
        caption = (
            "KL of the first method minus KL of the second, on the same events, people and training seeds, with 95 % "
            "intervals. Below zero the first is nearer to people; marked where the whole interval is."
        )
        blocks.append(Table(caption=caption, head=["difference", *map(files.short, scopes)], rows=rows))
    else:
        blocks.append(Text(text="No pairs were compared (no pair of the method list has both its methods here)."))
    bars = [bar for kind in files.summary.get("bars", {}).values() for bar in kind]
    if bars:
        caption = "The bars: what must hold, what was found, and by how much it is missed."
        head = ["bar", "wanted", "found [95 %]", "outcome", "note"]
        words = frozenset({1, 4})
        blocks.append(Table(caption=caption, head=head, rows=[_bar(bar) for bar in bars], words=words))
    else:
        why = (
            "they are asked of test events"
            if files.on_validation
            else "the tuned methods they are about were not compared"
        )
        blocks.append(Text(text=f"No bars: {why}."))
    return Section(name="differences", title="Differences and bars", blocks=blocks)


def variety_section(files: ComparisonFiles) -> Section:
    """Entropy ratios."""
    rows: list[list[Cell | str]] = []
    for name in files.names:
        cells = [files.method_row(name, label).get("entropy_ratio", "") for label in files.records]
        if any(cells):
            rows.append([name, *map(_ratio, cells)])
    if rows:
        caption = (
            "Entropy ratio: entropy of the simulated shares over that of the real ones (Miller-Madow corrected). At 1 "
            "the crowd is as varied as people; marked below 0.8 (less varied) and above 1.25 (more varied). Sampled "
            "methods have none."
        )
        block: Block = Table(caption=caption, head=["method", *map(files.short, files.records)], rows=rows)
    else:
        block = Text(text="Entropy ratios stand in methods.csv, which is written where pairs were compared.")
    return Section(name="variety", title="How varied the simulated crowd is", blocks=[block])


def _yardsticks(files: ComparisonFiles, columns: Sequence[_Column]) -> list[list[Cell | str]]:
    rows: list[list[Cell | str]] = []
    for text, read in (
        ("reference", lambda record: record.get("reference_kl")),
        ("best constant", lambda record: record.get("yardsticks", {}).get("best_constant")),
        ("sampling alone", lambda record: record.get("yardsticks", {}).get("sampling_alone")),
    ):
        cells = []
        for column in columns:
            record = files.records.get(column.label, {})
            found = read(record)
            cell = score_cell(found if isinstance(found, Mapping) or found is None else {"value": found})
            title = f"{record['reference']}" if record and text == "reference" else ""
            cells.append(replace(cell, mark="", title=title))
        if any(cell.text != NONE for cell in cells):
            rows.append([Cell(text=text, detail="yardstick"), *cells])
    for name in files.replays:
        found = [files.score(name, column.label) if column.label else None for column in columns]
        cells = [replace(score_cell(score), mark="") for score in found]
        rows.append([Cell(text=name, detail="yardstick: real texts, read by an annotator"), *cells])
    return rows


def _by_gain(files: ComparisonFiles) -> list[str]:
    """Methods by their mean gain, the best first; those without one come last, in their own order."""
    gains = {name: (files.gain(name) or {}).get("value") for name in files.names}
    return sorted(files.names, key=lambda name: (gains[name] is None, -(gains[name] or 0.0)))


def _near_zero(gains: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Mapping[str, Any]]:
    """The gains that are so near to zero that others, far away, would hide them."""
    known = {name: gain for name, gain in gains.items() if gain is not None}
    reach = 3 * max([0.005, *(gain["high"] or 0.0 for gain in known.values())])
    return {name: gain for name, gain in known.items() if abs(gain["value"]) <= reach}


def _method_figure(files: ComparisonFiles, scores: Mapping[str, Mapping[str, Any] | None]) -> str:
    rows = [
        DotRow(name=name, scores={} if score is None else {_KINDS[files.kind(name)]: score})
        for name, score in scores.items()
    ]
    return draw_dots(rows, list(_KINDS.values()), "gain over the reference (nats)")


def _spoken(scores: Mapping[str, Mapping[str, Any] | None]) -> str:
    return "; ".join(f"{name} {with_bounds(score) if score else 'missing'}" for name, score in scores.items()) + "."


def _domains(files: ComparisonFiles, real: RealEvents | None) -> list[Block]:
    heading = "By domain"
    if real is None:
        return [Text(heading=heading, text="Left out: the events, which name their domains, were not given.")]
    leading = {kind: files.best(kind, files.streams) for kind in _KINDS}
    methods = [name for name in leading.values() if name is not None]
    found = domain_gains(files, real, methods)
    if not found:
        return [Text(heading=heading, text="No method was judged on all data sets of a domain.")]
    counts = {one.domain: one.n_events for one in found}
    rows = [
        DotRow(
            name=f"{domain} ({count})",
            scores={one.method: one.gain.to_dict() for one in found if one.domain == domain},
            claimed=any(one.claimed for one in found if one.domain == domain),
        )
        for domain, count in counts.items()
    ]
    body: list[list[Cell | str]] = [
        [
            Cell(text=one.domain, mark="" if one.claimed else "missing"),
            one.method,
            f"{one.n_events}",
            Cell(
                text=number(one.gain.value), detail=bounds(one.gain.to_dict()), mark="" if one.claimed else "missing"
            ),
            listed(files.short(label) for label in one.data_sets),
        ]
        for one in found
    ]
    told = [f"{one.domain}: {one.method} {with_bounds(one.gain.to_dict())}" for one in found if one.claimed]
    return [
        Text(
            heading=heading,
            text=f"The best method of each kind, mean over the events of a domain. Only domains with {MIN_EVENTS} "
            f"{files.event_words}s or more carry a claim; the others, and events without a domain, are greyed.",
        ),
        Figure(
            source=draw_dots(rows, [name or "" for name in leading.values()], "gain over the reference (nats)"),
            alt=f"Gain by domain. {'; '.join(told)}.",
            caption=f"Gain of {listed(methods)} by domain (number of {files.event_words}s), 95 % bootstrap over "
            "events within data sets.",
        ),
        Table(
            caption="Gains by domain in nats; grey: too few events for a claim.",
            head=["domain", "method", "events", "gain", "data sets"],
            rows=body,
            words=frozenset({1, 4}),
            folded=True,
        ),
    ]


def _backbones(files: ComparisonFiles) -> list[Block]:
    """Gains by backbone, where the models have several."""
    bases = {name: files.backbones(name) for name in files.names if files.backbones(name)}
    distinct = sorted({base for found in bases.values() for base in found})
    heading = "By backbone"
    if len(distinct) < 2:
        return [Text(heading=heading, text=f"All models have one backbone: {distinct[0]}.")] if distinct else []
    rows: list[list[Cell | str]] = [
        [base, name, score_cell(files.gain(name), 4), score_cell(files.mean(name))]
        for base in distinct
        for name, found in bases.items()
        if base in found
    ]
    head = ["backbone", "method", "G: mean gain", "mean KL"]
    return [
        Text(heading=heading, text="Each method stands at the backbones its rollouts were made with."),
        Table(caption="Mean gain and mean KL by backbone.", head=head, rows=rows, words=frozenset({1})),
    ]


def _difference(row: Mapping[str, str] | None) -> Cell:
    if row is None or not row["difference"]:
        return score_cell(None, missing="" if row is None else row["status"])
    found = {key: float(row[name]) if row[name] else None for key, name in _PAIR.items()}
    below = found["high"] is not None and found["high"] < -ROUNDING
    cell = score_cell(found, 4, mark="clear" if below else "")
    if row["status"] == COMPLETE:
        return cell
    return replace(cell, text=cell.text + "*", title=row["status"])


_PAIR = {"value": "difference", "low": "low", "high": "high"}


def _bar(bar: Mapping[str, Any]) -> list[Cell | str]:
    name = Cell(text=bar["name"], detail="" if bar["stated"] else "stricter than asked; told, does not decide")
    if bar["holds"] is None:
        outcome = Cell(text="open", mark="missing")
    elif bar["holds"]:
        outcome = Cell(text="holds", mark="clear")
    else:
        outcome = Cell(text=f"missed by {number(bar['missed_by'], 4)}")
    return [name, bar["wanted"], score_cell(bar["value"], 4), outcome, bar["note"]]


def _ratio(text: str) -> Cell:
    if not text:
        return Cell(text=NONE, mark="missing")
    value = float(text)
    mark = "less" if value < 0.8 else "more" if value > 1.25 else ""
    return Cell(text=number(value, 2), detail=mark, mark=mark)
