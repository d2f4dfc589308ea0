"""Annotations: rows are distributions or typed failures, and stay with their texts."""

import numpy as np
import pytest
from small_annotators import FunctionAnnotator, reader

from mf_llm.annotation import Annotations, Annotator
from mf_llm.annotation.annotator import blank_failures, topics_of
from mf_llm.errors import InputError


def test_rows_are_distributions_or_failures():
    p = [[0.2, 0.8], [np.nan, np.nan], [0.5, 0.5]]
    annotations = Annotations(("x", "y"), np.array(p), (None, "timeout", None))
    assert len(annotations) == 3
    assert annotations.n_failed == 1
    assert annotations.failure_counts == {"timeout": 1}
    assert annotations.labels() == ["y", None, "x"]
    assert annotations.answered.tolist() == [True, False, True]
    np.testing.assert_array_equal(annotations.hard().probabilities, [[0, 1], [np.nan, np.nan], [1, 0]])
    chosen = annotations.rows([2, 1])
    assert chosen.failures == (None, "timeout")
    np.testing.assert_array_equal(chosen.probabilities, [[0.5, 0.5], [np.nan, np.nan]])


def test_rows_are_scaled_and_what_is_not_finite_fails():
    p = [[2.0, 6.0], [np.inf, 1.0], [1.0, 1.0]]
    annotations = Annotations.of(("x", "y"), np.array(p), [None, None, "empty_text"])
    assert annotations.failures == (None, "non_finite_logits", "empty_text")
    np.testing.assert_array_equal(annotations.probabilities[0], [0.25, 0.75])
    assert np.isnan(annotations.probabilities[1:]).all()
    assert len(Annotations.of(("x", "y"), np.empty((0, 2)), [])) == 0


@pytest.mark.parametrize(
    ("p", "failures", "says"),
    [
        ([[0.5, 0.5]], (None, None), r"must have shape \(2, 2\)"),
        ([[0.5, 0.6]], (None,), "must be a distribution"),
        ([[1.5, -0.5]], (None,), "must be a distribution"),
        ([[np.nan, np.nan]], (None,), "must be a distribution"),
        ([[0.5, 0.5]], ("timeout",), "'timeout' in row 0"),
    ],
)
def test_rows_that_are_neither_are_refused(p, failures, says):
    with pytest.raises(InputError, match=says):
        Annotations(("x", "y"), np.array(p), failures)


def test_topics_and_blank_texts():
    assert topics_of("t", 2) == ["t", "t"]
    assert topics_of(("t", "u"), 2) == ["t", "u"]
    with pytest.raises(InputError, match="one for each of the 3 texts, got 2"):
        topics_of(["t", "u"], 3)
    assert blank_failures(["a", " \n", ""]) == [None, "empty_text", "empty_text"]


def test_the_protocol_is_what_the_double_offers():
    assert isinstance(FunctionAnnotator(reader), Annotator)
