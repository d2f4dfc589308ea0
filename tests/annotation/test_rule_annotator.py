"""The rule for behaviour: what counts as words of one's own, in English and Chinese."""

import os
from pathlib import Path

import numpy as np
import pytest

from mf_llm.annotation import Category, Dimension, RuleAnnotator, load_dimensions
from mf_llm.annotation.rule_annotator import has_own_words
from mf_llm.errors import InputError

FOLDER = Path(os.environ.get("MF_LLM_DATA") or Path(__file__).parents[3] / "shared/data")

SHARED = [
    "",
    " \n\u3000",
    "转发微博",
    "轉發微博",
    "转发微博 <url>",
    "Repost",
    "RT",
    "RT @somebody: the bridge is closed",
    "rt @somebody the bridge is closed",
    "//@甲:桥封了 //@乙：真的吗",
    "转发微博//@甲:桥封了",
    "@甲 @乙",
    "https://example.org/a?b=c",
    "@user <url>",
    "回复@甲:",
    "via @somebody",
]
COMMENTED = [
    "Is it true?",
    "no way RT @somebody: the bridge is closed",
    "真的吗//@甲:桥封了",
    "回复@甲:是的",
    "[泪]",
    "@甲 [泪][泪]",
    "@user。怎么会",
    "?",
    "。",
    "😂",
    "see https://example.org",
    "转发微博了",
    "START @somebody",  # ends in RT, but is no retweet
]


@pytest.mark.parametrize("text", SHARED)
def test_no_words_of_ones_own(text):
    assert not has_own_words(text)


@pytest.mark.parametrize("text", COMMENTED)
def test_words_of_ones_own(text):
    assert has_own_words(text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rows_are_one_hot_in_the_order_of_the_dimension(language):
    dimension = load_dimensions(language)["behaviour"]
    read = RuleAnnotator().annotate(["", "hello", "转发微博"], ["a", "b", "c"], dimension)
    assert read.labels() == ["share", "comment", "share"]
    turned = Dimension(name="what", categories=(Category(id="Comment"), Category(id="Share")))
    np.testing.assert_array_equal(
        RuleAnnotator().annotate(["", "hello", "转发微博"], "t", turned).probabilities, read.probabilities[:, ::-1]
    )
    assert read.n_failed == 0
    assert len(RuleAnnotator().annotate([], "t", dimension)) == 0


def test_there_is_no_rule_for_other_categories():
    with pytest.raises(InputError, match="must have the categories share and comment"):
        RuleAnnotator().annotate(["x"], "t", load_dimensions("en")["stance"])


@pytest.mark.data
@pytest.mark.skipif(not FOLDER.is_dir(), reason="no research data: set MF_LLM_DATA to its folder")
def test_the_rule_agrees_with_the_research_data():
    from mf_llm.annotation.labelled_texts import labelled_texts
    from mf_llm.events import load_events

    events = load_events(FOLDER / "weibo_ced.jsonl.gz", split="validation")
    texts = labelled_texts(events, load_dimensions("zh")["behaviour"], words=False)
    read = RuleAnnotator().annotate(texts.texts, texts.topics, texts.dimension)
    assert (read.indices() == texts.truth).mean() > 0.99
