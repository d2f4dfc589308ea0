"""`probe`: what it learns from texts, when it is `carry-regressed`, and when it is `carry`."""

from dataclasses import replace

import numpy as np
import pytest
from made_events import CATEGORIES, make_event, make_survey, told_event

from mf_llm.evaluation import probe as probe_module
from mf_llm.evaluation.forecasters import Carry, Training, all_forecasters, forecast
from mf_llm.evaluation.probe import Probe
from mf_llm.evaluation.protocol import Windows, plan_event
from mf_llm.evaluation.regression import CarryRegressed
from mf_llm.evaluation.text_features import TextFeatures
from mf_llm.models.tiny import save_tiny_backbone

WINDOWS = Windows(8, 8)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    return TextFeatures(save_tiny_backbone(folder / "llama", "llama"), cache=folder / "cache")


def known(texts: bool = True, n: int = 30) -> Training:
    events = [told_event("bc"[number % 2], number, texts=texts) for number in range(n)]
    return Training(events, WINDOWS, "stance", CATEGORIES)


def test_texts_that_tell_where_a_crowd_goes_are_learned(features):
    training, probe = known(), Probe(features)
    assert probe.fit(training).n_components > 0
    for place, label in enumerate("bc", start=1):
        plan = plan_event(told_event(label, 100 + place, "test"), WINDOWS)
        assert forecast(probe, plan, training)[0, place] > 0.7
        assert forecast(CarryRegressed(), plan, training)[0, place] < 0.6


def test_with_zero_weights_it_is_carry(features, monkeypatch):
    monkeypatch.setattr(probe_module, "RIDGES", (1e9,))
    monkeypatch.setattr("mf_llm.evaluation.regression.RIDGES", (1e9,))
    training, plan = known(), plan_event(told_event("b", 100, "test"), WINDOWS)
    assert forecast(Probe(features), plan, training)[0] == pytest.approx(Carry()(plan.event, plan, training), abs=1e-4)


def test_an_infinite_penalty_on_texts_is_carry_regressed(features, monkeypatch):
    training, plan = known(), plan_event(told_event("b", 100, "test"), WINDOWS)
    monkeypatch.setattr(probe_module, "RIDGES", (1e9,))
    expected = CarryRegressed()(plan.event, plan, training)
    assert forecast(Probe(features), plan, training)[0] == pytest.approx(expected, abs=1e-4)


def test_texts_that_say_nothing_leave_carry_regressed(features):
    training, plan = known(texts=False), plan_event(told_event("b", 100, "test", texts=False), WINDOWS)
    fit = Probe(features).fit(training)
    if not fit.n_components:
        expected = CarryRegressed()(plan.event, plan, training)
        assert forecast(Probe(features), plan, training)[0] == pytest.approx(expected)
    assert np.abs(forecast(Probe(features), plan, training)[0, 1:]).max() < 0.65


def test_the_same_events_give_the_same_forecast(features):
    plan = plan_event(told_event("b", 100, "test"), WINDOWS)
    uncached = TextFeatures(features.backbone, cache=None)
    q = [forecast(Probe(one), plan, known(n=12)) for one in (features, features, uncached)]
    np.testing.assert_array_equal(q[0], q[1])
    np.testing.assert_array_equal(q[0], q[2])


def test_events_without_any_text_can_be_judged(features):
    training = known()
    silent = make_event("aabbccab" + "b" * 16)
    q = forecast(Probe(features), plan_event(silent, WINDOWS), training)
    assert np.all(np.isfinite(q))
    nobody = [make_event("aaaaaabb" + "bbbbbbbb" * 2, f"t{n}", "train") for n in range(20)]
    training = Training(nobody, WINDOWS, "stance", CATEGORIES)
    assert np.all(np.isfinite(forecast(Probe(features), plan_event(silent, WINDOWS), training)))


def test_where_nothing_can_be_learned_it_is_carry_and_nothing_is_read(tmp_path):
    probe = Probe(TextFeatures(tmp_path / "no-such-backbone"))
    group = [replace(told_event("b", n), group="g", block=n) for n in range(12)]
    for events in (group, [told_event("b", n) for n in range(9)]):
        training = Training(events, WINDOWS, "stance", CATEGORIES)
        plan = plan_event(told_event("b", 100, "test"), WINDOWS)
        assert forecast(probe, plan, training)[0] == pytest.approx(Carry()(plan.event, plan, training))
    survey = make_survey({"w1": [("a", 1.0, {})], "w2": [("b", 1.0, {})]})
    windows = Windows(0, 0, waves=True)
    training = Training([replace(survey, split="train")], windows, "intention", CATEGORIES)
    plan = plan_event(survey, windows)
    assert forecast(probe, plan, training)[0] == pytest.approx(Carry()(plan.event, plan, training))


class Listener:
    """Stands in for `TextFeatures` and remembers what it was given."""

    def __init__(self):
        self.heard = []

    def __call__(self, topic, texts):
        self.heard.append((topic, tuple(texts)))
        return np.outer([len(topic), len(texts[-1])], np.arange(40.0) % 7)


def test_only_the_topic_and_the_warm_up_texts_are_read():
    training = known()
    judged = told_event("b", 100, "test")
    heard = []
    for later in ("first", "second"):
        turns = [replace(t, action=later) if i >= 8 else t for i, t in enumerate(judged.turns)]
        plan, listener = plan_event(replace(judged, turns=tuple(turns)), WINDOWS), Listener()
        probe = Probe(listener)
        forecast(probe, plan, training)
        probe._read([plan])
        heard.append(listener.heard)
    assert heard[0] == heard[1]
    for plan, (topic, texts) in zip(training.plans, heard[0], strict=False):
        assert (topic, texts) == ("t", tuple(turn.action for turn in plan.event.turns[:8]))
    assert heard[0][-1] == ("t", tuple(turn.action for turn in judged.turns[:8]))


def test_all_forecasters_go_by_their_names():
    names = ["uniform", "prior", "carry", "last", "carry-regressed", "trajectory", "probe", "carry-sampled"]
    methods = all_forecasters()
    assert list(methods) == names
    assert all(replace(method, name="other").name == "other" for method in methods.values())
