"""Free text of a rollout gets labels, and can then be judged like any rollout."""

from dataclasses import replace

import numpy as np
import pytest
from small_annotators import FunctionAnnotator
from small_events import STANCES, model_of, processor_of, run, small_event

from mf_llm import Rollout
from mf_llm.annotation import annotate_rollout, assess_annotator, event_dimension
from mf_llm.annotation.labelled_texts import labelled_texts
from mf_llm.errors import InputError
from mf_llm.evaluation import evaluate_rollouts
from mf_llm.evaluation.judged_event import judge_rollouts
from mf_llm.evaluation.protocol import Windows
from mf_llm.simulation.rollout import FAILED

EVENT = small_event(16)
DIMENSION = event_dimension(EVENT)


def by_length(text: str, topic: str):
    """Shares that follow from the length of a text; a length of a multiple of 7 has no answer."""
    if len(text) % 7 == 0:
        return "timeout"
    return [1 + len(text) % 3, 1, 1 + len(text) % 2]


@pytest.fixture(scope="module")
def free_text() -> Rollout:
    """Eight people behind 8 turns of warm-up; the text of the first failed."""
    rollout = run(model_of("qwen2"), processor_of("qwen2"), EVENT, action="text", agents_per_step=4)
    first = next(place for place, row in enumerate(rollout.actions) if row.source == "simulated")
    failed = replace(rollout.actions[first], text="", source=FAILED, failure="empty_text")
    rollout.actions[first] = failed
    rollout.actions[first + 1] = replace(rollout.actions[first + 1], text="seven77")
    return rollout


def test_texts_get_probabilities_and_failures_stay_rows(free_text):
    annotator = FunctionAnnotator(by_length)
    found = annotate_rollout(free_text, annotator, DIMENSION)
    assert (found.dimension, found.categories) == ("stance", STANCES)
    assert found.config["readout"] == "exact"
    before = {row.turn: row for row in free_text.actions}
    assert [row.turn for row in found.actions] == [row.turn for row in free_text.actions]
    n_asked = 0
    for row in found.actions:
        if row.source != "simulated":
            assert row == before[row.turn]
            continue
        n_asked += 1
        assert row.text == before[row.turn].text
        shares = by_length(row.text, "")
        if isinstance(shares, str):
            assert (row.label, row.probabilities, row.failure) == (None, None, "annotation: timeout")
        else:
            np.testing.assert_allclose(row.probabilities, np.array(shares) / sum(shares))
            assert row.label == STANCES[int(np.argmax(shares))] and row.failure is None
    assert len(annotator.asked) == n_asked > 3
    assert {topic for _, topic in annotator.asked} == {EVENT.topic}
    assert free_text.dimension != "stance" or free_text.actions[-1].probabilities is None  # a copy


def test_shares_of_steps_are_weighted_means(free_text):
    found = annotate_rollout(free_text, FunctionAnnotator(by_length), DIMENSION)
    for before, step in zip(free_text.steps, found.steps, strict=True):
        members = [row for row in found.actions if row.step == step.step and row.probabilities is not None]
        if step.real:
            assert step.shares == before.shares
        else:
            expected = np.average([row.probabilities for row in members], axis=0, weights=[r.weight for r in members])
            np.testing.assert_allclose(step.shares, expected)


@pytest.mark.parametrize("hard", [False, True])
def test_an_annotated_rollout_is_judged_saved_and_read(free_text, tmp_path, hard):
    quality = assess_annotator(FunctionAnnotator(by_length), labelled_texts([EVENT], DIMENSION), n_bootstrap=50)
    found = annotate_rollout(free_text, FunctionAnnotator(by_length), DIMENSION, hard=hard, quality=quality)
    again = Rollout.load(found.save(tmp_path))
    assert again.actions == found.actions
    record = again.versions["annotator"]
    assert record["fingerprint"] == {"kind": "function"} and record["name"] == "function"
    assert record["quality"]["macro_f1"]["value"] == pytest.approx(quality.macro_f1.value)
    assert record["dimension"]["categories"][0]["id"] == "support"

    n_failed = record["n_failed"] + sum(row.source == FAILED for row in free_text.actions)
    judged = judge_rollouts(EVENT, [again], Windows(8, 8))
    assert judged.sampled is hard and judged.n_failed == n_failed
    rows = [row for row in found.actions if row.label is not None and row.turn >= 8]
    answers = [np.eye(3)[STANCES.index(row.label)] if hard else row.probabilities for row in rows]
    mass = np.average(answers, axis=0, weights=[row.weight for row in rows])
    if not hard:
        np.testing.assert_allclose(judged.q[0], mass, atol=1e-6)
    report = evaluate_rollouts([again], [EVENT], windows=Windows(8, 8), n_bootstrap=50)
    assert report.rows[0]["kl"] == pytest.approx(judged.kl)
    assert report.rows[0]["n_failed"] == n_failed
    assert report.summary["rollout_versions"][0]["annotator"] == record


def test_answers_people_gave_themselves_are_kept():
    chosen = run(model_of("qwen2"), processor_of("qwen2"), EVENT, action="choice")
    with pytest.raises(InputError, match="must hold free text without labels"):
        annotate_rollout(chosen, FunctionAnnotator(by_length), DIMENSION)


def test_annotating_again_replaces_the_annotation(free_text):
    first = annotate_rollout(free_text, FunctionAnnotator(lambda *_: [1, 0, 0]), DIMENSION, hard=True)
    second = annotate_rollout(first, FunctionAnnotator(by_length), DIMENSION)
    assert second.actions == annotate_rollout(free_text, FunctionAnnotator(by_length), DIMENSION).actions


def test_a_rollout_without_simulated_texts_is_refused(free_text):
    warm_up = replace(free_text, actions=[row for row in free_text.actions if row.source == "real"])
    with pytest.raises(InputError, match="must hold a simulated text"):
        annotate_rollout(warm_up, FunctionAnnotator(by_length), DIMENSION)
