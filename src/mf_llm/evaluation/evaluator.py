"""`evaluate_rollouts`: how far simulated populations are from the people they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mf_llm.errors import InputError
from mf_llm.evaluation import distributions
from mf_llm.evaluation.forecasters import Training, forecast, full_name
from mf_llm.evaluation.intervals import N_BOOTSTRAP, event_draws, generator, window_interval
from mf_llm.evaluation.matching import event_sets, match
from mf_llm.evaluation.protocol import PROTOCOL_VERSION, WindowPlan, Windows, choose_windows, plan_event
from mf_llm.evaluation.provenance import data_hash, versions
from mf_llm.evaluation.readouts import Answers, end_of_warm_up, read_answers
from mf_llm.evaluation.report import EvaluationReport
from mf_llm.evaluation.scoring import Gains, Replicated, intervals_of, respondent_draws, survey_score
from mf_llm.evaluation.subgroups import MIN_SIMULATED, SUBGROUPS, subgroup_plans
from mf_llm.events.event import Event

if TYPE_CHECKING:
    from mf_llm.simulation import Rollout

MIN_POOLED_ROLLOUTS = 16
ORDERED_DIMENSIONS = ("intention",)
_AVERAGED = ("kl", "js", "w1", "dtw", "f1_micro", "f1_macro", "nll", "reference_kl", "gain")


def evaluate_rollouts(
    rollouts: Sequence[Rollout],
    events: Mapping[str, Sequence[Event]] | Sequence[Event],
    *,
    windows: Windows | Mapping[str, Windows] | None = None,
    ordered: Collection[str] = ORDERED_DIMENSIONS,
    subgroups: Sequence[str] = SUBGROUPS,
    seed: int = 0,
    n_bootstrap: int = N_BOOTSTRAP,
) -> EvaluationReport:
    """Judges rollouts of one method by protocol version 1.

    The rollouts of all seeds of an event are pooled: Q of a window is the weighted mean of the `probabilities` of its
    labelled people (exact readout), or their pooled labels + 0.5 per category (sampled readout). Windows begin with
    the end of the warm-up. Failed rows are left out of Q and counted.

    Args:
        rollouts: rollouts of one method; one per event and seed.
        events: the events, or data set name -> events. Their train and validation events, if any, give the reference
            forecaster its prior and alpha; without them the reference is `carry` with a uniform prior and alpha 10.
        windows: how events are cut (default: `choose_windows` of each data set). The warm-up is that of the rollout.
        ordered: dimensions whose categories are ordered; only these get a Wasserstein-1 distance.
        subgroups: fields of the respondents' states by which surveys are also judged.
        seed: seed of the bootstrap.
        n_bootstrap: bootstrap samples.

    Raises:
        InputError: a rollout's event is missing or has another content, two rollouts share event and seed, or the
            rollouts of an event differ in dimension, readout or warm-up.

    Examples:
        >>> from mf_llm import MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_events, simulate
        >>> from mf_llm.models import tiny_backbone, tiny_tokenizer  # random weights: replies mean nothing
        >>> model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
        >>> processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
        >>> [event] = load_events("bridge-closure")
        >>> config = SimulationConfig(signal="statistics", action="choice", max_actions=64)
        >>> rollout = simulate(model, processor, event, config, progress=False)
        >>> report = evaluate_rollouts([rollout], [event])
        >>> report.rows[0]["n_people"], report.rows[0]["reference"]
        (16, 'carry(alpha=10)')
        >>> report.rows[0]["kl"] > report.rows[0]["reference_kl"]  # random weights know nothing
        True
    """
    if not rollouts:
        raise InputError("`rollouts` must hold at least one rollout, got none; simulate events first.")
    sets = event_sets(events, rollouts)
    groups = match(rollouts, sets)
    options = _Options(frozenset(ordered), tuple(subgroups), seed, n_bootstrap)
    report = EvaluationReport()
    skipped: list[dict[str, Any]] = []
    data_sets: list[dict[str, Any]] = []
    gains = Gains()
    for (name, dimension), members in groups.items():
        if dimension is None:
            skipped += [
                _skip(name, event, "the rollout has no dimension: nothing was counted") for event, _ in members
            ]
            continue
        given = windows.get(name) if isinstance(windows, Mapping) else windows
        cut = choose_windows(sets[name], dimension) if given is None else given
        judged, reasons = _judge_events(name, dimension, members, sets[name], cut, options)
        skipped += reasons
        if judged:
            data_sets.append(_summarise(name, dimension, judged, options, gains))
            report.rows += [row for event in judged for row in event.rows]
    report.warnings = _warnings(report.rows, data_sets)
    report.summary = {
        "protocol": PROTOCOL_VERSION,
        "seed": seed,
        "n_bootstrap": n_bootstrap,
        "versions": versions(),
        "data_hash": data_hash(event for members in groups.values() for event, _ in members),
        "rollout_versions": [dict(entry) for entry in _distinct(rollout.versions for rollout in rollouts)],
        "rollout_seeds": sorted({rollout.seed for rollout in rollouts}),
        "data_sets": data_sets,
        "overall": gains.to_dict() if gains.gains else None,
        "skipped": skipped,
        "warnings": report.warnings,
    }
    return report


@dataclass(frozen=True)
class _Options:
    ordered: frozenset[str]
    subgroups: tuple[str, ...]
    seed: int
    n_bootstrap: int


@dataclass(frozen=True, eq=False)
class _Judged:
    """One event: its rows (the whole event first, then subgroups) and, for surveys, replicates of KL and reference."""

    plan: WindowPlan
    training: Training
    rows: list[dict[str, Any]]
    survey: tuple[Replicated, Replicated] | None


def _judge_events(
    name: str,
    dimension: str,
    members: Sequence[tuple[Event, list[Rollout]]],
    events: Sequence[Event],
    windows: Windows,
    options: _Options,
) -> tuple[list[_Judged], list[dict[str, Any]]]:
    skipped, ready = [], []
    for event, rollouts in members:
        start = end_of_warm_up(rollouts[0])
        if start is None:
            skipped.append(_skip(name, event, "no turn was simulated"))
            continue
        plan = plan_event(event, windows, dimension, start=start)
        if tuple(rollouts[0].categories) != plan.categories:
            raise InputError(
                f"`categories` must be those of event {event.event_id!r}, {list(plan.categories)}, got "
                f"{list(rollouts[0].categories)}; shares would be compared crosswise; simulate again."
            )
        answers = read_answers(event, rollouts, len(plan.categories))
        covered = answers.covered(plan)
        plan = plan.selected(covered)
        if plan.n_windows:
            ready.append((plan, answers, covered.count(False)))
        else:
            skipped.append(_skip(name, event, f"no whole simulated window ({windows}) with labels of people"))
    if not ready:
        return [], skipped
    if not windows.waves:
        # The reference is fitted with the warm-up the rollouts had, not with the one the protocol would choose.
        usual = Counter(len(plan.warm_up) for plan, _, _ in ready).most_common(1)[0][0]
        windows = replace(windows, warm_up=max(usual, 1))
    training = Training(events, windows, dimension, ready[0][0].categories)
    return [_judge(name, plan, answers, left_out, training, options) for plan, answers, left_out in ready], skipped


def _judge(
    name: str, plan: WindowPlan, answers: Answers, n_left_out: int, training: Training, options: _Options
) -> _Judged:
    event_id = plan.event.event_id
    row = _scores(name, plan, answers, training, options) | {"n_windows_left_out": n_left_out}
    if not plan.windows.waves:
        per_window = distributions.kl_divergence(plan.truth, answers.windows(plan))
        interval = window_interval(per_window, generator(options.seed, "windows", name, event_id), options.n_bootstrap)
        return _Judged(plan, training, [row | {"kl_low": interval.low, "kl_high": interval.high}], None)
    draws = respondent_draws(plan, generator(options.seed, "people", name, event_id), options.n_bootstrap)
    whole = np.ones(len(plan.event.turns), dtype=bool)
    rows, survey = [], None
    for field, value, members, part in [("", "", whole, plan), *subgroup_plans(plan, options.subgroups)]:
        if field and any(answers.known[window].sum() < MIN_SIMULATED for window in part.judged):
            continue
        kl = survey_score(
            plan,
            answers.windows(part),
            draws,
            answers=[answers.mass[window] for window in plan.judged],
            sampled=answers.sampled,
            members=members,
        )
        q = distributions.clamp(forecast(training.reference, part, training))
        reference = survey_score(plan, q, draws, members=members)
        part_row = row if part is plan else _scores(name, part, answers, training, options) | {"n_windows_left_out": 0}
        bounds = kl.interval()
        rows.append(part_row | {"kl_low": bounds.low, "kl_high": bounds.high})
        if field:
            gain = (reference - kl).interval()
            rows[-1] |= {"subgroup": f"{field}={value}", "gain_low": gain.low, "gain_high": gain.high}
        else:
            survey = (kl, reference)
            gain = (reference - kl).interval()
            rows[-1] |= {"gain_low": gain.low, "gain_high": gain.high}
    return _Judged(plan, training, rows, survey)


def _scores(name: str, plan: WindowPlan, answers: Answers, training: Training, options: _Options) -> dict[str, Any]:
    p, q = plan.truth, answers.windows(plan)
    kl = distributions.kl_divergence(p, q)
    reference_kl = float(plan.score(forecast(training.reference, plan, training)).mean())
    judged = np.concatenate(plan.judged)
    people = judged[answers.known[judged]]
    n_simulated = None
    if answers.sampled:
        n_simulated = distributions.effective_size(plan.weights[people]) * answers.mass[people].sum() / len(people)
    pooled = distributions.normalise(plan.counts(judged))
    n_real = distributions.effective_size(plan.weights[judged])
    h_real, h_simulated = distributions.corrected_entropies(pooled, q, n_real, n_simulated)
    return {
        "dataset": name,
        "event": plan.event.event_id,
        "subgroup": "",
        "dimension": plan.dimension,
        "readout": "sampled" if answers.sampled else "exact",
        "n_rollouts": answers.n_rollouts,
        "n_windows": plan.n_windows,
        "n_people": len(judged),
        "n_failed": answers.n_failed,
        "kl": float(kl.mean()),
        "js": float(distributions.js_divergence(p, q).mean()),
        "w1": float(distributions.wasserstein_1(p, q).mean()) if plan.dimension in options.ordered else None,
        "dtw": distributions.dynamic_time_warping(p, q),
        "entropy_ratio": h_simulated / h_real if h_real > 0 else None,
        "h_real": h_real,
        "h_simulated": h_simulated,
        **_person_scores(plan, answers, people),
        "best_constant": plan.best_constant(),
        "sampling_alone": plan.sampling_alone(),
        "reference": full_name(training.reference, training),
        "reference_kl": reference_kl,
        "gain": reference_kl - float(kl.mean()),
        "gain_low": None,
        "gain_high": None,
        "warm_up": len(plan.warm_up),
        "window": None if plan.windows.waves else plan.windows.window,
        "protocol": PROTOCOL_VERSION,
        "seed": options.seed,
    }


def _person_scores(plan: WindowPlan, answers: Answers, people: NDArray[np.int64]) -> dict[str, float | None]:
    """F1 of the likeliest category of each person, and NLL (exact readout); people with states only."""
    people = people[[bool(plan.event.turns[turn].state) for turn in people]]
    if not len(people):
        return {"f1_micro": None, "f1_macro": None, "nll": None}
    truth, weights, mass = plan.labels[people], plan.weights[people], answers.mass[people]
    micro, macro = distributions.f1_scores(truth, mass.argmax(axis=1), len(plan.categories), weights)
    exact = (
        None
        if answers.sampled
        else distributions.negative_log_likelihood(truth, distributions.normalise(mass), weights)
    )
    return {"f1_micro": micro, "f1_macro": macro, "nll": exact}


def _summarise(
    name: str, dimension: str, judged: Sequence[_Judged], options: _Options, gains: Gains
) -> dict[str, Any]:
    label, training = f"{name}/{dimension}", judged[0].training
    rows = [event.rows[0] for event in judged]
    draws = event_draws(
        [event.plan.event for event in judged], generator(options.seed, "events", label), options.n_bootstrap
    )
    survey = training.windows.waves
    scores: dict[str, Replicated] = {}
    for column in _AVERAGED:
        values = np.asarray([np.nan if row[column] is None else row[column] for row in rows], dtype=np.float64)
        known = np.isfinite(values)
        if known.all():
            scores[column] = Replicated.mean(values, None if survey else draws)
        elif known.any():
            scores[column] = Replicated(float(values[known].mean()), None)
    # A mean of ratios would be ruled by the events in which nearly everybody agrees: the mean entropies are divided.
    h_real, h_simulated = (Replicated.mean([row[part] for row in rows], draws) for part in ("h_real", "h_simulated"))
    scores["entropy_ratio"] = h_simulated / h_real
    if survey:
        scores["entropy_ratio"].replicates = None
        surveys = [event.survey for event in judged if event.survey is not None]
        kl, reference = (Replicated.mean_of(scores_of_all) for scores_of_all in zip(*surveys, strict=True))
        scores |= {"kl": kl, "reference_kl": reference, "gain": reference - kl}
    else:
        best = Replicated.mean([row["best_constant"] for row in rows], draws)
        gains.add(label, scores["gain"], scores["reference_kl"] - best)
        scores["best_constant"] = best
    return {
        "data_set": name,
        "dimension": dimension,
        "categories": list(training.categories),
        "windows": str(training.windows),
        "n_events": len(judged),
        "n_train": len(training.train),
        "n_validation": len(training.validation),
        "readout": rows[0]["readout"],
        "n_rollouts": sorted({row["n_rollouts"] for row in rows}),
        "n_failed": sum(row["n_failed"] for row in rows),
        "reference": full_name(training.reference, training),
        "sampling_alone": float(np.mean([row["sampling_alone"] for row in rows])),
        "scores": intervals_of(scores),
    }


def _warnings(rows: Sequence[Mapping[str, Any]], data_sets: Sequence[Mapping[str, Any]]) -> list[str]:
    whole = [row for row in rows if not row["subgroup"]]
    few = [
        row["n_rollouts"] for row in whole if row["readout"] == "sampled" and row["n_rollouts"] < MIN_POOLED_ROLLOUTS
    ]
    warnings = []
    if few:
        warnings.append(
            f"{len(few)} events pool fewer than {MIN_POOLED_ROLLOUTS} rollouts (as few as {min(few)}): their KL is "
            "too high from sampling noise; simulate more seeds, or use the exact readout."
        )
    failed = sum(row["n_failed"] for row in whole)
    if failed:
        warnings.append(f"{failed} simulated actions failed or have no label; they are left out of the shares.")
    empty = sum(row["n_windows_left_out"] for row in whole)
    if empty:
        warnings.append(f"{empty} windows were not simulated to their end, or without any answer; they are left out.")
    for record in data_sets:
        if not record["n_train"]:
            warnings.append(
                f"{record['data_set']}: no train events; the reference {record['reference']} has a uniform prior."
            )
    return warnings


def _skip(name: str, event: Event, reason: str) -> dict[str, Any]:
    return {"data_set": name, "event": event.event_id, "reason": reason}


def _distinct(records: Any) -> list[Mapping[str, Any]]:
    return list({repr(sorted(record.items(), key=str)): record for record in records}.values())
