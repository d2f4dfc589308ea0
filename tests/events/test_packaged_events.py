"""The events that are installed with the package are what their cards say."""

from __future__ import annotations

from collections import Counter
from importlib import resources

import pytest

from mf_llm import load_events, packaged_events
from mf_llm.events import load_event_sets

WAVES = {
    "vaccine-intention-ri-early": {"w3": 500, "w4": 500, "w5": 500},
    "vaccine-intention-ri": {"w3": 500, "w4": 500, "w5": 500, "w6": 809},
    "vaccine-intention-us": {"w3": 1000, "w5": 1000, "w6": 1000},
}


@pytest.fixture(scope="module")
def vaccine():
    return {event.event_id: event for event in load_events("vaccine-intention")}


@pytest.fixture(scope="module")
def bridge():
    [event] = load_events("bridge-closure")
    return event


def test_names_and_cards():
    assert packaged_events() == ("bridge-closure", "vaccine-intention")
    for name in packaged_events():
        folder = resources.files("mf_llm") / "data" / name
        assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\nlicense:")
        assert list(load_event_sets(name)) == [name]
    assert "MIT License" in (resources.files("mf_llm") / "data/vaccine-intention/LICENSE").read_text()


def test_packaged_data_is_small():
    def size(folder) -> int:
        return sum(size(item) if item.is_dir() else len(item.read_bytes()) for item in folder.iterdir())

    data = resources.files("mf_llm") / "data"
    assert size(data) - size(data / "checkpoints") < 300_000
    assert all(size(checkpoint) < 12_000_000 for checkpoint in (data / "checkpoints").iterdir())


def test_vaccine_waves_and_splits(vaccine):
    assert {name: dict(Counter(turn.wave for turn in event.turns)) for name, event in vaccine.items()} == WAVES
    assert [event.split for event in vaccine.values()] == ["train", "test", "test"]
    assert load_events("vaccine-intention", split="train") == [vaccine["vaccine-intention-ri-early"]]


def test_nothing_of_the_judged_wave_is_in_the_training_event(vaccine):
    early, later = vaccine["vaccine-intention-ri-early"], vaccine["vaccine-intention-ri"]
    assert early.turns == later.turns[:1500]
    assert "w6" not in {turn.wave for turn in early.turns}


def test_vaccine_weights_and_choices(vaccine):
    for event in vaccine.values():
        categories = event.dimensions["intention"]
        assert categories[0] == "definitely won't" and categories[-1] == "vaccinated" and len(categories) == 6
        for wave in WAVES[event.event_id]:
            weights = [turn.weight for turn in event.turns if turn.wave == wave]
            assert sum(weights) / len(weights) == pytest.approx(1, abs=1e-4)
        for turn in event.turns:
            assert turn.action == "" and turn.person and turn.labels["intention"] in categories
            assert 7 < len(turn.state) <= 16
            assert turn.extra == {}  # people's guesses of others' answers are not shipped


def test_vaccine_shares_are_those_of_the_card(vaccine):
    def share(event: str, wave: str, category: str) -> float:
        turns = [turn for turn in vaccine[event].turns if turn.wave == wave]
        chosen = sum(turn.weight for turn in turns if turn.labels["intention"] == category)
        return chosen / sum(turn.weight for turn in turns)

    assert share("vaccine-intention-us", "w5", "vaccinated") == pytest.approx(0.367, abs=5e-4)
    assert share("vaccine-intention-us", "w6", "vaccinated") == pytest.approx(0.708, abs=5e-4)
    assert share("vaccine-intention-ri", "w6", "vaccinated") == pytest.approx(0.788, abs=5e-4)


def test_bridge_is_long_enough_and_no_text_is_there_twice(bridge):
    assert len(bridge.turns) == 168
    texts = [" ".join(turn.action.casefold().split()) for turn in bridge.turns]
    assert len(set(texts)) == len(texts)
    openings = Counter(" ".join(text.split()[:4]) for text in texts if len(text.split()) > 4)
    assert openings.most_common(1)[0][1] <= 2
    lengths = sorted(map(len, texts))
    assert lengths[0] < 40 and lengths[-1] > 150


def test_bridge_has_profiles_times_and_answers(bridge):
    assert all(
        set(turn.state) == {"age", "occupation", "neighbourhood", "crosses the bridge"} for turn in bridge.turns
    )
    assert 1 < (bridge.turns[-1].time - bridge.turns[0].time) / 86400 < 2
    assert len({turn.person for turn in bridge.turns}) == 105
    assert 30 < sum(turn.parent is not None for turn in bridge.turns) < 80
    assert all((turn.kind == "reply") == (turn.parent is not None) for turn in bridge.turns)


def test_bridge_is_balanced_and_drifts(bridge):
    assert bridge.dimensions == {"stance": ("support", "oppose", "question", "neutral")}
    labels = [turn.labels["stance"] for turn in bridge.turns]
    assert min(Counter(labels).values()) > 0.1 * len(labels)
    parts = [Counter(labels[start:stop]) for start, stop in ((0, 32), (96, 128), (128, 148))]
    assert parts[0]["oppose"] > 3 * parts[0]["support"]
    assert parts[1]["support"] > 2 * parts[1]["oppose"]
    assert parts[2]["oppose"] > parts[2]["support"]
