"""A branch equals its parent up to where it is intervened on, and everywhere if nothing is done."""

from dataclasses import replace

import pytest
from small_events import adapted_model, model_of, processor_of, small_event

from mf_llm import InputError, Rollout, SimulationConfig
from mf_llm.interventions import (
    AddedAction,
    AddedActions,
    AmendedSignal,
    Branch,
    ChangedPeople,
    ReplacedSignal,
    TopicLine,
    branch,
    run_branches,
)
from mf_llm.simulation import Population, simulate
from mf_llm.simulation.generation import generate_keyed
from mf_llm.simulation.simulation_config import SIGNALS
from stopped_journal import Crash, stop_journal

FILES = ("actions.parquet", "steps.parquet", "rollout.json")
SHORT = {"agents_per_step": 3, "warm_up": 5, "max_new_tokens": 4, "signal_max_tokens": 5}
EVENT = small_event(17)  # two warm-up steps and four of three people


def parent_of(model, output=None, event=EVENT, **settings):
    config = SimulationConfig(**(SHORT | {"signal": "both", "action": "label_text"} | settings))
    return simulate(model, processor_of("qwen2"), event, config, output=output, progress=False)


def branch_of(model, parent, *interventions, event=EVENT, **named):
    return branch(model, processor_of("qwen2"), event, parent, interventions, progress=False, **named)


def files(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    "settings",
    [{"signal": signal} for signal in SIGNALS]
    + [{"signal": "both", "readout": "sampled"}, {"signal": "text", "anchored": True}]
    + [{"signal": "both", "shown_answers": 6}],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_branch_without_interventions_is_its_parent_bit_for_bit(tmp_path, settings):
    """Also where its steps are made anew: what was taken over left nothing out."""
    model = adapted_model("qwen2") if settings.get("anchored") else model_of("qwen2")
    parent_of(model, tmp_path / "parent", **{"readout": "exact"} | settings)
    parent = Rollout.load(tmp_path / "parent")
    for first in (None, 3, 0):
        branch_of(model, parent, from_step=first, output=tmp_path / f"branch-{first}")
        assert files(tmp_path / f"branch-{first}") == files(tmp_path / "parent"), first


INTERVENTIONS = {
    "topic": TopicLine(step=3, topic="The mayor says: none of it is true."),
    "replaced": ReplacedSignal(step=3, signal="Everybody denies it."),
    "amended": AmendedSignal(step=3, amend_signal="The police have denied it."),
    "amended for long": AmendedSignal(step=3, until=4, amend_signal="The police have denied it."),
    "actions": AddedActions(step=3, actions=[AddedAction(text="It is not true!", label="deny", times=4)]),
    "replaced people": ChangedPeople(step=3, profiles=[{"age": 80}, {"age": 17}], share=0.5),
    "added people": ChangedPeople(step=3, profiles=[{"age": 80}, "a nurse"], add=2),
}


@pytest.mark.parametrize(
    ("kind", "signal"),
    [(kind, "both") for kind in INTERVENTIONS]
    + [(kind, "text") for kind in ("replaced", "amended")]
    + [(kind, "recent") for kind in ("amended", "actions", "replaced people")]
    + [("actions", "statistics")],
)
def test_a_branch_is_what_a_simulation_with_the_interventions_gives(tmp_path, kind, signal):
    one, model = INTERVENTIONS[kind], model_of("qwen2")
    parent = parent_of(model, signal=signal)
    config = SimulationConfig(**(SHORT | {"signal": signal, "action": "label_text"}))
    made = simulate(model, processor_of("qwen2"), EVENT, config, interventions=[one], progress=False)
    found = branch_of(model, parent, one)
    assert found == made
    assert found.steps[:3] == parent.steps[:3]
    assert found.actions[: 3 * 3 - 1] == parent.actions[: 3 * 3 - 1]
    assert found.config["resolved"]["interventions"] == [one.to_dict()]
    assert found != parent


def test_the_past_costs_no_model_call(monkeypatch):
    model, calls = model_of("qwen2"), []
    parent = parent_of(model)

    def spy(*args, **kwargs):
        calls.append(len(args[2]))
        return generate_keyed(*args, **kwargs)

    for module in ("policy_step", "signal_writing"):
        monkeypatch.setattr(f"mf_llm.simulation.{module}.generate_keyed", spy)
    branch_of(model, parent)
    assert calls == []
    branch_of(model, parent, TopicLine(step=5, topic="It is over."))
    assert calls == [3]  # the texts of the last step; no signal follows it


@pytest.mark.parametrize("lines", [1, 3, 4, 6])
def test_an_interrupted_branch_goes_on_to_the_same_files(tmp_path, lines):
    """The journal of a whole branch, cut behind any of its lines: in the past, behind it and behind the last step."""
    model, one = model_of("qwen2"), INTERVENTIONS["amended"]
    parent = parent_of(model)
    branch_of(model, parent, one, output=tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_journal(patch, lines)
        with pytest.raises(Crash):
            branch_of(model, parent, one, output=tmp_path / "cut")
    branch_of(model, parent, one, output=tmp_path / "cut", resume=True)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_branches_side_by_side_are_those_made_one_by_one():
    model = model_of("qwen2")
    parents = [parent_of(model, seed=seed) for seed in (0, 1)]
    wanted = [Branch(parent=parent, interventions=[one]) for one in INTERVENTIONS.values() for parent in parents]
    together = run_branches(model, processor_of("qwen2"), EVENT, wanted, progress=False)
    assert together == [branch_of(model, one.parent, *one.interventions) for one in wanted]


def test_what_people_and_the_mean_field_see():
    """Each kind arrives where it belongs, and in no step before."""
    model = model_of("qwen2")
    parent = parent_of(model, signal="text")
    replaced = branch_of(model, parent, INTERVENTIONS["replaced"])
    assert replaced.steps[3].signal == "Everybody denies it."
    amended = branch_of(model, parent, INTERVENTIONS["amended"])
    assert amended.steps[3].signal == f"{parent.steps[3].signal}\nThe police have denied it."
    acted = branch_of(model, parent, INTERVENTIONS["actions"])
    rows = [row for row in acted.actions if row.source == "intervention"]
    assert [(row.step, row.text, row.label) for row in rows] == [(3, "It is not true!", "deny")] * 4
    assert len({row.turn for row in acted.actions}) == len(acted.actions)
    # Shares are of those who were simulated; the signal tells of all.
    assert acted.steps[3].shares == parent.steps[3].shares
    told = branch_of(model, parent_of(model, signal="recent"), INTERVENTIONS["actions"])
    assert told.steps[4].signal.count("deny: It is not true!") == 4
    people = branch_of(model, parent, ChangedPeople(step=3, until=3, profiles=[{"age": 80}], share=1.0))
    assert {row.state for row in people.actions if row.step == 3} == {"age: 80"}
    assert [row.state for row in people.actions if row.step != 3] == [
        row.state for row in parent.actions if row.step != 3
    ]
    more = branch_of(model, parent, INTERVENTIONS["added people"])
    assert [step.n_people for step in more.steps] == [3, 2, 3, 5, 5, 5]


def test_what_really_came_later_does_not_matter():
    """Truth after the warm-up reaches no branch, whatever is done."""
    model, later = model_of("qwen2"), []
    for number, turn in enumerate(EVENT.turns):
        change = {
            "action": f"Zq7 {number}",
            "labels": {"stance": "query"},
            "time": 5000.0 + number,
            "parent": number - 1,
        }
        later.append(replace(turn, **change) if number >= SHORT["warm_up"] else turn)
    other = replace(EVENT, turns=tuple(later))
    for one in INTERVENTIONS.values():
        expected = branch_of(model, parent_of(model), one)
        found = branch_of(model, parent_of(model, event=other), one, event=other)
        assert (found.actions, found.steps) == (expected.actions, expected.steps)


def test_topics_come_and_go():
    model = model_of("qwen2")
    parent = parent_of(model)
    for_good = branch_of(model, parent, TopicLine(step=3, topic="It was a joke."))
    for_one = branch_of(model, parent, TopicLine(step=3, until=3, topic="It was a joke."))
    assert for_one.steps[3] == for_good.steps[3] != parent.steps[3]
    assert for_one.steps[4] != for_good.steps[4]
    assert for_one.topic == parent.topic


def test_weights_and_waves_of_surveys(tmp_path):
    event = small_event(waves=(4, 5, 4))
    settings = {"action": "choice", "signal": "both", "warm_up": "w1"}
    model = model_of("qwen2")
    parent = parent_of(model, event=event, **settings)
    found = branch_of(model, parent, TopicLine(step=2, topic="Free of charge."), event=event)
    assert found.steps[:2] == parent.steps[:2]
    joined = branch_of(model, parent, ChangedPeople(step=2, profiles=["a nurse"], add=3), event=event)
    assert joined.steps[2].n_people == 7


def test_refusals():
    model = model_of("qwen2")
    parent = parent_of(model)
    news = TopicLine(step=3, topic="It was a joke.")
    for wrong, message in [
        (TopicLine(step=1, topic="x"), "2 to 5, got 1 in intervention 1 .*warm-up cannot be changed"),
        (TopicLine(step=3, until=9, topic="x"), "`until` must be a simulated step, 2 to 5, got 9"),
        (
            AddedActions(step=3, actions=[AddedAction(text="x", label="like")]),
            "one of support, deny, query, got 'like'",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            branch_of(model, parent, wrong)
    with pytest.raises(InputError, match="nobody sees it"):
        branch_of(model, parent_of(model, signal="none"), ReplacedSignal(step=3, signal="x"))
    with pytest.raises(InputError, match="is a branch"):
        branch_of(model, branch_of(model, parent, news), news)
    with pytest.raises(InputError, match="the one the rollout was made of"):
        branch_of(model, parent, news, event=replace(EVENT, topic="Another one."))
    with pytest.raises(InputError, match=r"the one that made the rollout.*weights"):
        branch_of(adapted_model("qwen2"), parent, news)
    with pytest.raises(InputError, match="`from_step` must be a step of the rollout, 0 to 5, got -1"):
        branch_of(model, parent, from_step=-1)


def test_something_can_be_done_to_a_population():
    """In a simulation; a stored one does not hold its people, and cannot be branched off."""
    population = Population.from_records([{"age": 20 + i} for i in range(5)] * 3)
    config = SimulationConfig(**(SHORT | {"signal": "both", "action": "choice"}))
    common = {"population": population, "n_steps": 3, "progress": False}
    model, processor = model_of("qwen2"), processor_of("qwen2")
    without = simulate(model, processor, EVENT, config, **common)
    voices = AddedActions(step=3, actions=[AddedAction(label="deny", times=2)])
    told = simulate(model, processor, EVENT, config, interventions=[INTERVENTIONS["topic"], voices], **common)
    assert told.steps[:3] == without.steps[:3]
    assert told.steps[3].shares != without.steps[3].shares
    assert sum(told.steps[3].counts) == population.n_people
    assert [row.label for row in told.actions if row.source == "intervention"] == ["deny", "deny"]
    with pytest.raises(InputError, match="must not change the people of a population"):
        simulate(model, processor, EVENT, config, interventions=[INTERVENTIONS["added people"]], **common)
    with pytest.raises(InputError, match="is of a population"):
        branch_of(model, without, INTERVENTIONS["topic"])
