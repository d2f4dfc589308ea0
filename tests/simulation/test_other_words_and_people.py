"""How far a result depends on the words of the prompts and on who shows up: other words, people from the warm-up."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from small_events import every_input, model_of, outcome, processor_of, run, small_event, texts_read, with_turns

from mf_llm import InputError, SimulationConfig
from mf_llm.models.wordings import WORDINGS
from mf_llm.simulation import plan_simulation

FAMILY = "llama"


def rollout(event=None, **settings):
    return run(model_of(FAMILY), processor_of(FAMILY), event or small_event(), **{"action": "choice"} | settings)


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(WORDINGS)))
def test_both_roles_read_the_words_and_no_others(number):
    with every_input(model_of(FAMILY)) as seen:
        rollout(wording=number, signal="both")
    for role in ("policy", "mean_field"):
        text = "".join(texts_read(processor_of(FAMILY), {role: seen[role]}).split())
        for other, words in enumerate(WORDINGS):
            instruction = "".join(getattr(words, role).split())
            assert (instruction in text) == (other == number)


def test_the_words_change_the_answers_and_the_first_are_the_usual_ones():
    usual, first, second = rollout(), rollout(wording=0), rollout(wording=1)
    assert outcome(usual) == outcome(first) != outcome(second)
    assert usual.config["wording"] == 0 and second.config["wording"] == 1
    assert outcome(rollout()) == outcome(usual)  # nothing of the other words is left behind


def test_a_topic_keeps_its_words():
    assert WORDINGS[0].topic_text("#Fire in @user <url>") == "#Fire in @user <url>"
    assert WORDINGS[1].topic_text("Fire") == "Many people are talking about this: Fire"
    assert WORDINGS[2].topic_text("#Fire in @user https://a.b/c d") == "Fire in d"
    assert WORDINGS[2].topic_text("@user <url>") == "@user <url>"


def test_all_wordings_say_something_else():
    for field in ("policy", "mean_field", "topic", "signal", "person", "previous", "actions", "task"):
        assert len({getattr(words, field) for words in WORDINGS}) == len(WORDINGS)


def test_a_processor_is_saved_without_its_other_words(tmp_path):
    processor = processor_of(FAMILY)
    processor.with_wording(1)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert not [key for key in saved if key.startswith("_") or "word" in key]


@pytest.mark.parametrize("number", [-1, len(WORDINGS)])
def test_there_are_no_other_words(number):
    with pytest.raises(InputError, match="`wording` must be"):
        rollout(wording=number)


# -- people -----------------------------------------------------------------------------------------------------------


def test_resampled_people_come_from_the_warm_up():
    event = small_event(40)
    made = rollout(event, people="resampled")
    known = {row.state for row in made.actions if row.source == "real"}
    later = [row for row in made.actions if row.source == "simulated"]
    assert len(later) == 32 and {row.state for row in later} <= known
    assert len({row.state for row in later}) > 4
    # The places, and how much they count, are those of the people who came.
    assert [(row.turn, row.weight) for row in later] == [(i, event.turns[i].weight) for i in range(8, 40)]
    assert [row.turn for row in rollout(event).actions] == [row.turn for row in made.actions]


@pytest.mark.parametrize("signal", ["text", "both", "recent", "popular"])
def test_then_nobody_who_came_later_matters(signal):
    event = small_event(20)
    later = {i: {"state": {"age": 99, "followers_count": 10**6, "location": f"Zq7Canary {i}"}} for i in range(8, 20)}
    other = with_turns(event, at=later)
    settings = {"people": "resampled", "signal": signal, "action": "label_text"}
    with every_input(model_of(FAMILY)) as seen:
        found = rollout(other, **settings)
    assert outcome(found) == outcome(rollout(event, **settings))
    assert "Zq7Canary" not in texts_read(processor_of(FAMILY), seen)
    assert outcome(rollout(other, signal=signal)) != outcome(rollout(event, signal=signal))


def test_the_draw_depends_on_the_person_alone():
    event = small_event(30)
    by_three = plan_simulation(event, SimulationConfig(people="resampled", warm_up=8, agents_per_step=3)).profiles
    by_five = plan_simulation(event, SimulationConfig(people="resampled", warm_up=8, agents_per_step=5)).profiles
    other_seed = plan_simulation(event, SimulationConfig(people="resampled", warm_up=8, seed=1)).profiles
    assert by_three == by_five != other_seed
    assert plan_simulation(event, SimulationConfig(warm_up=8)).profiles == {i: i for i in range(8, 30)}


def test_in_a_survey_they_come_from_the_last_wave_by_weight():
    event = small_event(waves=(5, 4, 4000))
    turns = [replace(turn, weight=(i - 4) * 1.0 if 5 <= i < 9 else turn.weight) for i, turn in enumerate(event.turns)]
    made = plan_simulation(replace(event, turns=turns), SimulationConfig(people="resampled"))
    counts = Counter(made.profiles.values())
    assert set(counts) == {5, 6, 7, 8}
    for place, count in counts.items():
        assert count / 4000 == pytest.approx((place - 4) / 10, abs=0.03)


def test_without_a_warm_up_nobody_can_be_drawn():
    with pytest.raises(InputError, match='`people` must be "actual" without a warm-up'):
        rollout(people="resampled", warm_up=0)
    with pytest.raises(InputError, match="`people` must be one of actual, resampled"):
        SimulationConfig(people="others")


# -- settings that are added later ------------------------------------------------------------------------------------


def test_a_run_of_before_a_setting_was_added_goes_on(tmp_path):
    whole = run(model_of(FAMILY), processor_of(FAMILY), small_event(), tmp_path, action="choice")
    path = tmp_path / "rollout.json"
    record = json.loads(path.read_text())
    del record["config"]["wording"], record["config"]["people"], record["sha256"]
    path.write_text(json.dumps(record))
    again = run(model_of(FAMILY), processor_of(FAMILY), small_event(), tmp_path, resume=True, action="choice")
    assert outcome(again) == outcome(whole)
    with pytest.raises(InputError, match=r"was made with config\.wording = 0 and now it is 1"):
        run(model_of(FAMILY), processor_of(FAMILY), small_event(), tmp_path, resume=True, action="choice", wording=1)


def test_changes_name_what_is_not_as_usual():
    assert SimulationConfig().changes() == {}
    assert SimulationConfig(signal="both", seed=0, wording=2).changes() == {"signal": "both", "wording": 2}
