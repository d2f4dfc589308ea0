"""Replay: an annotator's reading of real texts as a row beside methods."""

from dataclasses import replace

import numpy as np
import pytest
from small_annotators import CATEGORIES, STANCE, FunctionAnnotator, one_hot, reader, worded_event

from mf_llm.annotation import Annotations, annotate_event, judge_annotated
from mf_llm.annotation.replay import replay
from mf_llm.errors import InputError
from mf_llm.evaluation.distributions import clamp, kl_divergence, smooth
from mf_llm.evaluation.forecasters import Training
from mf_llm.evaluation.judged_event import judge_forecast
from mf_llm.evaluation.method_table import Cell, MethodTable
from mf_llm.evaluation.paired import MethodScores, Resampling, paired_difference
from mf_llm.evaluation.protocol import Windows, plan_event

WINDOWS = Windows(4, 4)
EVENT = worded_event("abca" + "aabb" + "ccc." + "caab" + "ab")


def half(text: str, topic: str):
    """Half on the true letter, the rest on the other two."""
    return [0.25 + 0.25 * share for share in one_hot(text[0])]


def test_only_the_judged_people_are_read_in_their_order():
    annotator = FunctionAnnotator(reader)
    plan = plan_event(EVENT, WINDOWS)
    annotations = annotate_event(EVENT, plan, annotator, STANCE)
    assert [text for text, _ in annotator.asked] == [EVENT.turns[i].action for w in plan.judged for i in w]
    assert {topic for _, topic in annotator.asked} == {"topic e"}
    assert annotations.labels() == list("aabbccccaaba")[:12]


def test_people_themselves_have_no_kl():
    plan = plan_event(EVENT, WINDOWS)
    annotations = annotate_event(EVENT, plan, FunctionAnnotator(reader), STANCE)
    assert judge_annotated(plan, annotations).kl == pytest.approx(0, abs=3e-4)
    hard = judge_annotated(plan, annotations, hard=True)
    counts = np.array([[2, 2, 0], [0, 0, 4], [3, 1, 0]])
    np.testing.assert_allclose(hard.q, smooth(counts))
    assert hard.sampled and hard.kl == pytest.approx(kl_divergence(plan.truth, smooth(counts)).mean())


def test_soft_readings_are_summed_with_weights():
    event = worded_event("aabbccab")
    turns = [replace(turn, weight=1.0 + n) for n, turn in enumerate(event.turns)]
    event = event.__class__(**vars(event) | {"turns": tuple(turns)})
    plan = plan_event(event, WINDOWS)
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=4)
    judged = judge_annotated(plan, Annotations(CATEGORIES, p, [None] * 4))
    weights = np.array([5.0, 6, 7, 8])
    np.testing.assert_allclose(judged.q[0], clamp(weights @ p / weights.sum()))
    hard = judge_annotated(plan, Annotations(CATEGORIES, p, [None] * 4), hard=True)
    np.testing.assert_allclose(hard.q[0], smooth((weights / weights.mean()) @ np.eye(3)[p.argmax(axis=1)]))


def test_failed_rows_are_counted_and_left_out():
    plan = plan_event(EVENT, WINDOWS)
    silent = lambda text, topic: "timeout" if text[0] == "c" or text.endswith("16") else one_hot(text[0])  # noqa: E731
    judged = judge_annotated(plan, annotate_event(EVENT, plan, FunctionAnnotator(silent), STANCE))
    assert judged.n_failed == 5
    # The second window holds nothing but c; it has no shares and is left out.
    assert judged.plan.names == ("1", "3")
    np.testing.assert_allclose(judged.q[1], clamp([2 / 3, 1 / 3, 0]), atol=1e-9)
    with pytest.raises(InputError, match="must hold an answer in some window"):
        judge_annotated(plan, annotate_event(EVENT, plan, FunctionAnnotator(lambda *_: "timeout"), STANCE))


def test_rows_of_other_people_and_other_categories_are_refused():
    plan = plan_event(EVENT, WINDOWS)
    with pytest.raises(InputError, match="must be of the 12 judged people"):
        judge_annotated(plan, Annotations(CATEGORIES, np.eye(3), [None] * 3))
    with pytest.raises(InputError, match="`plan` must be of event 'other'"):
        annotate_event(worded_event("abc", "other"), plan, FunctionAnnotator(reader), STANCE)


def test_a_replay_is_a_row_beside_methods():
    train = [worded_event("aabbaabbccab", f"t{e}", "train") for e in range(4)]
    test = [worded_event("abcaaabbabca" if e % 2 else "ccabbbca", f"e{e}") for e in range(5)]
    resampling = Resampling(n_bootstrap=200)
    done = replay(train + test, FunctionAnnotator(half), STANCE, windows=WINDOWS, data_set="d", resampling=resampling)
    assert done.floor == pytest.approx(0, abs=3e-4)
    record = done.to_dict()
    assert record["n_events"] == 5 and set(record["events"]) == {f"e{e}" for e in range(5)}
    assert record["kl"]["value"] == pytest.approx(np.mean([one["kl"]["value"] for one in record["events"].values()]))
    first, one_window = record["events"]["e1"], record["events"]["e0"]
    assert first["n_windows"] == 2 and first["kl"]["low"] < first["kl"]["value"] < first["kl"]["high"]
    assert one_window["n_windows"] == 1 and one_window["kl"]["low"] is None
    assert record["kl"]["low"] < record["kl"]["value"] < record["kl"]["high"]

    training = Training(train, WINDOWS, "stance", CATEGORIES)
    carry = MethodScores(
        "carry", "d", {0: [judge_forecast(one.plan, training.reference, training) for one in done.events]}
    )
    difference = paired_difference(done.scores, carry, resampling).interval()
    assert difference.value == pytest.approx(record["kl"]["value"] - carry.kl().mean())
    cells = {("function", "d"): Cell(done.scores), ("carry", "d"): Cell(carry)}
    rows = MethodTable(cells, {"d": training}, resampling).kl_rows()
    assert [row["method"] for row in rows] == ["function", "carry"]
    assert rows[0]["kl"] == pytest.approx(record["kl"]["value"])
    assert replay(train + test, FunctionAnnotator(half), STANCE, windows=WINDOWS, limit=2).to_dict()["n_events"] == 2


def test_a_replay_needs_an_event_that_is_long_enough():
    with pytest.raises(InputError, match="must hold an event of split 'test' with a whole window"):
        replay([worded_event("ab")], FunctionAnnotator(reader), STANCE)
