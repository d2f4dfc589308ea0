"""``mf-llm intervene``."""

from __future__ import annotations

import itertools
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mf_llm.atomic_files import plain, write_csv, write_json
from mf_llm.commands.evaluate_run import terminal_width
from mf_llm.errors import UNREADABLE, InputError
from mf_llm.evaluation.matching import match
from mf_llm.events import Event, load_event_sets
from mf_llm.folder_lock import only_writer
from mf_llm.interventions.branches import Branch, run_branches
from mf_llm.interventions.course import Course
from mf_llm.interventions.effect_plots import plot_effects
from mf_llm.interventions.effect_tables import effects_table, ranking_table
from mf_llm.interventions.effects import Effects, check_target, measure_effects
from mf_llm.interventions.plan import InterventionPlan, load_plan
from mf_llm.interventions.ranking import RANKING_COLUMNS, rank_candidates, rounds_of
from mf_llm.json_records import read_record
from mf_llm.reporting.intervention_page import write_intervention_report
from mf_llm.reporting.trust_section import read_trust
from mf_llm.simulation.estimate import duration
from mf_llm.simulation.rollout import Rollout, load_rollouts
from mf_llm.simulation.run_folder import rollout_name, write_run_tables
from mf_llm.simulation.steps import plan_simulation
from mf_llm.termination import ending_on_sigterm


@dataclass(frozen=True, kw_only=True)
class InterveneRequest:
    """What the command line asked for.

    Attributes:
        run: run folder of `mf-llm simulate`: the parents.
        plan: file of the plan.
        output: where the branches and results go; ``RUN/interventions/PLAN`` by default.
        events: where the event is; where the run found it by default.
        seeds: use at most so many of the run's seeds; None: all.
        halving: give up bad candidates early.
        comparison: output folder of `mf-llm compare`, which says how far the model can be trusted.
        plots: draw figures.
        branches_together: how many branches are made side by side.
        resume: go on with what is in `output`.
        dry_run: say what would be made, and stop.
    """

    run: Path
    plan: Path
    output: Path | None = None
    events: str | None = None
    seeds: int | None = None
    halving: bool = True
    comparison: Path | None = None
    plots: bool = True
    branches_together: int = 32
    resume: bool = False
    dry_run: bool = False


@ending_on_sigterm()
def run_intervene(request: InterveneRequest) -> Effects | None:
    """Branches off the rollouts of a run, measures and ranks candidates, and writes what it found.

    Written are the branches (``branches/CANDIDATE``, each a run folder), ``effects.csv``, ``effects_by_seed.csv``,
    with a target ``ranking.csv``, ``intervene.json``, figures and ``report.html``.

    Returns:
        The effects; None for a dry run.

    Raises:
        InputError: run, plan and event do not fit each other.
    """
    from mf_llm.models.loading import load_model_and_processor

    plan, record = load_plan(request.plan), _run_record(request.run)
    parents = _parents(request, plan)
    event = _event(request, record, parents[0])
    _check_plan(request, plan, event, parents)
    if request.comparison is not None:
        read_trust(parents[0], request.comparison)  # the report needs it at the very end
    output = request.output or request.run / "interventions" / request.plan.stem
    print(_expected(request, plan, parents))
    if request.dry_run:
        return None
    with only_writer(output):
        _claim(request, plan, record, parents, output)
        model, processor = load_model_and_processor(str(record["model"]), dtype=str(record["dtype"]), progress=False)

        by_seed = {parent.seed: parent for parent in parents}
        made: dict[str, list[Rollout]] = {one.name: [] for one in plan.candidates}

        def measure(wanted: Mapping[str, Sequence[int]]) -> Effects:
            """Adds the branches that are not made yet: a candidate's seeds are the first of a list that grows."""
            branches = {
                one.name: [
                    Branch(
                        parent=by_seed[seed],
                        interventions=one.interventions,
                        folder=_folder(output, one.name) / "rollouts" / rollout_name(event.event_id, seed),
                    )
                    for seed in wanted.get(one.name, ())[len(made[one.name]) :]
                ]
                for one in plan.candidates
            }
            together, missing = request.branches_together, [one for some in branches.values() for one in some]
            found = iter(run_branches(model, processor, event, missing, resume=True, branches_together=together))
            for name, some in branches.items():
                made[name] += itertools.islice(found, len(some))
            return measure_effects(parents, {name: rollouts for name, rollouts in made.items() if rollouts})

        seeds = [parent.seed for parent in parents]
        if plan.target is None:
            ranking, effects = None, measure({one.name: seeds for one in plan.candidates})
        else:
            ranking, effects = rank_candidates(plan, seeds, measure, halving=request.halving)
        branches = {name: rollouts for name, rollouts in made.items() if rollouts}
        for name, rollouts in branches.items():
            write_run_tables(_folder(output, name), rollouts)
        effects.save(output)
        if ranking is not None:
            write_csv(output / "ranking.csv", RANKING_COLUMNS, ranking.rows())
        width = terminal_width()
        print(effects_table(effects, plan, width) if ranking is None else ranking_table(ranking, width))
        if request.plots:
            plot_effects(effects, plan, output / "plots" / "effects", ranking=ranking)
        page = write_intervention_report(
            output / "report.html",
            plan=plan,
            effects=effects,
            ranking=ranking,
            parents=parents,
            branches=branches,
            command=_command(request),
            comparison=request.comparison,
        )
        print(f"Effects: {output / 'effects.csv'}\nReport: {page}")
        return effects


def _run_record(run: Path) -> dict[str, Any]:
    if not (run / "run.json").is_file():
        raise InputError(
            f"`RUN` must be a run folder of `mf-llm simulate`, got {run} without a run.json that can be read; there "
            "is nothing to branch off; simulate the event first."
        )
    record = read_record(run / "run.json", "`mf-llm simulate`", {"events": str, "model": str, "dtype": str})
    if record.get("endpoint"):
        raise InputError(
            f"`RUN` must be made by a model in this process, but {run} was answered by a server; a server does not "
            "share random numbers between runs, and a branch would differ by chance; simulate with --model."
        )
    return record


def _parents(request: InterveneRequest, plan: InterventionPlan) -> list[Rollout]:
    rollouts = load_rollouts(request.run)
    known = sorted({rollout.event_id for rollout in rollouts})
    if plan.event is None and len(known) > 1:
        raise InputError(
            f"`event` must be in {request.plan}, since {request.run} holds {len(known)} events, such as {known[0]!r}; "
            "it is not clear which one is meant."
        )
    event_id = known[0] if plan.event is None else plan.event
    found = sorted((one for one in rollouts if one.event_id == event_id), key=lambda rollout: rollout.seed)
    if not found:
        raise InputError(
            f"`event` must be one of the events in {request.run}, such as {known[0]!r}, got {event_id!r} in "
            f"{request.plan}; there is nothing to branch off."
        )
    return found[: request.seeds]


def _event(request: InterveneRequest, record: Mapping[str, Any], parent: Rollout) -> Event:
    groups = match([parent], load_event_sets(request.events or str(record["events"])))
    return next(event for members in groups.values() for event, _ in members)


def _check_plan(request: InterveneRequest, plan: InterventionPlan, event: Event, parents: Sequence[Rollout]) -> None:
    """Finds what cannot be, before a model is loaded."""
    config = Branch(parent=parents[0]).config
    steps = plan_simulation(event, config)
    for one in plan.candidates:
        try:
            Course(event, config, steps, one.interventions)
        except InputError as error:
            raise InputError(f"{request.plan}: candidate {one.name!r}: {error}") from error
    if plan.target is not None:
        try:
            check_target(plan.target, parents[0].categories, [step.index for step in steps.steps if not step.real])
        except InputError as error:
            raise InputError(f"{request.plan}: {error}") from error
        late = [one.name for one in plan.candidates if min(each.step for each in one.interventions) > plan.target.last]
        if late:
            raise InputError(
                f"{request.plan}: the target must not lie before the first intervention, but {late[0]!r} begins "
                f"behind step {plan.target.last}; it could have no effect; aim at a later step."
            )
    if len(parents) == 1:
        print(
            "One seed: effects without intervals. Simulate with --seeds 8 or more to see how sure they are.",
            file=sys.stderr,
        )


def _expected(request: InterveneRequest, plan: InterventionPlan, parents: Sequence[Rollout]) -> str:
    """What will be made, for the terminal; at most, where candidates can be given up."""
    rivals = [one for one in plan.candidates if not one.placebo]
    halving = request.halving and plan.target is not None
    rounds = rounds_of(len(rivals), len(parents)) if halving else [len(parents)]
    going, before, n_branches = len(rivals), 0, 0
    for seeds in rounds:
        n_branches += going * (seeds - before)
        going, before = max(2, math.ceil(going / 2)) if going > 2 else going, seeds
    n_branches += (len(plan.candidates) - len(rivals)) * len(parents)
    seconds = sum(
        sum(_seconds(request.run, parent)[min(each.step for each in one.interventions) :])
        for one in plan.candidates
        for parent in parents
    )
    share = n_branches / max(len(plan.candidates) * len(parents), 1)
    took = f"; the same steps took their parents {duration(seconds * share)}" if seconds else ""
    stops = f", in {len(rounds)} rounds of up to {', '.join(map(str, rounds))} seeds" if len(rounds) > 1 else ""
    return (
        f"{len(plan.candidates)} candidates, {len(parents)} seeds of event {parents[0].event_id!r}: {n_branches} "
        f"branches{stops}{took}."
    )


def _seconds(run: Path, parent: Rollout) -> list[float]:
    folder = run if (run / "rollout.json").is_file() else run / "rollouts" / rollout_name(parent.event_id, parent.seed)
    try:
        seconds = list(map(float, json.loads((folder / "timings.json").read_text())["seconds_per_step"]))
    except UNREADABLE:
        return []
    return seconds if all(0 <= one < math.inf for one in seconds) else []


def _claim(
    request: InterveneRequest,
    plan: InterventionPlan,
    record: Mapping[str, Any],
    parents: Sequence[Rollout],
    output: Path,
) -> None:
    """Says in the output folder what is made there; refuses a folder that holds something else."""
    path = output / "intervene.json"
    own = plain(
        {
            "plan": plan.to_dict(),
            "event_hash": parents[0].event_hash,
            "model": record["model"],
            "dtype": record["dtype"],
            "seeds": [parent.seed for parent in parents],
            "halving": request.halving,
        }
    )
    if path.exists():
        if not request.resume:
            raise InputError(
                f"`--output` must be a new folder, but {output} holds results already; nothing was overwritten; go on "
                "with them with --resume, or name another folder."
            )
        found = read_record(path, "`mf-llm intervene`")
        differing = [key for key in own if own[key] != found.get(key)]
        if differing:
            raise InputError(
                f"`--resume` must go on with the same plan and run, but {output} was made with another "
                f"{differing[0].replace('_', ' ')}; the results would be mixed; name another folder."
            )
    write_json(path, own)


def _folder(output: Path, name: str) -> Path:
    return output / "branches" / rollout_name(name, 0).removesuffix("-seed0")


def _command(request: InterveneRequest) -> str:
    """The command that makes these results; where files lay is nobody's business."""
    given = ["mf-llm", "intervene", request.run.name, "--plan", request.plan.name]
    if request.seeds is not None:
        given += ["--seeds", str(request.seeds)]
    if not request.halving:
        given.append("--all-seeds")
    if request.comparison is not None:
        given += ["--comparison", request.comparison.name]
    return shlex.join(given)
