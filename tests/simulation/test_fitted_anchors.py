"""Anchors that are fitted on training events: the forecasters `carry-regressed` and `probe`, moved by the policy."""

from dataclasses import replace

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey, told_event

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.probe import Probe
from mf_llm.evaluation.protocol import choose_windows, plan_event
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.evaluation.regression import CarryRegressed
from mf_llm.evaluation.text_features import TextFeatures
from mf_llm.models import MFLLMForSimulation, MFLLMProcessor, tiny_backbone, tiny_tokenizer
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation import Rollout, SimulationConfig, simulate

OPTIONS = {"anchored": True, "anchor": "carry-regressed", "action": "choice", "signal": "statistics"}
# Crowds turn from a to b after the warm-up.
TRAIN = [make_event("aaaaaabb" + "bbbbbbbb" * 2, f"t{n:02d}", "train") for n in range(20)]
TEST = make_event("aaaaaaab" + "abcbbbba", "e", "test")
PEOPLE = [("a", 1.0, {}), ("b", 2.0, {})] * 3
SURVEY = make_survey({"w1": PEOPLE, "w2": PEOPLE, "w3": PEOPLE})


@pytest.fixture(scope="module")
def model():
    return MFLLMForSimulation.from_backbones(tiny_backbone("llama"))


@pytest.fixture(scope="module")
def processor():
    return MFLLMProcessor(tiny_tokenizer("llama"))


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    return TextFeatures(save_tiny_backbone(folder / "llama", "llama"), cache=folder / "cache")


@pytest.fixture
def probe(features, monkeypatch):
    """The forecaster, whose texts a tiny backbone reads."""
    monkeypatch.setattr("mf_llm.evaluation.probe.Probe", lambda: Probe(features))
    return Probe(features)


def forecast(method, events, event):
    windows = choose_windows(events, "stance")
    plan = plan_event(event, windows, "stance")
    return np.ravel(method(event, plan, Training(events, windows, "stance", CATEGORIES)))


def test_without_adapters_it_is_the_forecaster(model, processor, tmp_path):
    events = [*TRAIN, TEST]
    config = protocol_config(events, OPTIONS)
    rollout = simulate(model, processor, TEST, config, progress=False)
    expected = forecast(CarryRegressed(), events, TEST)
    assert expected[1] > forecast(Carry(), events, TEST)[1] + 0.1
    np.testing.assert_allclose([row.probabilities for row in rollout.simulated()], [expected] * 8, atol=1e-9)
    kept = Rollout.load(rollout.save(tmp_path / "kept"))
    assert {name: kept.config[name] for name in config.to_dict()} == config.to_dict()


def test_its_weights_are_by_category_whatever_the_order(model, processor):
    config = protocol_config([*TRAIN, TEST], OPTIONS)
    turned = replace(config, anchor_weights=dict(reversed(config.anchor_weights.items())))
    one, other = (simulate(model, processor, TEST, c, progress=False) for c in (config, turned))
    assert one.steps[-1].shares == other.steps[-1].shares


@pytest.mark.parametrize("events", [[*TRAIN[:9], TEST], [SURVEY]])
def test_where_there_is_nothing_to_learn_it_is_carry(events):
    assert protocol_config(events, OPTIONS) == protocol_config(events, OPTIONS | {"anchor": "carry"})


@pytest.mark.parametrize(
    "weights", [None, {}, {"a": [0, 0, 0, 0], "b": [0, 0, 0, 0]}, {key: [0, 0, 0] for key in "abc"}]
)
def test_weights_of_other_categories_are_refused(model, processor, weights):
    config = SimulationConfig(**OPTIONS, anchor_weights=weights, warm_up=8)
    with pytest.raises(InputError, match=r"`anchor_weights` must have 4 numbers for each of \['a', 'b', 'c'\]"):
        simulate(model, processor, TEST, config, progress=False)


def test_a_plain_readout_has_no_anchor():
    with pytest.raises(InputError, match='`anchor` must be "carry" without anchored=True'):
        SimulationConfig(anchor="carry-regressed")


def test_nothing_is_learned_from_the_events_that_are_judged():
    other = make_event("aaaaaaab" + "cccccccc", "e", "test")
    assert protocol_config([*TRAIN, TEST], OPTIONS) == protocol_config([*TRAIN, other], OPTIONS)


# -- texts ------------------------------------------------------------------------------------------------------------

PROBED = OPTIONS | {"anchor": "probe"}
TOLD = [told_event("bc"[number % 2], number) for number in range(30)]


def test_texts_of_the_warm_up_move_the_anchor_as_they_move_the_forecaster(model, processor, probe, tmp_path):
    for place, event in enumerate((told_event("b", 100, "test"), told_event("c", 101, "test")), start=1):
        config = protocol_config([*TOLD, event], PROBED)
        assert config.anchor == "probe" and len(config.anchor_features) == 31
        rollout = simulate(model, processor, event, config, progress=False)
        expected = forecast(probe, [*TOLD, event], event)
        assert expected[place] > forecast(CarryRegressed(), [*TOLD, event], event)[place] + 0.1
        np.testing.assert_allclose([row.probabilities for row in rollout.simulated()], [expected] * 16, atol=1e-4)
        kept = Rollout.load(rollout.save(tmp_path / event.event_id))
        own = {event.event_id: config.anchor_features[event.event_id]}
        assert {name: kept.config[name] for name in config.to_dict()} == config.to_dict() | {"anchor_features": own}


def test_nothing_is_read_after_the_warm_up_that_was_asked_for(probe):
    event = told_event("b", 100, "test")
    later = [replace(turn, action="Never read this.") if i >= 4 else turn for i, turn in enumerate(event.turns)]
    read = [
        protocol_config([*TOLD, one], PROBED | {"warm_up": warm_up}).anchor_features[event.event_id]
        for warm_up in (4, 8)
        for one in (event, replace(event, turns=tuple(later)))
    ]
    assert read[0] == read[1] != read[2] != read[3]


def test_where_no_text_helps_it_is_the_regression_and_where_nothing_helps_carry(probe):
    silent = [*TRAIN, TEST]
    assert protocol_config(silent, PROBED) == protocol_config(silent, OPTIONS)
    for events in ([*TRAIN[:9], TEST], [SURVEY]):
        assert protocol_config(events, PROBED) == protocol_config(events, OPTIONS | {"anchor": "carry"})


def test_an_event_that_was_not_read_is_refused(model, processor, probe):
    config = protocol_config(TOLD, PROBED)
    with pytest.raises(InputError, match=r"`anchor_features` must hold event 'e', got none of it"):
        simulate(model, processor, TEST, config, progress=False)
