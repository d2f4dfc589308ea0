"""What a comparison found, in plain sentences made from its numbers."""

from __future__ import annotations

from dataclasses import dataclass

from mf_llm.reporting.blocks import ROUNDING, counted, listed, with_bounds
from mf_llm.reporting.comparison_files import FORECASTER, TUNED, UNTUNED, ComparisonFiles


def compared(files: ComparisonFiles) -> str:
    """How much was compared."""
    streams = files.summary["data_sets"]
    parts = []
    if streams:
        n_events = sum(record["n_events"] for record in streams)
        parts.append(f"{counted(len(streams), 'data set')} ({counted(n_events, files.event_words)})")
    if files.surveys:
        groups = sum(record["n_events"] for record in files.summary["surveys"])
        parts.append(f"{counted(len(files.surveys), 'survey')} ({counted(groups, 'group')} of respondents)")
    kinds = [
        f"{sum(files.kind(name) == kind for name in files.names)} {words}"
        for kind, words in (
            (FORECASTER, "without a language model"),
            (UNTUNED, "with an untuned one"),
            (TUNED, "with a tuned one"),
        )
        if any(files.kind(name) == kind for name in files.names)
    ]
    limit = files.summary.get("limit")
    limited = (
        f" At most {counted(limit, files.event_words)} of each data set took part: this is a trial." if limit else ""
    )
    if files.on_validation:
        limited += " No test event was looked at; surveys end a wave before the one that is judged otherwise."
    # A comparison made in Python does not say how its methods were made.
    told = f" ({', '.join(kinds)})" if files.summary.get("made") else ""
    return f"{counted(len(files.names), 'method')}{told} on {' and '.join(parts) or 'no data set'}.{limited}"


@dataclass(frozen=True)
class Finding:
    """A sentence, and points that belong to it."""

    sentence: str
    points: tuple[str, ...] = ()


def findings(files: ComparisonFiles) -> list[Finding]:
    """Lowest KL, gains above zero, bars, and what is missing."""
    sentences = [*_lowest(files), *_gains(files)]
    return [*map(Finding, sentences), *_bars(files), *map(Finding, _missing(files))]


def _lowest(files: ComparisonFiles) -> list[str]:
    means = {name: mean for name in files.names if (mean := files.mean(name)) is not None}
    if not means:
        return ["No method was judged on all data sets: there is no mean KL to compare by."]
    where = f"over the {len(files.records)} data sets" if len(files.records) > 1 else "on the data set"
    lowest = min(mean["value"] for mean in means.values())
    names = [name for name, mean in means.items() if mean["value"] - lowest < ROUNDING]
    found = [
        f"The lowest mean KL {where} is that of {listed(names)}: {with_bounds(means[names[0]])} nats. "
        "The lower the KL, the nearer to what people did."
    ]
    for kind, words in ((TUNED, "tuned"), (UNTUNED, "untuned")):
        members = {name: mean["value"] for name, mean in means.items() if files.kind(name) == kind}
        if members and not set(names) & set(members):
            best = min(members, key=lambda name: members[name])
            found.append(f"Among {words} language models it is that of {best}: {with_bounds(means[best])} nats.")
    incomplete = len(files.names) - len(means)
    if incomplete:
        found.append(f"{counted(incomplete, 'method')} could not be ranked, since some data set is missing.")
    return found


def _gains(files: ComparisonFiles) -> list[str]:
    mean = {name: gain for name in files.names if (gain := files.gain(name)) is not None}
    single = {
        f"{name} on {files.short(label)}": gain
        for name in files.names
        for label in files.records
        if (gain := files.score(name, label, "gain")) is not None
    }
    if mean and len(files.records) == 1:
        single = {}  # it would be the mean again
    found, n_above = [], 0
    for gains, where in ((mean, "In the mean over data sets"), (single, "On single data sets")):
        above = {name: gain for name, gain in gains.items() if (gain["low"] or 0.0) > ROUNDING}
        ordered = sorted(above.items(), key=lambda item: -item[1]["value"])
        texts = [f"{name} ({with_bounds(gain, 4)})" for name, gain in ordered]
        n_above += len(above)
        if above:
            found.append(
                f"{where}, better than the reference with a 95 % interval above zero (nats): {listed(texts)}."
            )
        elif gains:
            found.append(f"{where}, no method is better than the reference with a 95 % interval above zero.")
    if n_above:
        n_intervals = sum(gain["low"] is not None for gain in [*mean.values(), *single.values()])
        found.append(
            f"There are {n_intervals} such intervals; by chance alone about one in 40 lies above zero where nothing "
            "is gained, and the best of many methods looks better than it is. What is claimed are the bars and pairs."
        )
    return found


def _bars(files: ComparisonFiles) -> list[Finding]:
    bars = [bar for kind in files.summary.get("bars", {}).values() for bar in kind]
    found = []
    for stated, words in ((True, "bar"), (False, "stricter bar")):
        chosen = [bar for bar in bars if bar["stated"] == stated]
        for holds, outcome in ((True, "held"), (False, "missed"), (None, "open, since runs are missing")):
            members = [bar for bar in chosen if bar["holds"] is holds]
            if members:
                sentence = f"{len(members)} of {counted(len(chosen), words)} {outcome}:"
                found.append(Finding(sentence, tuple(_bar(bar) for bar in members)))
    return found


def _bar(bar: dict) -> str:
    text = f"{bar['name']}: wanted {bar['wanted']}"
    return text if bar["value"] is None else f"{text}, found {with_bounds(bar['value'], 4)}"


def _missing(files: ComparisonFiles) -> list[str]:
    missing, found = files.summary.get("missing", []), []
    if missing:
        names = listed(dict.fromkeys(entry["method"] for entry in missing))
        found.append(
            f"Missing: {counted(len(missing), 'cell')} of the table ({names}); the reasons stand at the end. No mean "
            "goes round a missing cell."
        )
    skipped = files.summary.get("skipped", [])
    if skipped:
        found.append(f"Not judged: {listed(dict.fromkeys(entry['data_set'] for entry in skipped))}.")
    if files.surveys and any(files.gain(name) for name in files.names):
        found.append("Gains in the mean are over the data sets without surveys; surveys are rows of their own.")
    return found
