"""The metric, from the installed copy and from a bare folder."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from mf_llm import load_metric
from mf_llm.metrics import population_kl

FOLDER = Path(population_kl.__file__).parent


@pytest.fixture(scope="module")
def metric():
    return load_metric()


def test_loads_from_a_bare_folder_with_evaluate(tmp_path):
    import evaluate

    folder = tmp_path / "population_kl"
    folder.mkdir()
    for name in ("population_kl.py", "divergence.py"):
        shutil.copy(FOLDER / name, folder)
    metric = evaluate.load(str(folder))
    assert metric.name == "population_kl"
    score = metric.compute(predictions=[[0.5, 0.5]], references=[[0.9, 0.1]])["kl"]
    assert score == pytest.approx(entropy([0.9, 0.1], [0.5, 0.5]))


def test_distributions_agree_with_scipy(metric):
    p = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]
    q = [[0.2, 0.3, 0.5], [0.2, 0.4, 0.4]]
    scores = metric.compute(predictions=q, references=p)
    assert scores["kl_per_step"] == pytest.approx([entropy(a, b) for a, b in zip(p, q, strict=True)])
    assert scores["js_per_step"] == pytest.approx([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)])
    assert scores["total_variation_per_step"] == pytest.approx([0.5, 0.2])
    assert scores["entropy_ratio_per_step"] == pytest.approx([entropy(q[n]) / entropy(p[n]) for n in range(2)])
    assert scores["kl"] == pytest.approx(np.mean(scores["kl_per_step"]))
    assert scores["entropy_ratio"] == pytest.approx(entropy(np.mean(q, axis=0)) / entropy(np.mean(p, axis=0)))
    assert (scores["steps"], scores["categories"], scores["n_steps"], scores["n_rows"]) == ([0, 1], None, 2, 2)


def test_labels_get_half_a_person_per_category(metric):
    scores = metric.compute(predictions=["a", "b", "b"], references=["a", "a", "c"])
    assert scores["categories"] == ["a", "b", "c"]
    assert scores["kl"] == pytest.approx(entropy([2 / 3, 0, 1 / 3], np.array([1.5, 2.5, 0.5]) / 4.5))


def test_integers_and_strings_give_the_same(metric):
    numbers = metric.compute(predictions=[0, 1, 1, 2], references=[0, 0, 1, 2], steps=[0, 0, 1, 1])
    texts = metric.compute(
        predictions=["0", "1", "1", "2"], references=["0", "0", "1", "2"], steps=["x", "x", "y", "y"]
    )
    assert numbers["kl_per_step"] == texts["kl_per_step"]
    assert texts["steps"] == ["x", "y"]


def test_categories_nobody_chose_count(metric):
    two = metric.compute(predictions=["a"], references=["a"], categories=["a", "b"])
    four = metric.compute(predictions=["a"], references=["a"], categories=["a", "b", "c", "d"])
    assert two["kl"] == pytest.approx(math.log(2 / 1.5))
    assert four["kl"] == pytest.approx(math.log(3 / 1.5))


def test_zero_shares_are_clamped(metric):
    scores = metric.compute(predictions=[[1.0, 0.0]], references=[[0.0, 1.0]])
    assert scores["kl"] == pytest.approx(-math.log(1e-4 / 1.0001))


def test_probabilities_of_people_against_their_labels(metric):
    scores = metric.compute(
        predictions=[[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]],
        references=["yes", "no", "no"],
        steps=[0, 0, 1],
        weights=[1, 3, 1],
        categories=["yes", "no"],
    )
    expected = [entropy([0.25, 0.75], [0.6, 0.4]), entropy([0, 1], [0.2, 0.8])]
    assert scores["kl_per_step"] == pytest.approx(expected)


def test_a_step_without_disagreement_has_no_entropy_ratio(metric):
    assert math.isnan(metric.compute(predictions=["a", "b"], references=["a", "a"])["entropy_ratio"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"predictions": ["a"], "references": ["z"], "categories": ["a"]}, "`references` must use the categories"),
        ({"predictions": [[0.5, 0.5]], "references": ["a"]}, "`categories` must be given"),
        ({"predictions": [[0.5, 0.6]], "references": [[0.5, 0.5]]}, "`predictions` must be distributions"),
        ({"predictions": [[0.5, 0.3, 0.2]], "references": [[0.5, 0.5]]}, "`predictions` must hold lists of 2 shares"),
        ({"predictions": ["a"], "references": ["a"], "weights": [1, 2]}, "`weights` must hold one number per row"),
        ({"predictions": ["a"], "references": ["a"], "weights": [-1]}, "`weights` must be finite"),
        ({"predictions": ["a"], "references": ["a"], "weights": [0]}, "`weights` must not all be 0"),
        ({"predictions": ["a"], "references": ["a"], "steps": [1, 2]}, "`steps` must hold one step per row"),
        ({"predictions": ["a"], "references": ["a"], "categories": ["a", "a"]}, "`categories` must differ"),
    ],
)
def test_wrong_inputs_say_what_to_do(metric, inputs, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(**inputs)


LABELS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.floats(0.1, 10)), min_size=1, max_size=20
)


@settings(max_examples=25, deadline=None)
@given(rows=LABELS, unit=st.floats(0.01, 100))
def test_weights_have_no_unit(metric, rows, unit):
    predictions, references, weights = zip(*rows, strict=True)
    inputs = {"predictions": list(predictions), "references": list(references), "categories": list("abc")}
    once = metric.compute(**inputs, weights=list(weights))
    scaled = metric.compute(**inputs, weights=[unit * weight for weight in weights])
    assert once["kl"] == pytest.approx(scaled["kl"], abs=1e-9)
    assert once["kl"] >= 0
