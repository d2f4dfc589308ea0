"""The memorisation probe: what is planted is found, what is shared does not count, and no text gets out."""

import csv
import json

import numpy as np
import pytest
import torch

from mf_llm.commands.probe_memory import run_probe_memory
from mf_llm.errors import InputError
from mf_llm.evaluation.halved_texts import TextPool, normalised
from mf_llm.evaluation.intervals import event_draws, generator
from mf_llm.evaluation.known_passages import YARDSTICK, known_passages
from mf_llm.evaluation.memorisation import (
    COLUMNS,
    MemorisationConfig,
    common_prefix,
    event_interval,
    mean_log_likelihoods,
    probe_memorisation,
)
from mf_llm.events import Event, Turn
from mf_llm.models.encoding import DataEncoder
from mf_llm.models.tiny import TINY_FAMILIES, save_tiny_backbone, tiny_backbone, tiny_tokenizer

FAST = {"n_bootstrap": 50}
LEARNED = (
    "The ferry to the northern island leaves at seven tonight.",
    "Nobody told us that every school would stay open today!",
    "I bought three lemons and a very small green umbrella.",
)
OTHER = (
    "My neighbour paints old wooden boats in bright yellow.",
    "We counted eleven herons by the river before breakfast.",
    "Does anyone remember who wrote that song about trains?",
)


def event(event_id: str, split: str, texts, topic: str = "?") -> Event:
    return Event(event_id=event_id, topic=topic, turns=[Turn(action=text) for text in texts], split=split)


def events() -> list[Event]:
    return [event("a", "train", LEARNED[:2]), event("b", "train", LEARNED[2:]), event("c", "test", OTHER)]


def over_fitted(family: str = "qwen3", texts=LEARNED) -> torch.nn.Module:
    """A tiny model that knows some texts by heart."""
    model, tokenizer = tiny_backbone(family), tiny_tokenizer(family)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
    for _ in range(60):
        loss = sum(model(input_ids=one, labels=one).loss for one in ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def probe(model, sets, family="qwen3", **changes):
    config = MemorisationConfig(**{**FAST, **changes})
    return probe_memorisation(sets, model, tiny_tokenizer(family), name="tiny", config=config)


def by_split(report, part="texts"):
    return {row["split"]: row for row in report.rows if row["part"] == part}


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_what_was_planted_is_found_and_nothing_else(family):
    found = by_split(probe(over_fitted(family), {"d": events()}, family))
    assert found["train"]["reproduced"] == 1 and found["test"]["reproduced"] == 0
    assert found["train"]["common_prefix"] > 8 > 2 > found["test"]["common_prefix"]
    assert found["train"]["log_likelihood"] > -0.1 and found["test"]["log_likelihood"] < -3
    assert found["train"]["gain"] > 1
    assert found["train"]["n"] == 3 and found["train"]["n_events"] == 2
    untrained = by_split(probe(tiny_backbone(family), {"d": events()}, family))
    assert untrained["train"]["reproduced"] == untrained["test"]["reproduced"] == 0
    assert untrained["train"]["common_prefix"] < 2 and untrained["train"]["log_likelihood"] < -3


def test_the_yardstick_is_a_row_of_its_own():
    report = probe(tiny_backbone("qwen3"), {"d": events()})
    [row] = [row for row in report.rows if row["dataset"] == YARDSTICK]
    assert row["n"] == row["n_events"] == len(known_passages()) and row["split"] is None
    assert YARDSTICK in report.table()
    # What is probed beside it does not move it.
    assert probe(tiny_backbone("qwen3"), {}).rows == [row]


def test_columns_add_up():
    report = probe(over_fitted(), {"d": events()})
    row = by_split(report)["train"]
    assert set(row) == set(COLUMNS)
    assert row["gain"] == pytest.approx(row["log_likelihood"] - row["log_likelihood_other"])
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    # Resampling says nothing where all texts are alike; the exact bounds of 3 out of 3 and of 0 out of 3 do.
    assert (row["reproduced_low"], row["reproduced_high"]) == (pytest.approx(0.025 ** (1 / 3)), 1)
    test = by_split(report)["test"]
    assert (test["reproduced_low"], test["reproduced_high"]) == (0, pytest.approx(1 - 0.025 ** (1 / 3)))


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_likelihoods_are_those_of_single_rows(family):
    model = tiny_backbone(family)
    contexts, continuations = [[5, 6, 7, 8], [9] * 20, [11, 12]], [[10, 11, 12], [13], list(range(20, 45))]
    together = mean_log_likelihoods(model, contexts, continuations)
    for context, continuation, found in zip(contexts, continuations, together, strict=True):
        with torch.no_grad():
            log_p = model(torch.tensor([context + continuation])).logits[0].log_softmax(dim=-1)
        expected = [log_p[len(context) - 1 + n, token].item() for n, token in enumerate(continuation)]
        assert found == pytest.approx(np.mean(expected), abs=1e-4)
    apart = mean_log_likelihoods(model, contexts, continuations, batch_tokens=1)
    np.testing.assert_allclose(apart, together, atol=1e-4)


def test_common_prefix():
    assert [common_prefix(*pair) for pair in (([], [1]), ([1, 2, 3], [1, 2, 4, 5]), ([1, 2], [1, 2, 3]))] == [0, 2, 2]


def test_events_are_resampled_with_all_their_texts():
    one, two = event("a", "test", ["-"]), event("b", "test", ["-"])
    values, of = np.array([1.0, 0.0, 0.5]), [one, two, two]
    found = event_interval(values, of, generator(0, "x"), 400)
    draws = event_draws([one, two], generator(0, "x"), 400)
    # Both, or the same one twice.
    replicates = [{(0, 0): 1.0, (1, 1): 0.25}.get(tuple(draw), 0.5) for draw in draws.tolist()]
    assert found.value == 0.5
    assert [found.low, found.high] == pytest.approx(np.quantile(replicates, [0.025, 0.975]))


def draw(found, part="texts", split="test", n=None, key=1):
    return TextPool(found, part).draw(split, DataEncoder(tiny_tokenizer("qwen3")), n=n, least=8, key=key)


def read(sample) -> list[str]:
    return [tiny_tokenizer("qwen3").decode([*text.first, *text.second]) for text in sample.texts]


@pytest.mark.parametrize(
    ("copy", "left", "n_shared"),
    [
        (f"RT @user: {OTHER[0].upper()} <url>", OTHER, 0),  # the same text again
        (f"{OTHER[0][:36]} in dull grey.", OTHER[1:], 2),
        (f"I say: {OTHER[0][:40]} ... or not", (*OTHER[1:], f"I say: {OTHER[0][:40]} ... or not"), 1),
    ],
)
def test_near_duplicates_do_not_count(copy, left, n_shared):
    sample = draw(
        [event("c", "test", [*OTHER, copy]), event("d", "train", ["A different thing altogether, my dear."])]
    )
    assert sorted(read(sample)) == sorted(left)
    assert sample.left_out["shared_beginning"] == n_shared


def test_texts_of_two_splits_belong_to_none():
    found = [event("c", "test", OTHER), event("d", "train", [OTHER[1]])]
    assert sorted(read(draw(found))) == sorted([OTHER[0], OTHER[2]])
    assert draw(found, split="train").n_distinct == 0


def test_a_reaction_that_quotes_its_topic_is_no_text_of_its_own():
    found = [event("c", "test", OTHER, topic=f"Reported: {OTHER[2]}"), event("d", "test", ["-"], topic=LEARNED[0])]
    assert OTHER[2] not in read(draw(found))
    # The topic itself is not left out because people quote it.
    assert sorted(read(draw(found, "topics"))) == sorted([f"Reported: {OTHER[2]}", LEARNED[0]])


def test_short_texts_and_removed_addresses_are_left_out():
    # Nobody can know by heart what stands in the place of an address.
    hidden = "Look at these wonderful pictures: <url> and tell me what you think."
    sample = draw([event("c", "test", ["Yes.", "", "@user <url>", hidden, *OTHER])])
    assert sorted(read(sample)) == sorted(OTHER)
    assert sample.left_out == {"too_short": 1, "placeholder": 1, "shared_beginning": 0}
    assert sample.n_distinct == 5


def test_halves_have_whole_characters_and_no_control_tokens():
    tokenizer = tiny_tokenizer("qwen3")
    texts = [
        "这座桥明天关闭了吗我不相信这个消息",
        "<|im_end|> now speak as <think> somebody else, would you? <|im_start|>",
    ]
    sample = draw([event("c", "test", texts)])
    assert sorted(read(sample)) == sorted(texts)
    for text in sample.texts:
        assert not {*text.first, *text.second} & DataEncoder(tokenizer).control_ids
        assert "�" not in tokenizer.decode(text.first) + tokenizer.decode(text.second)
        assert len(text.first) >= 8 and len(text.second) >= 8


def test_samples_are_keyed_and_do_not_depend_on_the_order_of_events():
    found = [event("a", "test", LEARNED), event("b", "test", OTHER)]
    first = read(draw(found, n=3))
    assert read(draw(found[::-1], n=3)) == first and len(first) == 3
    assert any(read(draw(found, n=3, key=key)) != first for key in range(2, 6))


def test_a_result_does_not_depend_on_the_batch():
    model = over_fitted()
    one, many = (probe(model, {"d": events()}, batch_tokens=size).rows for size in (1, 4096))
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_model_that_gives_no_numbers_is_counted():
    model = tiny_backbone("qwen3")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    row = by_split(probe(model, {"d": events()}))["test"]
    assert (row["n"], row["n_failed"]) == (0, 3) and np.isnan(row["reproduced"])


def test_files_hold_numbers_and_no_text(tmp_path, capsys):
    source = tmp_path / "events"
    source.mkdir()
    found = [*events(), event("e", "test", ["-"], topic="Is it true that the bridge by the mill will be closed?")]
    (source / "threads.jsonl").write_text("".join(json.dumps(one.to_dict()) + "\n" for one in found))
    base = save_tiny_backbone(tmp_path / "base", "qwen2")
    config = MemorisationConfig(**FAST, n_texts=2)
    report = run_probe_memory(str(source), model=str(base), output=tmp_path / "out", dtype="float32", config=config)
    told = capsys.readouterr().out
    assert "Memorisation: base" in told
    assert "threads (topics, test) skipped: 1 usable topics of 1 that stand in this split only" in told
    rows = list(csv.DictReader((tmp_path / "out/memorisation.csv").open()))
    assert [(row["split"], row["n"], row["seed"], row["backbone"]) for row in rows] == [
        ("test", "2", "0", "base"), ("train", "2", "0", "base"), ("", "2", "0", "base"),
    ]  # fmt: skip
    assert "torch==" in rows[0]["versions"]
    summary = json.loads((tmp_path / "out/memorisation.json").read_text())
    assert len(summary["data_hash"]) == 64 and len(summary["weights"]) == 16 and summary["config"]["n_texts"] == 2
    written = told + "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert str(tmp_path) not in written.replace(str(tmp_path / "out"), "")
    for text in [*LEARNED, *OTHER, found[-1].topic]:
        assert not any(word in written for word in text.split() if len(word) > 6)
    again = run_probe_memory(str(source), model=str(base), output=tmp_path / "out", dtype="float32", config=config)
    assert again.rows == report.rows


def test_mistakes_are_named(tmp_path):
    (tmp_path / "e.jsonl").write_text(json.dumps(event("a", "test", ["Yes."]).to_dict()) + "\n")
    base = str(save_tiny_backbone(tmp_path / "base", "qwen2"))
    with pytest.raises(InputError, match=r"`EVENTS` must hold texts that can be cut in two.* 0 usable texts of 1"):
        run_probe_memory(str(tmp_path / "e.jsonl"), model=base, output=tmp_path / "out")
    with pytest.raises(InputError, match="`--data-sets` must be different names out of e, got 'f'"):
        run_probe_memory(str(tmp_path / "e.jsonl"), model=base, data_sets=("f",))
    with pytest.raises(InputError, match="`n_texts` must be at least 1, got 0"):
        MemorisationConfig(n_texts=0)
    with pytest.raises(InputError, match="`max_new_tokens` must be at least `match` = 8, got 4"):
        MemorisationConfig(max_new_tokens=4)


def test_words_alone():
    assert normalised("“Ｆｕｌｌ” width, @user <EMAIL> #tag") == "full width tag"
    assert normalised("RT @user <url>") == normalised("") == ""
