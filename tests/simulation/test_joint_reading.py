"""Rollouts whose people are asked in one batch: the same prefixes, likelihoods and rollouts, but for rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_events import FAMILIES, adapted_model, model_of, new_model, processor_of, several_events, small_event
from test_exact_readout import enumerated, random_ids

from mf_llm.simulation import SimulationConfig, joint_reading, readout, simulate
from mf_llm.simulation.joint_reading import encode_behind, encode_prefixes
from mf_llm.simulation.prefix_chunks import PrefixStems, encode_prefix
from mf_llm.simulation.readout import option_log_likelihoods, read_options

OPTIONS = [[20], [20, 9], [21, 30, 31]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [8192, 150, 1])
def test_options_behind_several_prefixes_are_those_behind_each(family, batch_tokens):
    backbone = model_of(family).backbone("policy")
    prefixes = [readout.encode_prefix(backbone, random_ids(n, n)) for n in (5, 12, 7)]
    people = [
        [random_ids(n, 10 * n + i) for n in lengths] for i, lengths in enumerate([(4, 2, 4), (1,), (3, 9, 3, 2)])
    ]
    people[2][2] = people[2][0]  # two alike
    told = []
    asked = list(zip(prefixes, people, strict=True))
    found = read_options(backbone, asked, OPTIONS, batch_tokens=batch_tokens, advance=told.append)
    assert sum(told) == 8
    for (prefix, segments), scores in zip(asked, found, strict=True):
        np.testing.assert_allclose(scores, option_log_likelihoods(backbone, prefix, segments, OPTIONS), atol=2e-5)
        np.testing.assert_allclose(scores, enumerated(backbone, list(prefix.ids), segments, OPTIONS), atol=2e-5)


def test_prefixes_share_a_pass():
    backbone = model_of("qwen2").backbone("policy")
    prefixes = [readout.encode_prefix(backbone, random_ids(6, n)) for n in range(4)]
    passes = []
    handle = backbone.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    people = [[random_ids(3, 50 + n), random_ids(3, 60 + n)] for n in range(4)]
    with torch.inference_mode():
        read_options(backbone, list(zip(prefixes, people, strict=True)), [[20], [21]])
        assert passes == [(8, 3)]
        passes.clear()
        # A row counts 3 + 2 tokens, a second prefix 6: two prefixes with their rows are 26, and a third does not fit.
        read_options(backbone, list(zip(prefixes, people, strict=True)), [[20], [21]], batch_tokens=26)
    handle.remove()
    assert passes == [(4, 3), (4, 3)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [8192, 40])
def test_pieces_encoded_together_are_those_encoded_alone(family, batch_tokens):
    backbone = model_of(family).backbone("policy")
    topics = [readout.encode_prefix(backbone, random_ids(n, n)) for n in (5, 9)]
    pieces = [(topics[0], random_ids(4, 1)), (None, random_ids(3, 2)), (topics[1], random_ids(8, 3))]
    pieces += [(topics[0], random_ids(1, 4)), (topics[1], random_ids(40, 5))]
    found = encode_behind(backbone, pieces, batch_tokens)
    for prefix, (after, ids) in zip(found, pieces, strict=True):
        alone = readout.encode_prefix(backbone, ids, after)
        assert prefix.ids == alone.ids and prefix.cache.get_seq_length() == alone.cache.get_seq_length()
        for one, other in zip(prefix.cache.layers, alone.cache.layers, strict=True):
            torch.testing.assert_close(one.keys, other.keys, rtol=0, atol=1e-5)
            torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-5)
    segments = [random_ids(3, 9), random_ids(6, 8)]
    after = option_log_likelihoods(backbone, found[4], segments, OPTIONS)  # it goes on from what was encoded
    np.testing.assert_allclose(after, enumerated(backbone, list(found[4].ids), segments, OPTIONS), atol=2e-5)


def test_each_piece_is_encoded_once_and_kept_for_the_next_step(monkeypatch):
    backbone, encode, seen = model_of("qwen2").backbone("policy"), encode_behind, []
    spy = lambda backbone, pieces, size: seen.extend(tuple(i) for _, i in pieces) or encode(backbone, pieces, size)  # noqa: E731
    monkeypatch.setattr(joint_reading, "encode_behind", spy)
    topic, signals = tuple(random_ids(5, 1)), [tuple(random_ids(4, n)) for n in (2, 3)]
    tasks = [tuple(random_ids(3, n)) for n in (5, 6)]
    stems = [PrefixStems(backbone)]
    stems.append(PrefixStems(backbone, stems[0].known))
    wanted = [[(topic, signal, task) for task in tasks] for signal in signals]
    held = encode_prefixes(stems, wanted, 8192)
    assert seen == [topic, *signals, *tasks, *tasks]
    assert list(held) == [parts for orders in wanted for parts in orders]
    seen.clear()
    encode_prefixes(stems, [[(topic, signals[0], tasks[0])], [(topic, signals[1])]], 8192)
    assert seen == []  # both are still held
    del held
    encode_prefixes(stems, [[(topic, tasks[0])], [(topic, tasks[1])]], 8192)
    assert seen == tasks
    assert encode_prefix(stems[0], (topic, signals[0], tasks[0])).ids == (*topic, *signals[0], *tasks[0])


def rollouts_of(model, processor, events, *, read_together, **settings):
    config = SimulationConfig(**{"agents_per_step": 4, "signal_max_tokens": 8, "max_new_tokens": 8} | settings)
    options = {"events_together": 6, "progress": False, "read_together": read_together}
    return simulate(model, processor, events, config, seeds=[0, 1, 2], **options)


def same_but_for_rounding(one, other):
    for a, b in zip(one, other, strict=True):
        assert [row.label for row in a.actions] == [row.label for row in b.actions]
        assert [row.text for row in a.actions] == [row.text for row in b.actions]
        assert [step.signal for step in a.steps] == [step.signal for step in b.steps]
        assert [step.prompt_tokens for step in a.steps] == [step.prompt_tokens for step in b.steps]
        for x, y in zip(a.actions, b.actions, strict=True):
            assert (x.probabilities is None) == (y.probabilities is None)
            if x.probabilities is not None:
                np.testing.assert_allclose(x.probabilities, y.probabilities, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "llama"])
@pytest.mark.parametrize(
    "settings",
    [
        {"signal": "text", "action": "choice", "option_orders": 4},
        {"signal": "both", "action": "label_text"},
        {"signal": "none", "action": "choice", "calibrated": True},
        {"signal": "statistics", "action": "choice", "readout": "sampled"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_rollouts_are_those_of_people_asked_alone(family, settings):
    model, processor, events = new_model(family), processor_of(family), several_events()[:2]
    alone, together = (rollouts_of(model, processor, events, read_together=on, **settings) for on in (False, True))
    same_but_for_rounding(alone, together)


def test_anchored_rollouts_are_read_with_adapters_and_without():
    pytest.importorskip("peft")
    model, processor, events = adapted_model("qwen2"), processor_of("qwen2"), several_events()[:2]
    settings = {"anchored": True, "signal": "both", "action": "choice", "option_orders": 3}
    alone, together = (rollouts_of(model, processor, events, read_together=on, **settings) for on in (False, True))
    same_but_for_rounding(alone, together)
    plain = rollouts_of(model, processor, events, read_together=True, **settings | {"anchored": False})
    assert any(a.probabilities != b.probabilities for a, b in zip(plain[0].actions, together[0].actions, strict=True))


def test_people_are_asked_in_fewer_passes():
    model, processor = new_model("qwen2"), processor_of("qwen2")
    event, passes = small_event(24), []
    for role in ("policy", "mean_field"):
        model.backbone(role).register_forward_pre_hook(
            lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape[0]), with_kwargs=True
        )
    counts = []
    for on in (False, True):
        passes.clear()
        rollouts_of(model, processor, [event], read_together=on, signal="statistics", action="choice")
        counts.append(len(passes))
    assert counts[1] < counts[0] / 2


def test_events_with_other_options_are_read_apart():
    model, processor, events = new_model("qwen2"), processor_of("qwen2"), several_events()[:2]
    dimension = next(iter(events[1].dimensions))
    names = {name: name.upper() for name in events[1].dimensions[dimension]}
    turns = tuple(replace(t, labels={d: names[label] for d, label in t.labels.items()}) for t in events[1].turns)
    events[1] = replace(events[1], dimensions={dimension: tuple(names.values())}, turns=turns)
    settings = {"signal": "statistics", "action": "choice"}
    alone, together = (rollouts_of(model, processor, events, read_together=on, **settings) for on in (False, True))
    same_but_for_rounding(alone, together)


@pytest.mark.parametrize("on", [True, False])
def test_the_command_line_hands_it_on(monkeypatch, on):
    from typer.testing import CliRunner

    from mf_llm.cli import app
    from mf_llm.commands import simulate_events

    asked = []
    monkeypatch.setattr(simulate_events, "run_simulate", asked.append)
    words = ["simulate", "bridge-closure", "--seeds", "4"] + (["--read-together"] if on else [])
    assert CliRunner().invoke(app, words).exit_code == 0
    assert asked[0].read_together is on and len(asked[0].seeds) == 4
