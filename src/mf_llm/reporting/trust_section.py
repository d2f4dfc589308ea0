"""Where not to trust a simulation of interventions: what its model was judged on, and what intervals leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mf_llm.interventions.effects import Effects
from mf_llm.interventions.plan import InterventionPlan
from mf_llm.reporting.blocks import (
    ROUNDING,
    Block,
    Points,
    Section,
    Table,
    Text,
    counted,
    listed,
    score_cell,
    with_bounds,
)
from mf_llm.reporting.comparison_files import FORECASTER, ComparisonFiles, reporting
from mf_llm.simulation.rollout import FAILED, Rollout
from mf_llm.simulation.simulation_config import SimulationConfig

# What makes two simulations the same method; the rest is length, memory and speed.
_ALIKE = ("signal", "readout", "anchored", "calibrated", "action", "wording", "people")
_REACH = {
    "none": "People see the topic and their own profile alone (signal: none): added actions reach nobody.",
    "statistics": "People see the shares of what was done so far (signal: statistics): a signal that is replaced or "
    "amended reaches the people of that step alone, and the text of an added action nobody, only its answer.",
    "recent": "People see the last 5 actions (signal: recent): an added action is soon gone, and a signal that is "
    "replaced or amended reaches the people of that step alone.",
    "popular": "People see the 5 most echoed of the last 30 actions (signal: popular): an added action may never be "
    "among them, and a signal that is replaced or amended reaches the people of that step alone.",
}
_REACH_OF_TEXT = (
    "People see a text of the mean-field model about what was done so far (signal: {signal}): later steps learn of an "
    "added action, or of a signal that was replaced or amended, only what that text carries on."
)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How far the model behind a simulation was judged.

    Attributes:
        sentence: in one sentence.
        blocks: what is known in full.
    """

    sentence: str
    blocks: Sequence[Block]


def read_trust(parent: Rollout, comparison: str | Path | None) -> Trust:
    """What the files of a comparison say; see `judged`.

    Raises:
        InputError: the folder holds no comparison, or one that cannot be read.
    """
    if comparison is None:
        return judged(parent, None)
    files = ComparisonFiles.load(comparison)
    with reporting(files.folder):
        return judged(parent, files)


def judged(parent: Rollout, files: ComparisonFiles | None) -> Trust:
    """What a comparison says about the method nearest to a simulation, on the event's data set.

    Args:
        parent: a rollout of the simulation.
        files: the comparison, if any.
    """
    label = f"{parent.data_set}/{parent.dimension}"
    here = f"data set {parent.data_set}" if parent.data_set else "no data set that is named"
    if files is None:
        return _unjudged(f"the event is of {here}, and no comparison was given", [])
    models = [name for name in files.names if files.kind(name) != FORECASTER]
    if not models:
        return _unjudged("the comparison has no method with a language model", [])
    if label not in files.records:
        nearest = max(models, key=lambda name: _nearness(files, name, parent))
        why = f"the event is of {here}, and the comparison holds {listed(files.records)}"
        return _unjudged(why, [_everywhere(files, nearest)])
    nearest = max(
        models, key=lambda name: (files.score(name, label, "gain") is not None, *_nearness(files, name, parent))
    )
    gain, kl = files.score(nearest, label, "gain"), files.score(nearest, label)
    if gain is None or kl is None:
        return _unjudged(f"the comparison has no language model that was judged on {label}", [])
    record = files.records[label]
    people = "groups of respondents" if label in files.surveys else f"{files.event_words}s"
    reference, n = record["reference"], f"{record['n_events']} {people}"
    sentence = (
        f"On {label}, the data set of this event, {nearest} gains {with_bounds(gain)} nats over {reference} ({n}): "
        f"{_verdict(gain, reference)} It is the method of the comparison that is nearest to this simulation: "
        f"{_likeness(files, nearest, parent)}."
    )
    details = [f"Its KL there is {with_bounds(kl)} nats; 0 would be no distance from people."]
    own = files.judged_events(nearest, label).get(parent.event_id)
    if own is not None and own.get("gain"):
        details.append(
            f"This very event is one of them: gain {float(own['gain']):.3f}, KL {float(own['kl']):.3f} nats."
        )
    details.append(
        "A gain tells how near simulated shares came to real ones where nothing was done. Whether people react to an "
        "intervention as the model does was not measured."
    )
    blocks: list[Block] = [Text(heading="Judged on this event's kind of data", text=sentence), Points(points=details)]
    return Trust(sentence=sentence, blocks=[*blocks, _everywhere(files, nearest)])


def trust_section(
    trust: Trust,
    plan: InterventionPlan,
    effects: Effects,
    parents: Sequence[Rollout],
    branches: Mapping[str, Sequence[Rollout]],
) -> Section:
    """What was judged, and what no interval of the page speaks of."""
    placebos = [one.name for one in plan.candidates if one.placebo and one.name in effects.seeds]
    points = [
        "Simulated text is simulated: no person wrote, chose or thought it.",
        "Effects are differences between simulations that share their random numbers. None was measured on people.",
        f"Intervals are over {counted(len(parents), 'seed')} (fewer where a candidate was stopped): they say how sure "
        "the simulated difference is, and nothing of how far the model is from people. More seeds make them narrower, "
        "and the model no better.",
        _readout(parents[0]),
        _reach(parents[0]),
        _people(parents[0]),
        _failed(plan, parents, branches),
    ]
    if not placebos:
        points.append(
            "The plan has no placebo: whether the model reacts to any change at all was not checked. Add a candidate "
            "with placebo: true that does something unrelated and neutral, at the same step and in the same way."
        )
    return Section(
        name="trust",
        title="Where not to trust it",
        blocks=[*trust.blocks, Text(heading="In any case", text=""), Points(points=points)],
    )


def _unjudged(why: str, more: Sequence[Block]) -> Trust:
    sentence = f"This model was not judged on data of this kind here: {why}."
    how = (
        "How near its simulated shares come to those of real people is not known; take the effects for what the model "
        "says, not for what people would do. To find out, give events of this kind whose course is known, with what "
        "people really did, to mf-llm compare EVENTS --output DIR, and then name DIR with --comparison."
    )
    return Trust(sentence=sentence, blocks=[Text(heading="Not judged", text=f"{sentence} {how}"), *more])


def _verdict(gain: Mapping[str, float | None], reference: str) -> str:
    low, high = gain.get("low"), gain.get("high")
    if low is not None and low > ROUNDING:
        return f"its shares are nearer to those of people than {reference}, which needs no language model."
    if high is not None and high < -ROUNDING:
        return (
            f"its shares are farther from those of people than {reference}, which needs no language model. The "
            "effects deserve little trust."
        )
    return (
        f"it cannot be told from {reference}, which needs no language model. There is no evidence that it knows "
        "more of people."
    )


def _options(files: ComparisonFiles, method: str, data_set: str | None) -> dict[str, object]:
    special = files.summary.get("data_set_options", {}).get(data_set, {})
    return SimulationConfig().to_dict() | special | files.made(method).get("options", {})


def _differing(files: ComparisonFiles, method: str, parent: Rollout) -> list[str]:
    """What differs between a method and a simulation, in words."""
    options, resolved = _options(files, method, parent.data_set), parent.config.get("resolved", {})
    return [
        f"{key} ({options[key]}, here {resolved.get(key, parent.config.get(key))})"
        for key in _ALIKE
        if options[key] not in (parent.config.get(key), resolved.get(key))
    ]


def _same_weights(files: ComparisonFiles, method: str, parent: Rollout) -> bool:
    own = parent.versions.get("weights")
    return own is not None and own in [one.get("weights") for one in files.made(method).get("made_with", [])]


def _nearness(files: ComparisonFiles, method: str, parent: Rollout) -> tuple[bool, bool, int]:
    base = str(parent.versions.get("policy_base")) in files.backbones(method)
    return _same_weights(files, method, parent), base, -len(_differing(files, method, parent))


def _likeness(files: ComparisonFiles, method: str, parent: Rollout) -> str:
    bases = listed(files.backbones(method)) or "a backbone that is not named"
    weights = "the same weights" if _same_weights(files, method, parent) else f"other weights (backbone: {bases})"
    differing = _differing(files, method, parent)
    return f"{weights}; {'simulated alike' if not differing else 'simulated otherwise in ' + listed(differing)}"


def _everywhere(files: ComparisonFiles, method: str) -> Table:
    rows = [
        [
            label,
            score_cell(files.score(method, label, "gain"), missing=files.missing(method, label)),
            score_cell(files.score(method, label), missing=files.missing(method, label)),
            record["reference"],
            str(record["n_events"]),
        ]
        for label, record in files.records.items()
    ]
    caption = f"{method} on all data sets of the comparison, in nats with 95 % intervals (gain above zero: nearer to "
    caption += "people than the reference). How far this carries over to another event is not known."
    return Table(
        caption=caption,
        head=["data set", "gain", "KL", "reference", "events"],
        rows=rows,
        words=frozenset({3}),
        folded=True,
    )


def _readout(parent: Rollout) -> str:
    if parent.config.get("readout") != "exact":
        return (
            "Shares are counts of drawn answers (sampled readout): with few people in a step they jump by chance, "
            "which the intervals over seeds include."
        )
    text = (
        "Shares are mean probabilities of the answers (exact readout): the chance by which so many real people would "
        "answer this way or that is not in the intervals."
    )
    if parent.config.get("anchored"):
        text += (
            " They are anchored: the shares of the warm-up, changed by what fine-tuning taught the model, within "
            "bounds. How strongly people react to interventions was not among it."
        )
    return text


def _reach(parent: Rollout) -> str:
    signal = str(parent.config.get("signal"))
    return _REACH.get(signal, _REACH_OF_TEXT.format(signal=signal)) + " A line of the topic is read by everybody."


def _people(parent: Rollout) -> str:
    who = "those who really came, at their place in time"
    if parent.config.get("people") == "resampled":
        who = "drawn from those of the warm-up"
    return (
        f"The people are {who}, unless a candidate changes them: that an intervention would by itself bring or keep "
        "away people is left out."
    )


def _failed(plan: InterventionPlan, parents: Sequence[Rollout], branches: Mapping[str, Sequence[Rollout]]) -> str:
    n_without = sum(parent.n_failed for parent in parents)
    n_with = 0
    for one in plan.candidates:
        first = min(each.step for each in one.interventions)
        for branch in branches.get(one.name, ()):
            n_with += sum(row.source == FAILED for row in branch.actions if row.step >= first)
            n_with += sum(step.signal_failure is not None for step in branch.steps if step.step >= first)
    if not n_without and not n_with:
        return "No generation failed."
    return (
        f"{counted(n_without + n_with, 'generation')} failed ({n_without} without, {n_with} in branches): these "
        "people are in no share; where it was a signal, the one before was kept."
    )
