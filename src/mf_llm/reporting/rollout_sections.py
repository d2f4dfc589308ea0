"""The sections that look into rollouts: trajectories, signals and actions, costs."""

from __future__ import annotations

from mf_llm.reporting.blocks import Block, Figure, Gallery, Section, Table, Text, counted, number, shortened
from mf_llm.reporting.comparison_files import TUNED, UNTUNED, ComparisonFiles
from mf_llm.reporting.real_events import RealEvents
from mf_llm.reporting.rollout_files import Cost, RolloutFiles
from mf_llm.reporting.samples import actions_table, signals_table
from mf_llm.reporting.trajectories import Trajectory, leading_models, read_trajectory, shown_events
from mf_llm.reporting.trajectory_figure import draw_trajectory

N_SAMPLES = 2
_NO_EVENTS = "Left out: the events, which hold what people really did, were not given (--events)."


def trajectories_section(
    files: ComparisonFiles, rollouts: RolloutFiles, real: RealEvents | None, max_events: int, *, texts: bool
) -> Section:
    """Real shares beside those of the leading models and of the reference."""
    title = "Trajectories of single events"
    if real is None or max_events < 1:
        text = _NO_EVENTS if real is None else "Left out: no events were asked for (--max-events)."
        return Section(name="trajectories", title=title, blocks=[Text(text=text)])
    models = leading_models(files)
    named = [
        f"{models[kind]} (the best {kind} model)" for kind in (TUNED, UNTUNED) if models.get(kind) in rollouts.methods
    ]
    blocks: list[Block] = [
        Text(
            text=f"Shown: real people{''.join(f', {name}' for name in named)} and the reference of the data set. "
            "Events are ordered by their KL and taken evenly from that order: none was picked because it looks good. "
            "Each strip is a category; the shaded part is the warm-up, which methods know. Of a model "
            "with several training seeds the first is drawn."
        )
    ]
    if models and not rollouts.runs:
        blocks.append(Text(text="No rollouts were found (--rollouts): models are left out."))
    figures = []
    for label in files.records:
        drawn = [name for name in models.values() if rollouts.seeds(name, label)] or files.ranked(labels=[label])
        for event_id in shown_events(files, label, drawn[0], max_events) if drawn else ():
            trajectory = read_trajectory(files, rollouts, real, label, event_id)
            if trajectory is not None:
                figures.append(_figure(trajectory, texts=texts))
    blocks.append(Gallery(figures=figures) if figures else Text(text="No event was judged."))
    return Section(name="trajectories", title=title, blocks=blocks)


def samples_section(
    files: ComparisonFiles, rollouts: RolloutFiles, real: RealEvents | None, *, texts: bool
) -> Section:
    """Signals and actions of one or two events, of the leading model whose rollouts are there."""
    title = "Signals and actions"
    if not texts:
        text = "Left out, as all texts that people or models wrote (--no-texts)."
        return Section(name="samples", title=title, blocks=[Text(text=text)])
    samples: list[Block] = []
    for label in files.records:
        if sum(isinstance(block, Text) for block in samples) < N_SAMPLES:
            samples += _sample(files, rollouts, real, label)
    text = (
        "Everything marked simulated was made by a language model: no person wrote or thought it. What is marked real "
        "is what people did. Texts are shortened."
        if samples
        else "No rollouts of a language model are there to be shown."
    )
    return Section(name="samples", title=title, blocks=[Text(text=text), *samples])


def costs_section(files: ComparisonFiles, rollouts: RolloutFiles) -> Section:
    """Tokens, seconds and failed generations per method."""
    blocks: list[Block] = []
    costs = rollouts.costs()
    if rollouts.unclear:
        blocks.append(Text(text=f"Neither counted nor shown: {'; '.join(rollouts.unclear)}."))
    if not costs:
        text = (
            "No rollouts were found (--rollouts): tokens and seconds are not known."
            if any(files.kind(name) in (TUNED, UNTUNED) for name in files.names)
            else "No method has a language model: there are no tokens to count."
        )
        return Section(name="costs", title="Costs", blocks=[*blocks, Text(text=text)])
    caption = (
        "What the judged rollouts took, all data sets and training seeds together (training apart). Tokens are those "
        "of both roles, shared prefixes counted once. Seconds are those of the machine that made the rollouts."
    )
    head = ["method", "rollouts", "simulated people", "tokens read", "tokens written", "seconds"]
    head += ["seconds per 1,000 people", "failed generations"]
    table = Table(caption=caption, head=head, rows=[[name, *_cost(cost)] for name, cost in costs.items()])
    return Section(name="costs", title="Costs", blocks=[*blocks, table])


def _sample(files: ComparisonFiles, rollouts: RolloutFiles, real: RealEvents | None, label: str) -> list[Block]:
    """One event of a data set, of the best model whose rollouts are there, with signals if any model has them."""
    ranked = [name for kind in (TUNED, UNTUNED) for name in files.ranked(kind, [label]) if rollouts.seeds(name, label)]
    speaking = [name for name in ranked if files.made(name).get("options", {}).get("signal") != "none"]
    for method in (speaking or ranked)[:1]:
        seed = rollouts.seeds(method, label)[0]
        for event_id in shown_events(files, label, method, 1):
            for rollout in rollouts.load(method, label, seed, event_id)[:1]:
                plan = real.plan(label, event_id) if real else None
                where = f"{method}, training seed {seed}, {files.short(label)}, event {event_id}"
                beside = ", beside what the same people really did." if plan else "; the real ones were not given."
                return [
                    Text(heading=f"{files.short(label)}: {event_id}", text=f"Topic: {shortened(rollout.topic, 300)}"),
                    *([signals_table(rollout, f"Signals ({where}).")] if method in speaking else []),
                    actions_table(rollout, plan.event if plan else None, f"Simulated actions ({where}){beside}"),
                ]
    return []


def _figure(trajectory: Trajectory, *, texts: bool) -> Figure:
    event = trajectory.plan.event
    topic = f" “{shortened(event.topic, 160)}”" if texts else ""
    scores = "; ".join(f"{line.name}, KL {number(float(line.kl.mean()))}" for line in trajectory.lines)
    windows = counted(trajectory.plan.n_windows, "wave" if trajectory.plan.windows.waves else "window")
    return Figure(
        source=draw_trajectory(trajectory),
        alt=f"Real shares of {', '.join(trajectory.plan.categories)} in event {event.event_id} of {trajectory.label} "
        f"over {windows}, beside {scores}.",
        caption=f"{trajectory.label}, {event.event_id}.{topic}",
    )


def _cost(cost: Cost) -> list[str]:
    per_person = cost.seconds / cost.people * 1000 if cost.seconds is not None and cost.people > 0 else None
    return [
        f"{cost.rollouts:,}",
        f"{cost.people:,}",
        f"{cost.prompt_tokens:,}",
        f"{cost.new_tokens:,}",
        number(cost.seconds, 1),
        number(per_person, 1),
        f"{cost.failed:,}",
    ]
