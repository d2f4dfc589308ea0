"""Dimension sets: the packaged ones, files of one's own, and an event's own dimension."""

import pytest

from mf_llm import Event, Turn
from mf_llm.annotation import Category, Dimension, event_dimension, load_dimensions
from mf_llm.annotation.dimension_sets import read_dimensions
from mf_llm.errors import InputError

NAMES = ("rumour", "emotion", "tendency", "behaviour", "stance", "belief", "subjectivity", "intent", "sentiment")
GOOD = (
    "version: 1\nlanguage: en\ndimensions:\n  mood:\n    question: How?\n"
    "    categories: {good: Fine., bad: Not fine.}\n"
)


def test_the_packaged_sets_hold_the_same_ids_in_both_languages():
    english, chinese = load_dimensions("en"), load_dimensions("zh")
    assert tuple(english.dimensions) == tuple(chinese.dimensions) == NAMES
    for name in NAMES:
        assert english[name].ids == chinese[name].ids
        assert english[name].labels == english[name].ids
        for dimension in (english[name], chinese[name]):
            assert dimension.question and all(category.definition for category in dimension.categories)
        assert not set(chinese[name].labels) & set(chinese[name].ids)
        assert chinese[name].question.endswith("？")


def test_an_event_keeps_its_categories_and_gets_the_definitions_of_matching_names():
    event = event_of({"Stance": ("comment", "DENY", "mixed_view"), "colour": ("red", "blue")})
    stance = event_dimension(event)
    assert stance.name == "Stance"
    assert stance.ids == ("comment", "DENY", "mixed_view")
    known = load_dimensions("en")["stance"]
    assert stance.question == known.question
    assert [c.definition for c in stance.categories] == [
        known.categories[3].definition,
        known.categories[1].definition,
        "",
    ]
    assert stance.labels == ("comment", "deny", "mixed view")
    colour = event_dimension(event, "colour")
    assert colour.question == "What is the colour of the text?"
    assert [c.definition for c in colour.categories] == ["", ""]


def test_a_chinese_event_is_asked_in_chinese():
    dimension = event_dimension(event_of({"behaviour": ("share", "comment")}, language="zh"))
    assert dimension.language == "zh"
    assert dimension.labels == ("转发", "评论")
    assert event_dimension(event_of({"颜色": ("红", "蓝")}, language="zh-CN")).question == "这段文字的颜色是什么？"


def test_a_dimension_of_an_event_must_exist():
    with pytest.raises(InputError, match=r"`name` must be one of \['stance'\] of event 'e', got 'mood'"):
        event_dimension(event_of({"stance": ("a", "b")}), "mood")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(GOOD, encoding="utf-8")
    dimensions = load_dimensions(path)
    assert dimensions["mood"].ids == ("good", "bad")
    assert dimensions["mood"].index("bad") == 1
    with pytest.raises(InputError, match=r"`name` must be one of \['mood'\], got 'stance'"):
        dimensions["stance"]
    with pytest.raises(InputError, match="`category` must be one of"):
        dimensions["mood"].index("ugly")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version: 2\n", "must be a mapping with version 1"),
        ("- 1\n", "must be a mapping with version 1"),
        ("version: [1\n", "must be valid YAML"),
        (GOOD + "more: 1\n", "nothing else, got also more"),
        (GOOD.replace("good: Fine.", "yes: Fine."), "`id` of a category must be text, got True"),
        (GOOD.replace("bad: Not fine.", "good: Not fine."), "'good' stands twice"),
        (GOOD.replace(", bad: Not fine.", ""), "at least two with different ids"),
        (GOOD.replace("good: Fine.", "good: {label: bad}"), "at least two with different labels"),
        (
            GOOD.replace("good: Fine.", "good: {lable: x}"),
            "must be a definition, or a mapping of label and definition",
        ),
        (GOOD.replace("question: How?", "question: 3"), "`question` of a dimension must be text, got 3"),
        (GOOD.replace("question: How?", "qestion: How?"), "must hold question, categories"),
        ("version: 1\nlanguage: en\ndimensions: {}\n", "must hold a language and dimensions"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, says):
    with pytest.raises(InputError) as caught:
        read_dimensions(text, "own.yaml")
    assert "own.yaml" in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_file_is_said():
    with pytest.raises(InputError, match="must be one of en, zh or a YAML file, got 'fr'"):
        load_dimensions("fr")


def test_a_dimension_needs_two_different_categories():
    with pytest.raises(InputError, match="at least two"):
        Dimension(name="d", categories=(Category(id="a"),))


def event_of(dimensions, **fields) -> Event:
    return Event(event_id="e", topic="t", turns=(Turn(action="x"),), dimensions=dimensions, **fields)
