"""What people saw and wrote with and without an intervention, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mf_llm.interventions.plan import Candidate
from mf_llm.reporting.blocks import NONE, Block, Cell, Section, Table, Text, shortened
from mf_llm.reporting.samples import answer, spread
from mf_llm.simulation.rollout import FAILED, SIMULATED, ActionRow, Rollout, StepRow

_PEOPLE, _STEPS = 6, 4
_SIGNAL, _STATE, _TEXT = 900, 140, 280
_WRITTEN = ("text", "both")


def branch_samples_section(
    candidate: Candidate | None, parents: Sequence[Rollout], branches: Mapping[str, Sequence[Rollout]]
) -> Section:
    """Some people and signals of the first seed, evenly spread over what came after the intervention.

    Args:
        candidate: whose branch is shown; None where no candidate has one.
        parents, branches: the rollouts.
    """
    title = "What people wrote"
    made = branches.get(candidate.name, ()) if candidate is not None else ()
    seeds = {parent.seed: parent for parent in parents}
    branch = next((one for one in made if one.seed in seeds), None)
    if candidate is None or branch is None:
        return Section(name="texts", title=title, blocks=[Text(text="There is no branch to show.")])
    parent, first = seeds[branch.seed], min(one.step for one in candidate.interventions)
    blocks: list[Block] = [
        Text(
            text=f"Seed {branch.seed}, without and with “{candidate.name}”. Everything here was made by a language "
            "model: no person wrote or thought it. The rows are evenly spread over what came after the intervention: "
            "none was picked because it looks good. Texts are shortened."
        ),
        _people(candidate, parent, branch, first),
        _signals(candidate, parent, branch, first),
    ]
    return Section(name="texts", title=title, blocks=blocks)


def _people(candidate: Candidate, parent: Rollout, branch: Rollout, first: int) -> Block:
    acting = {(row.step, row.turn): row for row in _simulated(branch, first)}
    pairs = [(row, acting.get((row.step, row.turn))) for row in _simulated(parent, first)]
    # Whoever took somebody's place is another person.
    same = [(a, b) for a, b in pairs if b is not None and a.state == b.state]
    if not same:
        return Text(text="No person acts in both: all of them are others.")
    rows = [
        [
            Cell(text=f"step {a.step}, person {a.turn + 1}", detail=shortened(a.state, _STATE)),
            _action("without", a, parent.categories),
            _action("with", b, parent.categories),
        ]
        for a, b in spread(same, _PEOPLE)
    ]
    caption = "The same people at the same place, without and with it."
    head = ["person", "without", f"with {candidate.name}"]
    return Table(caption=caption, head=head, rows=rows, words=frozenset({1, 2}), stacked=True)


def _signals(candidate: Candidate, parent: Rollout, branch: Rollout, first: int) -> Block:
    kind = parent.config.get("signal")
    if kind == "none":
        return Text(heading="Signals", text="People saw nothing of each other: there are no signals (signal: none).")
    before = {step.step: step for step in parent.steps if step.step >= first}
    pairs = [(before[step.step], step) for step in branch.steps if step.step in before]
    mark = "simulated" if kind in _WRITTEN else ""
    rows: list[list[Cell | str]] = [
        [f"step {a.step}", _signal("without", a, mark), _signal("with", b, mark)] for a, b in spread(pairs, _STEPS)
    ]
    caption = "The signal: what people saw of the others. What an intervention puts into it is in there, too."
    head = ["step", "without", f"with {candidate.name}"]
    return Table(caption=caption, head=head, rows=rows, words=frozenset({1, 2}), stacked=True)


def _simulated(rollout: Rollout, first: int) -> list[ActionRow]:
    return [row for row in rollout.actions if row.step >= first and row.source in (SIMULATED, FAILED)]


# Narrow screens hide the heads of columns: each cell says which side it is of.
def _action(side: str, row: ActionRow, categories: Sequence[str]) -> Cell:
    return Cell(text=f"{side}: {answer(row, categories)}", detail=shortened(row.text, _TEXT), mark="simulated")


def _signal(side: str, step: StepRow, mark: str) -> Cell:
    failed = f"failed: {step.signal_failure}; the signal before was kept" if step.signal_failure else ""
    return Cell(text=f"{side}: {shortened(step.signal, _SIGNAL) or NONE}", detail=failed, mark=mark)
