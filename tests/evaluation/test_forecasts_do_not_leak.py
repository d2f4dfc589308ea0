"""After the warm-up, nothing people did reaches a forecast: everything forbidden is randomised, forecasts stay."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from mf_llm.evaluation.forecasters import Training, all_forecasters, forecast
from mf_llm.evaluation.probe import Probe
from mf_llm.evaluation.protocol import choose_windows, plan_event
from mf_llm.evaluation.text_features import TextFeatures
from mf_llm.events import Event, Turn
from mf_llm.models.tiny import save_tiny_backbone

STANCES = ("support", "deny", "query", "comment")


@pytest.fixture(scope="module", params=all_forecasters())
def method(request, tmp_path_factory):
    """Each forecaster; `probe` with a tiny backbone, and without a cache that could hide what it reads."""
    if request.param == "probe":
        folder = save_tiny_backbone(tmp_path_factory.mktemp("backbone"), "qwen2")
        return Probe(TextFeatures(folder, cache=None))
    return all_forecasters()[request.param]


def made_event(event_id: str, split: str, *, waves: bool) -> Event:
    rng = random.Random(event_id)
    turns = [
        Turn(
            state={"age": rng.randint(18, 80), "party": rng.choice(["Democrat", "Republican"])},
            action=f"text {rng.choice(STANCES)} {i}",
            labels={"stance": rng.choices(STANCES, weights=(4, 3, 2, 1))[0]},
            time=float(i),
            wave=f"w{i // 20}" if waves else None,
            weight=rng.uniform(0.5, 2) if waves else 1.0,
        )
        for i in range(60)
    ]
    return Event(event_id=event_id, topic="Topic", split=split, dimensions={"stance": STANCES}, turns=turns)


def scrambled(event: Event, start: int) -> Event:
    """The event with all that may not be known after the warm-up drawn anew."""
    rng = random.Random(f"scramble {event.event_id}")
    turns = list(event.turns)
    time = turns[start - 1].time or 0.0
    for i in range(start, len(turns)):
        time += rng.uniform(0, 1000)
        turns[i] = replace(
            turns[i],
            action=f"else {rng.random()}",
            labels={"stance": rng.choice(STANCES)},
            time=time,
            parent=rng.randrange(i),
            kind=rng.choice(["post", "retweet"]),
            person=f"p{rng.randrange(1000)}",
            extra={"perceived_share_vaccinated": rng.random()},
        )
    return replace(
        event, turns=tuple(turns), veracity=rng.choice(["true", "false"]), story="another", extra={"n": rng.random()}
    )


@pytest.mark.parametrize("waves", [False, True], ids=["windows", "waves"])
def test_forecasts_do_not_look_behind_the_warm_up(method, waves):
    learned = [made_event(f"{split}-{i}", split, waves=waves) for split in ("train", "validation") for i in range(6)]
    event = made_event("judged", "test", waves=waves)
    start = 40 if waves else 16
    other = scrambled(event, start)
    changed = replace(
        event,
        turns=tuple(replace(t, labels={"stance": "comment"}) if i < start else t for i, t in enumerate(event.turns)),
    )
    forecasts = []
    for judged in (event, other, changed):
        events = [*learned, judged]
        windows = choose_windows(events)
        plan = plan_event(judged, windows)
        assert plan.judged[0][0] == start
        forecasts.append(forecast(method, plan, Training(events, windows, "stance", STANCES)))
    np.testing.assert_array_equal(forecasts[0], forecasts[1])
    # The test can fail: what looks at the warm-up follows it.
    follows = method.name not in ("uniform", "prior")
    assert np.allclose(forecasts[0], forecasts[2]) != follows
    # And the truth did change.
    assert not np.allclose(plan_event(event, windows).truth, plan_event(other, windows).truth)
