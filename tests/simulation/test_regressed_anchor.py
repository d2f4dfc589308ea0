"""The anchor that a regression on training events makes: the forecaster `carry-regressed`, moved by the policy."""

from dataclasses import replace

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey

from mf_llm.errors import InputError
from mf_llm.evaluation.forecasters import Carry, Training
from mf_llm.evaluation.protocol import choose_windows, plan_event
from mf_llm.evaluation.protocol_config import protocol_config
from mf_llm.evaluation.regression import CarryRegressed
from mf_llm.models import MFLLMForSimulation, MFLLMProcessor, tiny_backbone, tiny_tokenizer
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
