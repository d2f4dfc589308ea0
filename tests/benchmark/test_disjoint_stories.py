"""Test events whose story is told in training are left out, and nothing else."""

import logging
import os
from pathlib import Path

import pytest
from made_events import make_event

from mf_llm import InputError
from mf_llm.benchmark.disjoint_stories import story_disjoint, story_disjoint_sets
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.judging_task import judging_tasks
from mf_llm.events import load_event_sets

FOLDER = Path(os.environ.get("MF_LLM_DATA") or Path(__file__).parents[3] / "shared/data")


def event(event_id: str, split: str, story: str | None):
    return make_event("abcb" * 6, event_id, split, story=story)


EVENTS = [
    event("learned", "train", "flood"),
    event("chosen", "validation", "strike"),
    event("same as train", "test", "flood"),
    event("own", "test", "eclipse"),
    event("same as validation", "test", "strike"),
    event("own again", "test", "eclipse"),
    event("unknown", "test", None),
]


def test_only_test_events_with_a_story_of_their_own_stay():
    assert [one.event_id for one in story_disjoint(EVENTS)] == ["learned", "chosen", "own", "own again"]


def test_what_is_learned_stays_the_same():
    def prior(events):
        [(dimension, task)] = judging_tasks("threads", events, ("test",))
        return Training(events, task.windows, dimension, task.training.categories).prior.tolist()

    assert prior(story_disjoint(EVENTS)) == prior(EVENTS)


def test_an_event_without_a_story_matches_no_other():
    events = [event("learned", "train", None), event("unknown", "test", None), event("own", "test", "eclipse")]
    assert [one.event_id for one in story_disjoint(events)] == ["learned", "own"]


def test_data_sets_that_keep_nothing_are_named(caplog):
    sets = {
        "threads": EVENTS,
        "plain": [event("a", "train", None), event("b", "test", None)],
        "known": [event("a", "train", "flood"), event("b", "test", "flood")],
    }
    with caplog.at_level(logging.WARNING):
        found = story_disjoint_sets(sets)
    assert found == {"threads": story_disjoint(EVENTS)}
    assert [record.getMessage() for record in caplog.records] == [
        "threads: the 2 test events left tell one story; no interval covers others",
        "plain is left out: its test events have no stories",
        "known is left out: every story of its test events is told in training",
    ]
    with pytest.raises(InputError, match="got none in plain, known; nothing can be judged"):
        story_disjoint_sets({name: sets[name] for name in ("plain", "known")})


@pytest.mark.data
@pytest.mark.skipif(not FOLDER.is_dir(), reason="no research data: set MF_LLM_DATA to its folder")
def test_a_quarter_of_the_rumour_threads_stay():
    events = load_event_sets(FOLDER / "rumoureval2019.jsonl.gz")["rumoureval2019"]
    judged = []
    for part in (events, story_disjoint(events)):
        [(_, task)] = judging_tasks("rumoureval2019", part, ("test",))
        judged.append([plan.event for plan in task.plans])
    assert list(map(len, judged)) == [31, 8]
    assert len({event.story for event in judged[1]}) == 1
