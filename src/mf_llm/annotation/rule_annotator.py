"""`RuleAnnotator`: whether a post was only passed on, told from its text alone, in any language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mf_llm.annotation.annotator import Annotations, topics_of
from mf_llm.annotation.dimension_sets import Dimension, name_key
from mf_llm.errors import InputError

RULE_VERSION = 1
SHARE, COMMENT = "share", "comment"

_NAME = r"[@＠]+[\w·-]*"
# What others wrote, quoted behind the writer's own words: Weibo's chains of reposts, old-style retweets.
_QUOTED = re.compile(rf"(//\s*{_NAME}|\b(RT|MT)\s+{_NAME}\s*[:：]?|\bvia\s+{_NAME}).*", re.IGNORECASE | re.DOTALL)
# Who is spoken to, links, and the placeholders that stand for them in published data.
_ADDRESSES = re.compile(
    rf"(回复|回覆|replying to)?\s*{_NAME}|https?://\S+|\bt\.co/\S+|<(url|user)>|网页链接", re.IGNORECASE
)
# What platforms put in when nothing is written.
_FILLERS = {"转发微博", "轉發微博", "转发", "轉發", "分享", "repost", "retweet", "rt", "shared"}
_AROUND = " \t\r\n\u3000\u200b\ufeff:：|/"


class RuleAnnotator:
    """Behaviour by rule: `share` where a text holds no words, signs or pictures of the writer's own, else `comment`.

    Own are emoticons and lone punctuation marks too; quoted posts, names of others, links and what platforms fill in
    ("转发微博", "Repost") are not. Rows are one-hot and nothing fails.

    Attributes:
        name: what tables call it.
    """

    name = "rule"

    def annotate(self, texts: Sequence[str], topic: str | Sequence[str], dimension: Dimension) -> Annotations:
        """One-hot rows; the topic is not looked at.

        Raises:
            InputError: the dimension's categories are not share and comment.
        """
        topics_of(topic, len(texts))
        keys = [name_key(category) for category in dimension.ids]
        if sorted(keys) != sorted((SHARE, COMMENT)):
            raise InputError(
                f"`dimension` must have the categories {SHARE} and {COMMENT} for a rule, got {list(dimension.ids)} of "
                f"{dimension.name!r}; there is no rule for them; use another annotator."
            )
        places = [keys.index(COMMENT if has_own_words(text) else SHARE) for text in texts]
        return Annotations(dimension.ids, np.eye(2)[np.asarray(places, dtype=np.int64)], (None,) * len(texts))

    def fingerprint(self) -> dict[str, Any]:
        """Kind and version of the rule."""
        return {"kind": "rule", "rule_version": RULE_VERSION}


def has_own_words(text: str) -> bool:
    """Whether something of the writer's own is left when quotes, names and links are taken away.

    Examples:
        >>> [has_own_words(text) for text in ("", "转发微博", "RT @a: so true", "//@a: so true", "@a <url>")]
        [False, False, False, False, False]
        >>> [has_own_words(text) for text in ("wow RT @a: so true", "太好了//@a:x", "[泪]", "?", "回复@a:是的")]
        [True, True, True, True, True]
    """
    own = _ADDRESSES.sub(" ", _QUOTED.sub(" ", text)).strip(_AROUND)
    return bool(own) and own.casefold() not in _FILLERS
