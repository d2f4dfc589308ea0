"""What tells of a person in running text: one table of regular expressions, and the marks put in its place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

NAMES, HANDLES, LINKS, EMAILS, PHONES, NUMBERS = KINDS = ("names", "handles", "links", "emails", "phones", "numbers")

# A part of a text: where it begins and ends, what kind it is, and what is equal for the same name, link or handle.
Part = tuple[int, int, str, str]

_MARKS = {
    NAMES: "[name{}]", HANDLES: "@user{}", LINKS: "[link{}]", EMAILS: "[email{}]", PHONES: "[phone{}]",
    NUMBERS: "[number]",
}  # fmt: skip

# Scripts without spaces between words (Thai to Khmer, Chinese, Japanese, Korean with its endings).
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
LETTER = rf"[^\W{UNSPACED}]"

# Our own marks are found again as what they stand for: a scrubbed text stays as it is, and somebody whose handle looks
# like a mark gets a new one.
_MARK = re.compile(
    rf"\[(?:name|link|email|phone)[0-9]{{1,9}}\]|\[number\]|(?:@|(?<!{LETTER}))user[0-9]{{1,9}}(?!{LETTER})"
)

# Letters of other alphabets belong to an address behind a "/" or the like, and to the text behind a letter; a full
# stop or bracket at the end belongs to the sentence.
_REST = r"(?:[A-Za-z0-9\-._~:/?#@!$&'()*+,;=%]|(?<=[/=_\-#?&.~+])[^\W\x00-\x7f]+)+(?<![.,;:!?'()*])"
_HOST = r"(?:[A-Za-z0-9\-]+\.)+(?:com|org|net|edu|gov|info|biz|co\.uk|com\.[a-z]{2}|[a-z]{2}(?=/\w))"
_SEPARATOR = r"[ \xa0().\-–/·]"
_YEAR = r"(?:1[89]|20)\d\d"
_TITLES = "Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Lady|Lord|Dame|Rev|Herr|Frau|Monsieur|Madame|Mme|Mlle|Señor|Señora"
_CAPITAL = "[A-ZÀ-ÖØ-ÞΑ-ΩА-Я]"
_CALLED = rf"(?!(?:{_TITLES})\b)(?:{_CAPITAL}\.\s?){{0,3}}{_CAPITAL}[\w'’\-]*(?:[ ]{_CAPITAL}[\w'’\-]+){{0,2}}"
_SURNAMES = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊"
    "金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文"
)

# The only table of what is found without knowing anybody, in the order in which it counts: what is found first is
# taken. Every expression begins where a run of its characters begins, or looks at a bounded number of them, so that no
# text takes long.
_TABLE = [
    (LINKS, rf"(?i:(?<!{LETTER})[a-z][a-z0-9+.\-]{{1,9}}://{_REST})"),
    (LINKS, rf"(?i:(?<!{LETTER})www\.{_REST})"),
    (EMAILS, rf"(?<!{LETTER})(?<![.+%'\-@＠])(?:{LETTER}|[.+%'\-])++[@＠](?:{LETTER}|-)++(?:\.(?:{LETTER}|-)++)++"),
    (LINKS, rf"(?i:(?<!{LETTER})(?<![.\-@＠]){_HOST}(?![A-Za-z0-9\-@])(?:/{_REST}|/)?)"),
    (HANDLES, r"[@＠]\w+(?:[.\-@＠·]\w+)*"),
    (HANDLES, r"(?<![\w/])/?u/[A-Za-z0-9_\-]{3,}"),
    (NAMES, rf"\b(?:(?:{_TITLES})\b\.?\s{{1,3}}){{1,3}}(?P<part>{_CALLED})"),
    (NAMES, rf"(?P<part>[{_SURNAMES}][\u4e00-\u9fff]{{0,2}}?)(?:先生|女士|小姐|太太|老师|医生|教授)"),
    (NUMBERS, rf"(?<!\d){_YEAR}[\-/.]\d{{1,2}}[\-/.]\d{{1,2}}(?!\d)"),
    (NUMBERS, rf"(?<!\d)\d{{1,2}}[\-/.]\d{{1,2}}[\-/.]{_YEAR}(?!\d)"),
    (NUMBERS, rf"(?<!\d){_YEAR} ?[\-–/] ?{_YEAR}(?!\d)"),
    (NUMBERS, r"(?<![\d.,])\d{1,3}(?:[.,]\d{3})++(?![.,]?\d)"),
    (PHONES, rf"(?<!\d)[+＋(]{{0,2}}\d(?:{_SEPARATOR}{{0,3}}\d){{6,}}"),
    (NUMBERS, rf"(?<!{LETTER})\d++(?:[.,:：]\d++)*+(?!\ufe0f?\u20e3)"),
]  # fmt: skip
_PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in _TABLE]


def mark(kind: str, number: int) -> str:
    """What is put in the place of something: "@user3", "[link1]", "[number]"."""
    return _MARKS[kind].format(number)


def marks(text: str) -> Iterator[Part]:
    """The marks in a text."""
    for found in _MARK.finditer(text):
        kind = next((kind for kind in KINDS if found[0].startswith(f"[{kind.removesuffix('s')}")), HANDLES)
        yield found.start(), found.end(), kind, same(found[0])


def found_by_form(text: str, kinds: tuple[str, ...] = KINDS) -> Iterator[Part]:
    """What the table finds, entry by entry; what later ones find may lie in what earlier ones found."""
    for kind, pattern in _PATTERNS:
        if kind not in kinds:
            continue
        group = "part" if "part" in pattern.groupindex else 0
        for found in pattern.finditer(text):
            yield found.start(group), found.end(group), kind, found[group] if kind == LINKS else same(found[group])


def same(text: str) -> str:
    """What two ways of writing the same have in common: no @, no difference of case or width."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return folded.removeprefix("/").removeprefix("u/").removeprefix("@")
