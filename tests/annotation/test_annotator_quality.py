"""Quality of an annotator: closed forms, scikit-learn as the oracle, intervals over events."""

import numpy as np
import pytest
from small_annotators import CATEGORIES, STANCE, FunctionAnnotator, one_hot, reader, worded_event

from mf_llm.annotation import Annotations, assess_annotator
from mf_llm.annotation.annotator_quality import CONFUSION_COLUMNS, equal_mass_bins, quality
from mf_llm.annotation.labelled_texts import labelled_texts
from mf_llm.errors import InputError


def texts_of(*labels: str):
    return labelled_texts([worded_event(one, f"e{n}") for n, one in enumerate(labels)], STANCE)


def random_case(n_events: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    texts = texts_of(*("".join(rng.choice(list("aaabbc"), size=10)) for _ in range(n_events)))
    p = rng.dirichlet(np.ones(3), size=len(texts)) + 0.6 * np.eye(3)[texts.truth]
    return texts, Annotations.of(CATEGORIES, p, [None] * len(texts))


def test_a_perfect_annotator():
    texts = texts_of("abc", "aab", "cc")
    found = assess_annotator(FunctionAnnotator(reader, name="perfect"), texts)
    assert found.accuracy.value == found.macro_f1.value == 1
    assert found.ece.value == found.brier.value == 0
    assert found.nll.value == pytest.approx(0, abs=3e-4)  # clamped
    assert found.confusion == ((3, 0, 0), (0, 2, 0), (0, 0, 3))
    assert found.n_failed == 0 and found.failures == {}
    assert found.record["annotator"] == "perfect" and found.record["fingerprint"] == {"kind": "perfect"}
    assert found.accuracy.low is None  # nothing varies


def test_scores_are_those_of_scikit_learn():
    from sklearn import metrics

    texts, annotations = random_case()
    found = quality(annotations, texts)
    read = annotations.indices()
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(texts.truth, read))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(texts.truth, read, labels=[0, 1, 2])
    for values, ours in ((precision, found.precision), (recall, found.recall), (f1, found.f1)):
        np.testing.assert_allclose([ours[category].value for category in CATEGORIES], values)
    assert found.macro_f1.value == pytest.approx(f1.mean())
    assert found.nll.value == pytest.approx(metrics.log_loss(texts.truth, annotations.probabilities), abs=1e-3)
    assert found.brier.value == pytest.approx(
        ((annotations.probabilities - np.eye(3)[texts.truth]) ** 2).sum(axis=1).mean()
    )
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(texts.truth, read))
    for name in ("accuracy", "macro_f1", "ece", "brier", "nll"):
        one = getattr(found, name)
        assert one.low < one.value < one.high or name == "ece"


def test_calibration_error_in_closed_form():
    # 10 texts read with certainty 0.8, of which 6 are right: |0.8 - 0.6|. Equal certainties share a bin.
    texts = texts_of("aaaaaa", "bbbb")
    p = np.tile([0.8, 0.2, 0.0], (10, 1))
    assert quality(Annotations(CATEGORIES, p, [None] * 10), texts).ece.value == pytest.approx(0.2)
    # Two halves that err in opposite directions do not cancel.
    p[5:] = [0.5, 0.3, 0.2]
    # the sure half: 5 of 5 right at 0.8; the other: 1 of 5 right at 0.5
    assert quality(Annotations(CATEGORIES, p, [None] * 10), texts).ece.value == pytest.approx(0.5 * 0.2 + 0.5 * 0.3)


def test_bins_hold_equal_masses():
    values = np.random.default_rng(0).random(1000)
    bins = equal_mass_bins(values, 10)
    assert np.bincount(bins).tolist() == [100] * 10
    assert values[bins == 3].max() < values[bins == 4].min()


def test_a_text_without_an_answer_is_a_miss():
    texts = texts_of("aab", "bcc")
    answer = lambda text, topic: "timeout" if text.endswith("e1 0") else one_hot(text[0])  # noqa: E731
    found = assess_annotator(FunctionAnnotator(answer), texts)
    assert found.failures == {"timeout": 1} and found.n_failed == 1
    assert found.accuracy.value == pytest.approx(5 / 6)
    assert found.recall["b"].value == pytest.approx(1 / 2) and found.precision["b"].value == 1
    assert found.f1["b"].value == pytest.approx(2 / 3)
    assert found.ece.value == 0
    nobody = assess_annotator(FunctionAnnotator(lambda text, topic: "timeout"), texts)
    assert nobody.accuracy.value == nobody.macro_f1.value == 0
    assert nobody.ece is None and nobody.brier is None and nobody.nll is None


def test_a_category_that_nobody_uses_is_left_out_of_the_mean():
    found = assess_annotator(FunctionAnnotator(reader), texts_of("aab", "ab"))
    assert found.macro_f1.value == 1
    assert np.isnan(found.f1["c"].value)
    assert found.to_dict()["recall"]["c"]["low"] is None


def test_intervals_are_over_events_not_texts():
    # All texts of an event are right or all wrong: 20 events, whatever the number of texts.
    rng = np.random.default_rng(1)
    rights = rng.random(20) < 0.5
    texts = texts_of(*["a" * 30] * 20)
    p = np.repeat(np.where(rights[:, None], [1.0, 0, 0], [0, 1.0, 0]), 30, axis=0)
    one = quality(Annotations(CATEGORIES, p, [None] * 600), texts).accuracy
    expected = 1.96 * rights.std() / np.sqrt(20)
    assert (one.high - one.low) / 2 == pytest.approx(expected, rel=0.25)


def test_the_same_seed_gives_the_same_result_and_it_can_be_shown():
    texts, annotations = random_case()
    first, second = quality(annotations, texts, seed=3), quality(annotations, texts, seed=3)
    assert first == second
    record = first.to_dict()
    assert record["n_texts"] == 120 and record["n_events"] == 12 and record["seed"] == 3
    assert sum(map(sum, record["confusion"])) == 120
    assert first.confusion_rows()[1].keys() == set(CONFUSION_COLUMNS)
    table = first.table(100)
    assert "stance (3): 120 texts of 12 events" in table
    assert "macro F1" in table and "people \\ annotator" in table


def test_annotations_of_other_texts_are_refused():
    texts, annotations = random_case()
    with pytest.raises(InputError, match="must be of the 119 texts"):
        quality(annotations, texts.rows(np.arange(119)))
