"""Bins of a population's fields: their names, their limits, and what cannot be meant."""

import math

import pytest

from mf_llm import InputError
from mf_llm.simulation.population_bins import OUTSIDE, check_bins, load_bins


def bins_of(declared):
    return check_bins({"x": declared}, ["x"])["x"]


@pytest.mark.parametrize(
    ("edges", "values", "labels"),
    [
        ([18, 30, 65], [18, 29, 29.5, 30, 64.9], ["18 to 29", "18 to 29", "18 to 29", "30 to 64", "30 to 64"]),
        ([None, 30, None], [-5, 29, 30, 1e9], ["under 30", "under 30", "30 and over", "30 and over"]),
        ([-math.inf, 0.5, 1], [0, 0.5, 0.75], ["under 0.5", "0.5 to under 1", "0.5 to under 1"]),
        ([1, 2, 3], [1, 2], ["1", "2"]),
        ([None, None], [3], ["any"]),
        ([-10, 0, 10], [-10, -1, 0], ["-10 to -1", "-10 to -1", "0 to 9"]),
        ([0, 5], [-1, 5, math.nan, "3", True, None, 2], [OUTSIDE] * 5 + [None, "0 to 4"]),
    ],
)
def test_edges(edges, values, labels):
    assert bins_of(edges).labels(values) == labels


def test_listed_values_are_compared_as_prompts_show_them():
    declared = {"one": [1, "I"], "yes": [True], "none": [None, "-"]}
    assert bins_of(declared).labels([1, 1.0, "1", "I", True, "yes", None, "", "-"]) == (
        ["one"] * 4 + ["yes"] * 2 + ["none"] * 3
    )
    assert bins_of(declared).labels(["II"]) == [OUTSIDE]
    assert bins_of(declared | {"rest": None}).labels(["II", None, 1]) == ["rest", "none", "one"]
    assert bins_of({"a": ["a"], "rest": None}).labels([None]) == [None]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("old", r"`bins\['x'\]` must be a list of edges, a mapping of bins to values, or null"),
        (3, "must be a list of edges"),
        ([1], "at least two numbers in increasing order"),
        ([2, 1], "increasing order"),
        ([1, 1], "increasing order"),
        ([1, None, 3], "increasing order"),
        ([1, "2"], "at least two numbers"),
        ([1, math.nan], "at least two numbers"),
        ({False: ["no"]}, "must name its bins by texts, got False"),
        ({" ": ["no"]}, "must name its bins by texts"),
        ({"a": "no"}, r"`bins\['x'\]\['a'\]` must be a list of values or null"),
        ({"a": None, "b": None}, "one bin for all other values, got 'a' and 'b'"),
        ({"a": [1], "b": ["1"]}, "must list each value once, got '1' in 'a' and 'b'"),
    ],
)
def test_bins_that_cannot_be_meant(declared, message):
    with pytest.raises(InputError, match=message):
        bins_of(declared)


def test_fields_that_nobody_has():
    assert check_bins({"x": None}, ["x", "y"]) == {"x": None}
    with pytest.raises(InputError, match=r"must name fields of the population, got 'z'; .* there are x, y\."):
        check_bins({"z": None}, ["x", "y"])
    with pytest.raises(InputError, match="must map fields to their bins"):
        check_bins([1], ["x"])


def test_files_of_bins(tmp_path):
    text = "age: [18, 30, null]\nwork:\n  at work: [full, part]\n  not: null\nregion: null\nlow: [-.inf, 3]\n"
    (tmp_path / "b.yaml").write_text(text)
    expected = {"age": [18, 30, None], "work": {"at work": ["full", "part"], "not": None}, "region": None}
    assert load_bins(tmp_path / "b.yaml") == expected | {"low": [-math.inf, 3]}
    (tmp_path / "b.json").write_text('{"age": [18, 30, null], "region": null}')
    assert load_bins(str(tmp_path / "b.json")) == {"age": [18, 30, None], "region": None}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.yaml", "a: [1", "b.yaml, line 1: must be valid YAML"),
        ("b.json", "a: 1", "b.json, line 1: must be valid JSON"),
        ("b.json", '{"a": null, "a": null}', "'a' stands twice"),
        ("b.yaml", "- 1", r"must map fields to their bins, got a list of 1 in .*b.yaml"),
        ("b.yaml", "", "must map fields to their bins, got None"),
        ("none.yaml", None, r"must be a YAML or JSON file that can be read, got .*none.yaml \(No such file"),
    ],
)
def test_files_that_hold_no_bins(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_bins(tmp_path / name)
