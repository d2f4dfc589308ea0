"""``mf-llm scrub``: what is taken out of events, what stays, and that nothing of it can be found again."""

from __future__ import annotations

import json
import sys
import tracemalloc

import pytest
from event_records import RECORDS, write_jsonl, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_llm import Event, InputError, MFLLMForSimulation, MFLLMProcessor, SimulationConfig, cli, load_events
from mf_llm.events import event_from_record
from mf_llm.events.event import Turn
from mf_llm.events.scrub import MAY_REMAIN, EventScrubber
from mf_llm.models.tiny import tiny_backbone, tiny_tokenizer

pytestmark = pytest.mark.trust("privacy", "names, handles, links, addresses and numbers in events to be shared")


@pytest.fixture
def scrub(monkeypatch, capsys):
    """Calls ``mf-llm scrub ARGS`` in this process; returns exit code, stdout and stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mf-llm", "scrub", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return call


def event_of(*texts: str, **fields) -> Event:
    turns = tuple(Turn(person=f"bob_{number}", action=text) for number, text in enumerate(texts))
    return Event(**{"event_id": "x", "topic": "t", "turns": turns} | fields)


def scrubbed(text: str, **settings) -> str:
    """One text of an event whose people are called bob_0 and 张三, scrubbed."""
    turns = (Turn(person="bob_0", action=text), Turn(person="张三", action="yes"))
    return EventScrubber(**settings).scrub(event_of("", turns=turns))[0].turns[0].action


# Person bob_0 is @user1 since it stands before its text.
CASES = [
    ("@alice and @Bob_0 and @ALICE", "@user2 and @user1 and @user2"),
    ("bob_0 says, Bob_0's friend", "@user1 says, @user1's friend"),
    ("@bob.smith-2, @me@mastodon.social, u/some_one", "@user2, @user3, @user4"),
    ("//@李四: 转发@王五 你好", "//@user2: 转发@user3 你好"),
    ("张三说，@张三你好", "@user2 说，@user2 你好"),
    ("＠ａｌｉｃｅ hello @Alice", "@user2 hello @user2"),
    ("see http://t.co/AbC. And http://t.co/abc, http://t.co/AbC!", "see [link1]. And [link2], [link1]!"),
    ("看http://t.cn/Rx我觉得", "看[link1]我觉得"),
    ("https://zh.wikipedia.org/wiki/张三，好", "[link1]，好"),
    ("(https://bob:pw@host.com:80/x?token=1#a) www.x.de/bob_0 bit.ly/xyz x.com", "([link1]) [link2] [link3] [link4]"),
    ("mail müller.b+x@ex-ample.co.uk!", "mail [email1]!"),
    ("联系我a@b.cn吧", "联系我[email1]吧"),
    ("+44 (0)20 7946-0958 or 555.123.4567", "[phone1] or [phone2]"),
    ("电话１３８００１３８０００", "电话[phone1]"),
    ("12 men, ３ dogs, 1,000.5 at 12:30", "[number] men, [number] dogs, [number] at [number]"),
    ("covid-19, 20k, 2024-05-12", "covid-[number], [number]k, [number]"),
    ("1️⃣ done 🎉👩‍👩‍👧", "1️⃣ done 🎉👩‍👩‍👧"),
    ("Mr Smith, Prof. Dr. J. K. Rowling; Mrs. O'Neil Jones went", "Mr [name1], Prof. Dr. [name2]; Mrs. [name3] went"),
    ("王小明先生和李医生", "[name1]先生和[name2]医生"),
    ("covid19, end.Then or so.in 3D", "covid19, end.Then or so.in [number]D"),
    # What looks like our own marks is somebody, or was one.
    ("@user9 user7 [name4] @user9", "@user2 @user3 [name1] @user2"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text[:20] for text, _ in CASES])
def test_what_becomes_of_a_text(text, expected):
    assert scrubbed(text) == expected


def test_names_of_a_list():
    names = ["Ada Lovelace", "Zhao", "诸葛亮", "O'Brien", "Li"]
    text = "ada lovelace, ADA-LOVELACE; zhao! Zhaoing. 问诸葛亮去. o’brien @Zhao Li"
    expected = (
        "[name1], [name1]; [name2]! Zhaoing. 问[name3]去. [name4] @user2 Li"  # Li: too short to be told from words
    )
    assert scrubbed(text, names=names) == expected


def test_what_may_be_kept():
    text = "In 2024-05-12, 1,000,000 of 12 at http://x.org/bob_0 or 555 123 4567"
    assert scrubbed(text, keep=["numbers", "links"]) == text.replace("555 123 4567", "[phone1]")
    event = event_of("yes", event_id="bob", group="a stream", extra={"url": "http://x.org", "screenName": "bob_0"})
    kept, _ = EventScrubber(["ids", "extra"]).scrub(event)
    assert (kept.event_id, kept.group) == ("bob", "a stream")
    assert kept.extra == {"url": "[link1]", "screenName": "@user1"}
    with pytest.raises(InputError, match="`keep` must be some of numbers, links, ids, extra, got 'names'"):
        EventScrubber(["names"])


def test_obfuscated_addresses_stay_and_the_page_says_so():
    assert scrubbed("bob at mail dot com") == "bob at mail dot com"
    assert any('"name at mail dot com"' in line for line in MAY_REMAIN)


def test_profiles_keep_their_answers():
    state = {
        "age": 46, "band": "45-64", "income": "$30,000 - $39,999", "followers": 15234, "listed": "15234",
        "born": "1987", "score": 0.73451, "member": True, "huge": 10**400,
        "bio": "Mum of 3, @bob_0, Mr Smith", "name": "Ann Lee",
    }  # fmt: skip
    turns = (Turn(person="bob_0", state=state, action="Ann Lee!"), Turn(state="Nurse, 46, @ann", action=""))
    new, changes = EventScrubber().scrub(event_of("", turns=turns))
    assert new.turns[0].state == {
        "age": 46, "band": "45-64", "income": "$30,000 - $39,999", "followers": 15000, "listed": "15000",
        "born": "1987", "score": 0.73, "member": True, "huge": "[number]",
        "bio": "Mum of [number], @user1, Mr [name1]", "name": "@user2",
    }  # fmt: skip
    assert new.turns[0].action == "@user2!" and new.turns[1].state == "Nurse, [number], @user3"
    assert changes["turns.state.followers", "rounded"] == changes["turns.state.score", "rounded"] == 1
    assert "turns.state.age" not in {field for field, _ in changes}


def test_structure_stays_and_streams_are_the_same_in_all_events():
    scrubber = EventScrubber()
    for number, record in enumerate(RECORDS):
        event = event_from_record(record)
        new, _ = scrubber.scrub(event)
        assert new.event_id == str(number + 1) and (new.group, new.story) == ("group1", "story1")
        for name in ("dimensions", "split", "block", "domain", "language", "veracity"):
            assert getattr(new, name) == getattr(event, name)
        for old, turn in zip(event.turns, new.turns, strict=True):
            for name in ("labels", "time", "parent", "kind", "wave", "weight"):
                assert getattr(turn, name) == getattr(old, name)
        assert not new.extra and not any(turn.extra for turn in new.turns)


# What must not be found again; each stands in a field of its own.
SECRETS = [
    "ann_author",
    "Ann Author",
    "ann@mail.org",
    "http://ann.org/x",
    "+49 170 5550123",
    "SECRET-ID",
    "bob_handle",
]


def secret_record() -> dict:
    text = "I am ann_author (Ann Author), ann@mail.org, http://ann.org/x, +49 170 5550123, ask @bob_handle"
    turns = [
        {"person": "ann_author", "state": {"bio": text, "name": "Ann Author"}, "action": text, "labels": {"s": "a"}},
        {"person": "bob_handle", "state": {"bio": "x"}, "action": "thanks ann_author", "labels": {"s": "b"}},
    ]
    turns[0]["link"], turns[1]["parent"] = "http://ann.org/x", 0
    fields = {
        "source": "http://ann.org/x",
        "group": "SECRET-ID",
        "story": "SECRET-ID",
        "post": {"author": "Ann Author"},
    }
    return {"event_id": "SECRET-ID", "topic": text, "dimensions": {"s": ["a", "b"]}, "turns": turns} | fields


def write_csv_of(path, record):
    columns = ["event_id", "topic", "person", "state.bio", "state.name", "action", "labels.s", "parent", "link"]
    rows = [",".join(columns)]
    for turn in record["turns"]:
        cells = [record["event_id"], record["topic"], turn["person"], turn["state"].get("bio", "")]
        cells += [turn["state"].get("name", ""), turn["action"], turn["labels"]["s"], turn.get("parent", "")]
        rows.append(",".join(f'"{cell}"' for cell in [*cells, turn.get("link", "")]))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("keep", ["", "extra", "numbers"])
def test_nothing_of_it_is_in_any_file_or_told(scrub, tmp_path, ending, keep, tries):
    write = {"jsonl": write_jsonl, "parquet": write_parquet}.get(ending)
    path = tmp_path / f"in.{ending}"
    write_csv_of(path, secret_record()) if write is None else write(path, [secret_record()])
    output, report = tmp_path / "out" / "scrubbed.jsonl", tmp_path / "out" / "report.json"
    code, out, err = scrub(path, "--output", output, "--report", report, "--keep", keep)
    assert (code, err) == (0, ""), err
    everything = "".join(file.read_text() for file in output.parent.iterdir()) + out
    for secret in SECRETS:
        tries.add()
        assert secret.casefold() not in everything.casefold(), secret
    [event] = load_events(output)
    said = "I am @user1 (@user2), [email1], [link1], [phone1], ask @user3"
    assert event.turns[0].action == event.turns[0].state["bio"] and "ask @user" in event.turns[0].action
    if ending == "jsonl":
        assert event.topic == said and event.turns[1].person == "@user3" and event.turns[1].parent == 0
        assert event.turns[1].action == "thanks @user1"
    told = json.loads(report.read_text())
    assert told["n_events"] == 1 and told["may_remain"] == list(MAY_REMAIN)
    assert told["changed"]["topic"] == {"emails": 1, "handles": 3, "links": 1, "phones": 1}
    assert told["changed"] == told["events"][0]["changed"] and "A help, no guarantee." in out


PIECES = [
    "@", "＠", "bob", "Bob", "ann.x", "张三", "张", "user", "user1", "@user2", "[name1]", "[number]", "[link2]", "[",
    "]", "1", "23", "４", "4567890", "2024", "-", ".", ",", ":", "/", "://", "http://", "www.", ".com", "+", "(", " ",
    "  ", "\n", "Mr", "Dr.", "Smith", "J.", "先生", "王", "u/", "\u200d", "\u20e3",
    "'s", "é", "ß", "İ", "x", "%", "name", "🎉",
]  # fmt: skip


def test_twice_is_once_and_stays_valid(tries):
    texts = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=12).map("".join)
    clean = texts.map(lambda text: text.replace("\0", ""))
    people = st.sampled_from(["bob", "张三", "user1", "@user2", "Bob Smith", "link", None])
    keeps = st.sets(st.sampled_from(["numbers", "links", "ids", "extra"]))
    names = st.lists(st.sampled_from(["Smith", "bob smith", "张三", "number", "user"]), max_size=2)
    values = clean | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
    turns = st.lists(st.tuples(people, clean, st.dictionaries(st.sampled_from(["bio", "name"]), values)), min_size=1)

    @settings(max_examples=tries.of(150, 4000), derandomize=True, deadline=None, database=None)
    @given(clean, turns, keeps, names)
    def check(topic, turns, keep, names):
        tries.add()
        made = tuple(
            Turn(person=who, action=text, state=state, extra={"url": text}, labels={"s": "a"})
            for who, text, state in turns
        )
        event = Event(event_id="e", topic=f"t {topic}", turns=made, dimensions={"s": ("a", "b")}, group="g")
        once, _ = EventScrubber(keep, names).scrub(event)
        twice, changes = EventScrubber(keep, names).scrub(once)
        assert twice == once and not changes
        assert event_from_record(json.loads(json.dumps(once.to_dict()))) == once

    check()


def test_long_texts_take_no_time_that_grows_faster_than_they_do(tries):
    # Quadratic work on these would take minutes.
    for piece in (
        "@a",
        "1 ",
        "a.",
        "Mr ",
        "A. ",
        "a@",
        "http://",
        "1,000,",
        "u/a",
        "[user1]",
        "张三",
        "--",
        "a+",
        "((1",
    ):
        tries.add()
        text = piece * (tries.of(20_000, 200_000) // len(piece))
        assert len(scrubbed(text)) <= 1_000_000


def test_scrubbed_events_are_simulated(scrub, tmp_path):
    path, output = write_jsonl(tmp_path / "in.jsonl", [secret_record()]), tmp_path / "out.jsonl"
    assert scrub(path, "--output", output)[0] == 0
    model = MFLLMForSimulation.from_backbones(tiny_backbone("llama"))
    processor = MFLLMProcessor(tiny_tokenizer("llama"), tiny_tokenizer("llama"))
    config = SimulationConfig(warm_up=1, agents_per_step=1, signal="recent", readout="exact", action="choice")
    rollout = model.simulate(load_events(output)[0], processor, config)
    assert [row.source for row in rollout.actions] == ["real", "simulated"] and rollout.n_failed == 0


def test_one_event_is_in_memory(tmp_path):
    from mf_llm.commands.scrub_events import ScrubRequest, run_scrub

    record = secret_record()
    record["turns"] = record["turns"][:1] * 50

    def peak(n_events: int) -> int:
        records = [record | {"event_id": f"e{number}"} for number in range(n_events)]
        path = write_jsonl(tmp_path / f"{n_events}.jsonl", records)
        del records
        tracemalloc.start()
        run_scrub(ScrubRequest(events=str(path), output=tmp_path / "out.jsonl"))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)  # imports
    assert peak(10) < 1.5 * peak(3)


def test_a_failure_leaves_nothing_behind(scrub, tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [secret_record(), {"event_id": "broken"}])
    code, _, err = scrub(path, "--output", tmp_path / "new" / "out.jsonl")
    assert code == 2 and "line 2" in err and list((tmp_path / "new").iterdir()) == []
    write_jsonl(path, [secret_record()])
    for arguments, words in (
        (["--output", tmp_path / "out.csv"], "must be a file that ends in .jsonl"),
        (["--output", tmp_path / "o.jsonl", "--report", tmp_path / "o.jsonl"], "must be another file"),
        (["--output", tmp_path / "o.jsonl", "--keep", "names"], "`keep` must be some of"),
        (["--output", tmp_path / "o.jsonl", "--names", tmp_path / "none"], "`--names` must be a text file"),
        (["--output", tmp_path / "o.jsonl", "--ner", tmp_path / "none"], "`--ner` must be a token-classification"),
    ):
        code, _, err = scrub(path, *arguments)
        assert code == 2 and words in err and err.count("\n") == 1, err
    assert scrub(path, "--output", path)[0] == 0  # in place
    assert load_events(path)[0].event_id == "1"


def test_a_folder_becomes_one_file(scrub, tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [secret_record()])
    assert scrub(tmp_path, "--output", tmp_path / "new" / "all.jsonl")[0] == 0
    assert [event.event_id for event in load_events(tmp_path / "new" / "all.jsonl")] == ["1", "2"]
    code, _, err = scrub(tmp_path, "--output", tmp_path / "new" / "all.jsonl", "--keep", "ids")
    assert code == 2 and "`--keep ids` must be left out for files that share ids" in err


def tagger_folder(folder, labels):
    """A tiny token classifier that finds whatever it finds."""
    from transformers import LlamaConfig, LlamaForTokenClassification

    tokenizer = tiny_tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )  # fmt: skip
    model = LlamaForTokenClassification(config)
    model.score.bias.data[-1] = 100.0  # everything is what the last label says
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_names_that_a_model_finds(scrub, tmp_path):
    path = write_jsonl(
        tmp_path / "in.jsonl", [{"event_id": "a", "topic": "Zelda " * 40, "turns": [{"action": "oh Zelda"}]}]
    )
    finds = tagger_folder(tmp_path / "finds", ["O", "B-PER", "I-PER"])
    finds_nobody = tagger_folder(tmp_path / "nobody", ["B-PER", "O"])
    for folder, expected in ((finds, "[name"), (finds_nobody, "Zelda")):
        code, _, err = scrub(path, "--output", tmp_path / "out.jsonl", "--ner", folder)
        assert code == 0, err
        [event] = load_events(tmp_path / "out.jsonl")
        assert expected in event.topic and ("Zelda" in event.turns[0].action) is (folder == finds_nobody)
    code, _, err = scrub(path, "--output", tmp_path / "o.jsonl", "--ner", tagger_folder(tmp_path / "no", ["O", "LOC"]))
    assert code == 2 and "a label for persons" in err
