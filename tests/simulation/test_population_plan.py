"""Who acts in a simulation of a population, what it may know, and what it leaves on disk."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_events import every_input, model_of, outcome, processor_of, small_event, texts_read, with_turns
from small_populations import SIZES, WARM_UP, N, population, run, simulated, speaker_rows

from mf_llm import Event, InputError, Rollout, SimulationConfig, Turn, simulate
from mf_llm.simulation import Population, plan_population, plan_simulation
from mf_llm.simulation.journal import Journal
from stopped_journal import Crash, stop_journal

# -- plan, leaks, errors ----------------------------------------------------------------------------------------------


def test_what_really_came_is_nowhere():
    event = small_event(14)
    truth = {"action": "TRUTH", "kind": "TRUTH", "labels": {"stance": "query"}, "state": {"x": "TRUTH"}}
    changed = with_turns(event, at=dict.fromkeys(range(8, 14), truth), veracity="TRUTH")
    settings = {"signal": "both", "action": "label_text"}
    with every_input(model_of("qwen2")) as seen:
        rollout = run(event=changed, **settings)
    assert outcome(rollout) == outcome(run(event=event, **settings))
    assert "TRUTH" not in texts_read(processor_of("qwen2"), seen)
    joined, plan = plan_population(changed, population(), SimulationConfig(warm_up=WARM_UP), 2)
    assert joined.turns[:WARM_UP] == event.turns[:WARM_UP] and len(joined.turns) == WARM_UP + len(SIZES)
    assert not any(turn.action or turn.labels for turn in joined.turns[WARM_UP:]) and plan.is_population


def test_the_warm_up_may_be_all_or_nothing():
    event = small_event(5)
    assert [step.real for step in run(event=event, warm_up=5, signal="statistics").steps] == [True, True, False, False]
    assert [step.real for step in run(event=event, warm_up=0, signal="both").steps] == [False, False]
    survey = small_event(waves=(4, 4, 3))
    for settings, real in (({"warm_up": "w1"}, 1), ({"warm_up": "w3"}, 3), ({"warm_up": None}, 2)):
        rollout = run(event=survey, **settings)
        assert [step.real for step in rollout.steps] == [True] * real + [False] * 2
        assert [step.wave for step in rollout.steps][:real] == ["w1", "w2", "w3"][:real]
    timed = run(event=small_event(14), steps="time", seconds_per_step=100.0)
    assert sum(step.n_people for step in timed.steps if step.real) == WARM_UP


def test_the_anchor_is_that_of_the_event():
    """Without adapters an anchored population is the carry-forward share, in surveys that of the last warm-up wave."""
    for event, settings in ((small_event(14), {}), (small_event(waves=(4, 4, 3)), {"warm_up": "w2"})):
        config = SimulationConfig(**{"warm_up": WARM_UP} | settings, anchored=True, action="choice", signal="none")
        people = simulate(model_of("qwen2"), processor_of("qwen2"), event, config, progress=False)
        rollout = run(event=event, anchored=True, **settings)
        assert rollout.steps[-1].shares == pytest.approx(people.steps[-1].shares)
        assert simulated(rollout)[-1].prompt_tokens == 0


def test_several_events_with_one_population(tmp_path):
    events = [small_event(12, event_id="a"), small_event(14, event_id="b")]
    settings = {"warm_up": 8, "agents_per_step": 3, "max_prompt_tokens": 600}
    config = SimulationConfig(**settings, action="choice", signal="statistics")
    where = {"population": population(), "n_steps": 2, "progress": False}
    model, processor = model_of("qwen2"), processor_of("qwen2")
    alone = [simulate(model, processor, one, config, **where) for one in events]
    together = simulate(model, processor, events, config, output=tmp_path, events_together=2, **where)
    assert [outcome(one) for one in together] == [outcome(one) for one in alone]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"people": "resampled"}, "`people` must be 'actual' in a simulation of a population, got 'resampled'"),
        ({"max_people_per_step": 3}, "`max_people_per_step` must be None in a simulation of a population"),
        ({"action": "text"}, "`action` must have options in a simulation of a population"),
        ({"n_steps": 0}, "`n_steps` must be a whole number of at least 1, got 0"),
        ({"n_steps": True}, "`n_steps` must be a whole number"),
        ({"dimension": "mood"}, "`dimension` must be one of"),
    ],
)
def test_what_cannot_be_simulated(settings, message):
    with pytest.raises(InputError, match=message):
        run(**settings)


def test_populations_of_nobody_and_steps_of_an_event():
    with pytest.raises(InputError, match=r"must have at least one person, got weights that sum to 0.2"):
        run(Population(("a",), (0.2,)))
    with pytest.raises(InputError, match="`n_steps` must be left out without a population, got 3"):
        simulate(model_of("qwen2"), processor_of("qwen2"), small_event(14), SimulationConfig(), n_steps=3)
    bare = Event(event_id="bare", topic="A bridge.", turns=(Turn(action="Yes."), Turn(action="No.")))
    with pytest.raises(InputError, match="free text without a dimension"):
        run(event=bare, warm_up=1, action="auto")
    assert not plan_simulation(small_event(14), SimulationConfig()).is_population


# -- failures, files, resume ------------------------------------------------------------------------------------------


def test_a_state_that_cannot_be_read_is_counted_as_failed(monkeypatch):
    from mf_llm.simulation import policy_step

    read = policy_step.option_log_likelihoods

    def broken(*args, **kwargs):
        scores = read(*args, **kwargs)
        scores[3] = np.nan
        return scores

    monkeypatch.setattr(policy_step, "option_log_likelihoods", broken)
    rollout = run(signal="both", action="label_text", listed_actions=30)
    failed = [row for row in rollout.actions if row.source == "failed"]
    assert [row.failure for row in failed] == ["non_finite_logits"] * 2
    for step in simulated(rollout):
        lost = int(next(row.weight for row in failed if row.step == step.step))
        assert sum(step.counts) == N - lost and step.n_people == N and step.n_failed == 1
        assert sum(step.shares) == pytest.approx(1)
    assert failed[0].counts is None and failed[0].probabilities is None
    assert not any(row.turn == failed[0].turn for row in speaker_rows(rollout) if row.source != "failed")


@pytest.mark.parametrize("lines", [1, 4, 5])
@pytest.mark.parametrize("signal", ["both", "none"])
def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(tmp_path, monkeypatch, lines, signal):
    settings = {"signal": signal, "action": "label_text"}
    expected = run(output=tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_journal(patch, lines)
        with pytest.raises(Crash):
            run(output=tmp_path / "cut", **settings)
    found = run(output=tmp_path / "cut", resume=True, **settings)
    assert outcome(found) == outcome(expected)
    for name in ("actions.parquet", "steps.parquet", "rollout.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_population_may_not_go_on(tmp_path):
    run(output=tmp_path)
    with pytest.raises(InputError, match=r"was made with config.resolved.population.people = 58 and now it is 116"):
        run(population([2 * n for n in SIZES]), output=tmp_path, resume=True)
    with pytest.raises(InputError, match=r"config.resolved.population.steps = 2 and now it is 3"):
        run(n_steps=3, output=tmp_path, resume=True)


def test_a_rollout_survives_saving_and_older_ones_are_read(tmp_path):
    rollout = run(signal="both", action="label_text")
    assert Rollout.load(rollout.save(tmp_path / "new")) == rollout
    older = simulate(
        model_of("qwen2"),
        processor_of("qwen2"),
        small_event(14),
        SimulationConfig(warm_up=8, max_new_tokens=4, signal_max_tokens=4, max_prompt_tokens=600),
        progress=False,
    )
    older.save(tmp_path / "old")
    for name in ("actions.parquet", "steps.parquet"):  # as they were written before rows had counts
        table = pq.read_table(tmp_path / "old" / name)
        pq.write_table(table.drop_columns(["counts"]), tmp_path / "old" / name)
    record = json.loads((tmp_path / "old" / "rollout.json").read_text())
    del record["sha256"]
    (tmp_path / "old" / "rollout.json").write_text(json.dumps(record))
    assert Rollout.load(tmp_path / "old") == older


def test_a_journal_from_before_counts_is_read(tmp_path, monkeypatch):
    event, settings = small_event(14), {"warm_up": 8, "agents_per_step": 3, "max_prompt_tokens": 600}
    config = SimulationConfig(**settings, signal="statistics", action="choice")
    arguments = (model_of("qwen2"), processor_of("qwen2"), event, config)
    expected = simulate(*arguments, progress=False, output=tmp_path / "whole")
    append = Journal._append

    def older(self, record):
        if "step" in record:
            if record["step"]["step"] == 4:
                raise KeyboardInterrupt
            del record["sha256"]
            record = record | {
                "step": {key: value for key, value in record["step"].items() if key != "counts"},
                "actions": [row[:-1] for row in record["actions"]],
            }
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_append", older)
        with pytest.raises(KeyboardInterrupt):
            simulate(*arguments, progress=False, output=tmp_path / "cut")
    assert outcome(simulate(*arguments, progress=False, output=tmp_path / "cut", resume=True)) == outcome(expected)
