"""Broken event files: one table for the tests of the loaders and of the command line."""

from __future__ import annotations

import gzip
import json

from broken_file import GOOD_EVENT, GOOD_LINE, BrokenFile, case, cut, drop, event, raw_parquet, second_line, text

from mf_llm.events import MAX_TEXT_CHARACTERS

CSV_HEADER = "event_id,topic,time,action,labels.stance\n"
CSV_START = CSV_HEADER + "a,Bridge,1,No,against\na,Bridge,2,Yes,for\n"
LONG = "x" * (MAX_TEXT_CHARACTERS + 1)
MANY_LINES = "".join(GOOD_LINE.replace('"good"', f'"{number:04}"') + "\n" for number in range(400)).encode()

FILES = [
    BrokenFile("missing file", lambda path: None, "no such file"),
    BrokenFile("empty file", text(""), "is empty"),
    BrokenFile("only blank lines", text("\n \n\n"), "is empty"),
    BrokenFile("unknown ending", text(GOOD_LINE), "must end in", file="events.txt"),
    BrokenFile("json ending", text(GOOD_LINE), "one event per line to a .jsonl", file="events.json"),
    BrokenFile("empty folder", lambda path: path.mkdir(), "must hold event files", file="folder"),
    BrokenFile(
        "folder of other files", lambda p: (p.mkdir(), (p / "a.txt").touch()), "must hold event files", file="folder"
    ),
    BrokenFile("folder with ending", lambda path: path.mkdir(), "must hold event files", file="a.jsonl"),
    BrokenFile(
        "truncated gzip", cut(lambda path: path.write_bytes(gzip.compress(MANY_LINES)), 0.5), "ends too early",
        file="events.jsonl.gz",
    ),
    BrokenFile("no gzip", text(GOOD_LINE), "is broken or no gzip", line=1, file="events.jsonl.gz"),
    BrokenFile("empty gzip", lambda path: path.write_bytes(gzip.compress(b"")), "is empty", file="events.jsonl.gz"),
    BrokenFile("invalid UTF-8", second_line(b'{"event_id": "\xff"}'), "must be UTF-8, got byte 0xff", line=2),
    BrokenFile("UTF-16", text(GOOD_LINE.encode("utf-16")), "must be UTF-8", line=1),
]  # fmt: skip

JSON_LINES = [
    BrokenFile("truncated line", second_line(GOOD_LINE[:80]), "is not valid JSON", line=2),
    BrokenFile("pretty-printed", text(json.dumps(GOOD_EVENT, indent=1)), "one complete JSON object per line", line=1),
    BrokenFile("two objects in a line", second_line("{} {}"), "Extra data at character 4", line=2),
    BrokenFile("no JSON", second_line("event_id: a"), "is not valid JSON", line=2),
    BrokenFile("a list", second_line("[1, 2]"), "must be a JSON object, got a list of 2", line=2),
    BrokenFile("a number", second_line("7"), "must be a JSON object, got 7", line=2),
    BrokenFile("null", second_line("null"), "must be a JSON object, got null", line=2),
    BrokenFile("empty object", second_line("{}"), "is required", line=2, field="event_id"),
    BrokenFile("deep nesting", second_line('{"a": ' + "[" * 100_000), "nested too deeply", line=2),
    BrokenFile("endless integer", second_line('{"a": ' + "9" * 5000 + "}"), "number of thousands of digits", line=2),
    BrokenFile(
        "repeated key", second_line(GOOD_LINE[:-1] + ', "topic": "b"}'), "must stand once", line=2, field="topic"
    ),
    BrokenFile(
        "repeated key in a turn",
        second_line(GOOD_LINE.replace('"stance": "for"}', '"stance": "for", "stance": "against"}')),
        "must stand once",
        line=2,
        field="turns[1].labels.stance",
    ),
    BrokenFile(
        "event id twice", second_line(GOOD_LINE), "must be unique in its data set, got 'good' again (first in line 1)",
        line=2, field="event_id",
    ),
]  # fmt: skip

EVENT_FIELDS = [
    BrokenFile("no event id", drop("event_id"), "is required", line=2, field="event_id"),
    BrokenFile("no topic", drop("topic"), "is required", line=2, field="topic"),
    BrokenFile("no turns", drop("turns"), "is required", line=2, field="turns"),
    BrokenFile("labels without dimensions", drop("dimensions"), "(none)", line=2, field="turns[0].labels.stance"),
    case("event id is null", "event_id", None, "is required"),
    case("event id is a number", "event_id", 3, "must be a text, got 3"),
    case("event id is empty", "event_id", "", "must not be empty"),
    case("event id of two lines", "event_id", "a\nb", "must be one line"),
    case("event id is too long", "event_id", "a" * 501, "at most 500 characters, got 501"),
    case("topic is blank", "topic", " \n", "must not be empty"),
    case("topic is a list", "topic", ["a"], "must be a text, got a list of 1"),
    case("topic is NaN", "topic", float("nan"), "must be a text, got nan"),
    case("topic is giant", "topic", LONG, "at most 10,485,760 characters, got 10,485,761"),
    case("topic with NUL", "topic", "a\0b", "a NUL character (U+0000 at character 2)"),
    case("topic with half a surrogate pair", "topic", "ab\ud800", "half a surrogate pair (U+D800 at character 3)"),
    case("turns is an object", "turns", {"0": {}}, "must be a list of turns, got a mapping"),
    case("turns is a text", "turns", "no", "must be a list of turns, got 'no'"),
    case("no turn in turns", "turns", [], "at least one turn"),
    case("unknown split", "split", "dev", '"train", "validation" or "test", got \'dev\''),
    case("split is a number", "split", 1, '"train", "validation" or "test", got 1'),
    case("domain is a number", "domain", 1, "must be a text"),
    case("language is a list", "language", ["en"], "must be a text"),
    case("source is a mapping", "source", {"a": 1}, "must be a text"),
    case("group is a boolean", "group", True, "must be a text, got True"),
    case("block is a text", "block", "1", "must be a whole number"),
    case("block is negative", "block", -1, "must be a whole number of at least 0, got -1"),
    case("block is a boolean", "block", True, "must be a whole number"),
    case("story is a number", "story", 2.5, "must be a text"),
    case("veracity is a boolean", "veracity", False, "must be a text"),
    case("infinite extra field", "likes", float("inf"), "must be finite"),
    case("NaN deep in an extra field", "meta", {"a": [1, float("nan")]}, "must be finite", "meta.a[1]"),
    case("broken text in an extra field", "note", "\udc00", "half a surrogate pair"),
    case("dimensions is a list", "dimensions", ["stance"], "must map names of dimensions"),
    case("categories are a text", "dimensions.stance", "for|against", "must be a list of category names"),
    case("one category", "dimensions", {"x": ["a"]}, "at least 2 categories, got 1", "dimensions.x"),
    case("no category", "dimensions", {"x": []}, "at least 2 categories, got 0", "dimensions.x"),
    case("category twice", "dimensions.stance", ["for", "against", "for"], "'for' twice", "dimensions.stance[2]"),
    case("category is empty", "dimensions.stance", ["for", ""], "must not be empty", "dimensions.stance[1]"),
    case("category is a number", "dimensions.stance", ["for", 0], "must be a text, got 0", "dimensions.stance[1]"),
    case("category with a space at its end", "dimensions.stance", ["for", "no "], "spaces", "dimensions.stance[1]"),
    case("dimension without a name", "dimensions", {"": ["a", "b"]}, "must not be empty", "dimensions.''"),
]

TURN_FIELDS = [
    BrokenFile("turn is a text", event(lambda e: e["turns"].insert(1, "hi")), "JSON object", 2, "turns[1]"),
    BrokenFile("turn is null", event(lambda e: e["turns"].append(None)), "got null", 2, "turns[3]"),
    BrokenFile(
        "neither text nor label",
        event(lambda e: e.update(turns=[{"state": {"age": 3}}, {"action": ""}])),
        "got neither",
        2,
        "turns",
    ),
    case("unknown dimension", "turns.1.labels", {"mood": "for"}, "(stance), got 'mood'", "turns[1].labels.mood"),
    case("unknown category", "turns.0.labels.stance", "maybe", "'against', 'for', got 'maybe'"),
    case("label is a number", "turns.0.labels.stance", 1, "one of the categories"),
    case("label is a list", "turns.0.labels.stance", ["for"], "got a list of 1"),
    case("labels is a text", "turns.0.labels", "for", "must map names of dimensions"),
    case("action is a number", "turns.1.action", 5, "must be a text, got 5"),
    case("action is a list", "turns.1.action", ["a"], "must be a text"),
    case("action is giant", "turns.1.action", LONG, "at most 10,485,760 characters"),
    case("action with NUL", "turns.2.action", "\0", "a NUL character"),
    case("action with half a surrogate pair", "turns.2.action", "\ud83d", "half a surrogate pair (U+D83D"),
    case("state is a number", "turns.0.state", 5, "must be a text or map names"),
    case("state is a list", "turns.0.state", ["nurse"], "must be a text or map names"),
    case("state value is a list", "turns.0.state.age", [1, 2], "write lists and mappings as a text"),
    case("state value is a mapping", "turns.0.state.age", {"a": 1}, "must be a text, a number or a boolean"),
    case("state value is infinite", "turns.0.state.age", float("-inf"), "must be finite, got -inf"),
    case("state value is giant", "turns.0.state.age", LONG, "at most 10,485,760 characters"),
    case("state text with NUL", "turns.2.state", "nurse\0", "a NUL character"),
    case("state name is empty", "turns.0.state", {"": "x"}, "must not be empty", "turns[0].state.''"),
    case("state name is no text", "turns.0.state", {"\ud800": 1}, "half a surrogate pair", "turns[0].state.'\\ud800'"),
    case("state name ends in a space", "turns.0.state", {"age ": 1}, "spaces at its ends", "turns[0].state.age "),
    case("times run backwards", "turns.1.time", 9, "must not be earlier than turns[0], got 9.0 after 10.0"),
    case("time is a text", "turns.1.time", "yesterday", "ISO 8601 text, got 'yesterday'"),
    case("time is NaN", "turns.1.time", float("nan"), "must be a finite number of seconds"),
    case("time is infinite", "turns.1.time", float("inf"), "must be a finite number of seconds"),
    case("time is a boolean", "turns.1.time", True, "must be a finite number of seconds"),
    case("time is beyond all numbers", "turns.2.time", 10**400, "must be a finite number of seconds"),
    case("parent is the turn itself", "turns.1.parent", 1, "index of an earlier turn (a whole number from 0 to 0)"),
    case("parent comes later", "turns.0.parent", 2, "index of an earlier turn"),
    case("parent is negative", "turns.1.parent", -1, "index of an earlier turn"),
    case("parent is a fraction", "turns.1.parent", 0.5, "index of an earlier turn"),
    case("parent is a text", "turns.1.parent", "0", "index of an earlier turn"),
    case("parent is a boolean", "turns.2.parent", True, "index of an earlier turn"),
    case("kind is a number", "turns.0.kind", 1, "must be a text"),
    case("wave is a number", "turns.0.wave", 3, "must be a text"),
    case("person is a number", "turns.0.person", 17, "must be a text"),
    case("weight is negative", "turns.0.weight", -0.5, "at least 0, got -0.5"),
    case("weight is NaN", "turns.0.weight", float("nan"), "finite number"),
    case("weight is infinite", "turns.0.weight", float("inf"), "finite number"),
    case("weight is a text", "turns.0.weight", "2", "finite number of at least 0, got '2'"),
    case("weight is a boolean", "turns.0.weight", True, "finite number"),
    case("extra field of a turn is NaN", "turns.1.likes", float("nan"), "must be finite"),
    BrokenFile(
        "all weights are 0", event(lambda e: [t.update(weight=0) for t in e["turns"]]), "a finite sum above 0", 2,
        "turns",
    ),
    BrokenFile(
        "a wave of weight 0",
        event(lambda e: [t.update(wave=w, weight=x) for t, w, x in zip(e["turns"], "aab", (1, 1, 0), strict=True)]),
        "the weights of wave 'b'", 2, "turns",
    ),
    BrokenFile(
        "a wave comes back",
        event(lambda e: [t.update(wave=w) for t, w in zip(e["turns"], "aba", strict=True)]),
        "must not come back, got 'a' again", 2, "turns[2].wave",
    ),
]  # fmt: skip

TABLES = [
    BrokenFile("CSV without rows", text(CSV_HEADER), "is empty", file="e.csv"),
    BrokenFile("empty CSV", text(""), "is empty", file="e.csv"),
    BrokenFile("CSV without event id", text("topic,action\na,b\n"), "column is missing", 1, "event_id", "e.csv"),
    BrokenFile("CSV without topic", text("event_id,action\na,b\n"), "column is missing", 1, "topic", "e.csv"),
    BrokenFile("CSV with a column twice", text("event_id,topic,topic\na,b,c\n"), "stands twice", 1, file="e.csv"),
    BrokenFile("ragged CSV row", text(CSV_START + "a,Bridge,3,Hm\n"), "5 cells", 4, file="e.csv"),
    BrokenFile("CSV row too long", text(CSV_START + "a,Bridge,3,H,m,for\n"), "got 6; quote texts", 4, file="e.csv"),
    BrokenFile("CSV with an open quote", text(CSV_START + 'a,Bridge,3,"Hm,for\n'), "not valid CSV", 4, file="e.csv"),
    BrokenFile("CSV with a stray quote", text(CSV_START + 'a,Bridge,3,"H"m,for\n'), "not valid CSV", 4, file="e.csv"),
    BrokenFile("CSV in Latin-1", text((CSV_START + "a,Bridge,3,é,for\n").encode("latin-1")), "UTF-8", 4, file="e.csv"),
    BrokenFile("CSV row without event id", text(CSV_START + ",Bridge,3,Hm,for\n"), "empty", 4, "event_id", "e.csv"),
    BrokenFile(
        "CSV event comes back", text(CSV_START + "b,Road,1,Hm,for\na,Bridge,3,Hm,for\n"), "'a' comes back", 5,
        "event_id", "e.csv",
    ),
    BrokenFile("CSV topic changes", text(CSV_START + "a,Road,3,Hm,for\n"), "must be the same", 4, "topic", "e.csv"),
    BrokenFile("CSV time is a word", text(CSV_START + "a,Bridge,soon,H,for\n"), "'soon'", 4, "turns[2].time", "e.csv"),
    BrokenFile("CSV time is nan", text(CSV_START + "a,Bridge,nan,Hm,for\n"), "finite", 4, "turns[2].time", "e.csv"),
    BrokenFile("CSV times run backwards", text(CSV_START + "a,Bridge,1,H,for\n"), "sort", 4, "turns[2].time", "e.csv"),
    BrokenFile(
        "CSV with one label", text(CSV_HEADER + "a,B,1,x,for\na,B,2,y,for\n"), "one label only ('for')", 1,
        "labels.stance", "e.csv",
    ),
    BrokenFile(
        "CSV texts as labels", text(CSV_HEADER + "".join(f"a,B,{i},x,text {i}\n" for i in range(200))),
        "more than 100 different labels", 102, "labels.stance", "e.csv",
    ),
    BrokenFile(
        "CSV label outside given categories",
        text("event_id,topic,labels.s,dimensions.s\na,B,x,x|y\na,B,z,\n"), "got 'z'", 3, "turns[1].labels.s", "e.csv",
    ),
    BrokenFile(
        "CSV with two kinds of state", text("event_id,topic,state,state.age,action\na,B,x,3,y\n"), "got both", 1,
        "state", "e.csv",
    ),
    BrokenFile(
        "CSV column of dimensions", text("event_id,topic,action,dimensions\na,B,x,for|no\n"), "dimensions.NAME", 2,
        "dimensions", "e.csv",
    ),
    BrokenFile(
        "CSV column of labels", text("event_id,topic,labels,action\na,B,for,x\n"), "labels.NAME", 2, "labels", "e.csv"
    ),
    BrokenFile(
        "CSV text is giant", text(CSV_START + f"a,Bridge,3,{LONG},for\n"), "10,485,760", 4, "turns[2].action", "e.csv"
    ),
    BrokenFile("no Parquet", text(GOOD_LINE), "is not a Parquet file", file="e.parquet"),
    BrokenFile("empty Parquet file", text(""), "is not a Parquet file", file="e.parquet"),
    BrokenFile(
        "truncated Parquet", cut(raw_parquet([GOOD_EVENT | {"turns": GOOD_EVENT["turns"][:2]}]), 0.7),
        "is not a Parquet file", file="e.parquet",
    ),
    BrokenFile("Parquet without columns of ours", raw_parquet([{"a": 1}]), "missing", 1, "event_id", "e.parquet"),
    BrokenFile(
        "Parquet with flat turns", raw_parquet([{"event_id": "a", "topic": "b", "turns": "c"}]),
        "must be a list of turns", 1, "turns", "e.parquet",
    ),
    BrokenFile(
        "nested Parquet with a wrong label",
        raw_parquet([
            GOOD_EVENT | {"event_id": v, "dimensions": {"s": ["x", "y"]}, "turns": [{"labels": {"s": v}}]}
            for v in "xz"
        ]),
        "got 'z'", 2, "turns[0].labels.s", "e.parquet",
    ),
    BrokenFile(
        "flat Parquet with a bad weight",
        raw_parquet([{"event_id": "a", "topic": "b", "action": "c", "weight": w} for w in (1.0, -2.0)]),
        "got -2.0", 2, "turns[1].weight", "e.parquet",
    ),
]  # fmt: skip

BROKEN_FILES = [*FILES, *JSON_LINES, *EVENT_FIELDS, *TURN_FIELDS, *TABLES]
