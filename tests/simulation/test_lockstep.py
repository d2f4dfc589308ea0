"""Events that are simulated together leave what they leave one by one."""

import json
import signal as signals
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_events import (
    FAMILIES,
    adapted_model,
    model_of,
    new_model,
    outcome,
    processor_of,
    run,
    several_events,
    small_event,
    with_turns,
)

from mf_llm import InputError, SimulationConfig
from mf_llm.models.cache_argument import returned_cache
from mf_llm.simulation import event_run, load_rollouts, lockstep, signal_writing, simulate
from mf_llm.simulation.engines import in_process
from mf_llm.simulation.event_run import EventRun
from mf_llm.simulation.generation import generate_keyed
from mf_llm.simulation.readout import encode_prefix
from stopped_journal import Crash, stop_journal

QUICK = {"max_new_tokens": 5, "signal_max_tokens": 8, "agents_per_step": 3, "warm_up": 8, "max_prompt_tokens": 600}
FILES = ("actions.parquet", "steps.parquet", "rollout.json")


def outcomes(rollouts):
    return [(outcome(one), one.metadata()) for one in rollouts]


def results(folder: Path) -> dict[str, bytes]:
    """The files of all rollouts of a run."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in folder.rglob("*") if path.name in FILES}


def talkative_model(family):
    """A model whose signals all differ: at its own temperature of 0.1 a tiny model repeats itself."""
    model = new_model(family)
    model.generation_config_of("mean_field").temperature = 1.0
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_together_is_one_by_one(tmp_path, family):
    model, processor, events = talkative_model(family), processor_of(family), several_events()
    settings = {"signal": "both", "action": "label_text"}
    apart = [run(model, processor, event, **settings) for event in events]
    assert [len(one.steps) for one in apart] == [5, 4, 7, 4, 6] and any(row.text for row in apart[0].simulated())
    assert len({step.signal for one in apart for step in one.steps}) > 20
    run(model, processor, events, tmp_path / "apart", **settings)
    assert outcomes(run(model, processor, events, together=5, **settings)) == outcomes(apart)
    for together in (2, 50):
        found = run(model, processor, events, tmp_path / str(together), together=together, **settings)
        assert outcomes(found) == outcomes(apart)
        assert results(tmp_path / str(together)) == results(tmp_path / "apart")
        assert not list(tmp_path.rglob("journal.jsonl"))


@pytest.mark.parametrize(
    "settings",
    [
        {"signal": "none", "action": "choice"},
        {"signal": "recent", "action": "text"},
        {"signal": "both", "action": "choice", "readout": "sampled", "option_orders": 3},
        {"signal": "both", "action": "label_text", "writers": 1},
        {"signal": "statistics", "action": "label_text", "calibrated": True},
        {"signal": "both", "action": "label_text", "batch_tokens": 1},
        {"signal": "both", "action": "label_text", "anchored": True},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_together_is_one_by_one_whatever_is_simulated(settings):
    pytest.importorskip("peft")
    model, processor, events = adapted_model("mistral"), processor_of("mistral"), several_events()
    events[2] = small_event(waves=(8, 5, 4), event_id="survey")
    settings = {"warm_up": None} | settings
    apart = [run(model, processor, event, **settings) for event in events]
    assert outcomes(run(model, processor, events, together=4, **settings)) == outcomes(apart)


def test_what_is_generated_together_is_one_batch():
    model, processor, events = new_model("qwen2", tied=False), processor_of("qwen2"), several_events()
    rows = {"policy": Counter(), "mean_field": Counter()}

    def count(role):
        def hook(module, args, kwargs):
            rows[role][tuple(kwargs["input_ids"].shape)] += 1

        model.backbone(role).register_forward_pre_hook(hook, with_kwargs=True)

    count("policy"), count("mean_field")
    run(model, processor, events, action="text", signal="text", together=5, max_new_tokens=2, signal_max_tokens=2)
    # Signals are written behind every step but an event's last: of 5, 4, 7, 4 and 6.
    prompts = [shape[0] for shape in rows["mean_field"].elements() if shape[1] > 1]
    assert sorted(prompts, reverse=True) == [5, 5, 5, 3, 2, 1]
    texts = [shape[0] for shape in rows["policy"].elements() if shape[1] == 1]
    assert max(texts) == sum(min(3, len(event.turns) - 8) for event in events)


@pytest.mark.parametrize("together", [1, 3, 8])
def test_the_seeds_of_an_ensemble_are_those_simulated_one_by_one(tmp_path, together):
    events, settings = several_events()[:2], {"signal": "both", "action": "label_text", **QUICK}
    model, processor = model_of("qwen2"), processor_of("qwen2")
    where = {"progress": False, "events_together": together}
    made = simulate(model, processor, events, SimulationConfig(**settings), seeds=(3, 0, 5), output=tmp_path, **where)
    alone = [
        simulate(model, processor, event, SimulationConfig(**settings, seed=seed), progress=False)
        for event in events
        for seed in (3, 0, 5)
    ]
    assert outcomes(made) == outcomes(alone)
    assert outcomes(load_rollouts(tmp_path)) == outcomes(sorted(alone, key=lambda one: (one.event_id, one.seed)))
    [one] = simulate(model, processor, events[0], SimulationConfig(**settings), seeds=[5], progress=False)
    assert outcome(one) == outcome(alone[2])


def test_an_ensemble_may_set_out_from_one_warm_up(tmp_path, monkeypatch):
    model, processor, event = talkative_model("qwen2"), processor_of("qwen2"), several_events()[0]
    config = SimulationConfig(signal="text", action="choice", **QUICK)
    written = []
    monkeypatch.setattr(
        signal_writing, "generate_keyed", lambda *args, **kw: written.append(args[3]) or generate_keyed(*args, **kw)
    )
    made = {"seeds": (3, 0, 5), "progress": False, "events_together": 3}
    one_warm_up = simulate(model, processor, event, replace(config, warm_up_seed=3), **made)
    own = simulate(model, processor, event, config, **made)
    n_real = sum(step.real for step in one_warm_up[0].steps)
    # A signal stands in the step after the one that it was written behind.
    signals = [[step.signal for step in rollout.steps] for rollout in one_warm_up]
    assert all(one[: n_real + 1] == signals[0][: n_real + 1] for one in signals) and len({*map(tuple, signals)}) == 3
    assert outcome(one_warm_up[0]) == outcome(own[0])  # its own seed is that of the warm-up
    assert [step.signal for step in own[1].steps[1:]] != signals[1][1:]
    steps = len(own[0].steps) - 1
    assert list(map(len, written)) == [1] * n_real + [3] * (steps - n_real) + [3] * steps
    alone = [
        simulate(model, processor, event, replace(config, seed=s, warm_up_seed=3), progress=False) for s in (3, 0, 5)
    ]
    assert outcomes(one_warm_up) == outcomes(alone)


@pytest.mark.parametrize("seeds", [(), (1, 1), (0, -1)])
def test_the_seeds_of_an_ensemble_differ(seeds):
    with pytest.raises(InputError, match=r"`seeds?` must be"):
        simulate(model_of("qwen2"), processor_of("qwen2"), small_event(14), seeds=seeds, progress=False)


@pytest.mark.parametrize("together", [1, 2, 4])
def test_no_more_than_asked_are_on_at_a_time(monkeypatch, together):
    active, most = set(), []
    open_run, finish = EventRun.open, EventRun.finish

    def opened(self, **kwargs):
        active.add(self.event.event_id)
        most.append(len(active))
        open_run(self, **kwargs)

    def finished(self, *args):
        finish(self, *args)
        if not self.waiting:
            active.remove(self.event.event_id)

    monkeypatch.setattr(EventRun, "open", opened)
    monkeypatch.setattr(EventRun, "finish", finished)
    run(model_of("qwen2"), processor_of("qwen2"), several_events(), together=together, signal="none", action="choice")
    assert max(most) == together and not active


@pytest.mark.parametrize("together", [0, -1, True, 1.5, "2"])
def test_events_together_is_a_whole_number(together):
    with pytest.raises(InputError, match="`events_together` must be a whole number of at least 1"):
        run(model_of("qwen2"), processor_of("qwen2"), several_events(), together=together)


# -- interrupted ------------------------------------------------------------------------------------------------------


def journal_lines(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.read_bytes().count(b"\n") - 1 for path in folder.rglob("journal.jsonl")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The files and the rollouts of a run that nothing stopped, the events one by one."""
    folder = tmp_path_factory.mktemp("whole")
    settings = {"signal": "both", "action": "label_text"}
    made = run(model_of("qwen2"), processor_of("qwen2"), several_events(), folder, **settings)
    return results(folder), outcomes(made)


@pytest.mark.parametrize(
    ("lines", "then"), [(0, 3), (1, 1), (3, 8), (4, 1), (7, 3), (12, 1), (12, 8), (19, 3), (23, 2), (28, 3), (30, 1)]
)
def test_a_crash_anywhere_changes_nothing(tmp_path, monkeypatch, uninterrupted, lines, then):
    model, processor, events = model_of("qwen2"), processor_of("qwen2"), several_events()
    settings = {"signal": "both", "action": "label_text"}
    with monkeypatch.context() as patch:
        stop_journal(patch, lines)
        with pytest.raises(Crash):
            run(model, processor, events, tmp_path / "cut", together=3, **settings)
    assert len(journal_lines(tmp_path / "cut")) <= 3  # so many are on at a time
    found = run(model, processor, events, tmp_path / "cut", True, together=then, **settings)
    assert (results(tmp_path / "cut"), outcomes(found)) == uninterrupted


def test_each_step_is_on_disk_before_the_next_begins(tmp_path, monkeypatch):
    model, processor, events = model_of("qwen2"), processor_of("qwen2"), several_events()
    decide, seen = EventRun.decide, []

    def looking(self):
        seen.append((self.event.event_id, self.step.index, journal_lines(tmp_path)))
        return decide(self)

    monkeypatch.setattr(EventRun, "decide", looking)
    run(model, processor, events, tmp_path, together=3, signal="text", action="choice")
    assert len(seen) == 26
    for event_id, index, on_disk in seen:
        assert on_disk[f"{event_id}-seed0"] == index


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_loses_at_most_one_step_of_each_event(tmp_path):
    folder, script = tmp_path / "killed", Path(__file__).with_name("killed_run.py")
    died = subprocess.run(
        [sys.executable, str(script), str(folder), "14", "both", "4"], check=False, capture_output=True
    )
    assert died.returncode == -signals.SIGKILL, died.stderr.decode()[-2000:]
    # Four headers, then two rounds of four, then two events of the third round.
    assert sorted(journal_lines(folder).values()) == [2, 2, 3, 3]
    model, processor = model_of("qwen2"), processor_of("qwen2")
    run(model, processor, several_events(), folder, True, together=2, signal="both")
    run(model, processor, several_events(), tmp_path / "whole", signal="both")
    assert results(folder) == results(tmp_path / "whole") and len(results(folder)) == 15


def test_a_crash_while_one_of_them_is_saved(tmp_path, monkeypatch):
    model, processor, events = model_of("qwen2"), processor_of("qwen2"), several_events()
    run(model, processor, events, tmp_path / "whole", signal="text")
    with monkeypatch.context() as patch:
        patch.setattr("mf_llm.simulation.rollout.write_json", lambda *a: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            run(model, processor, events, tmp_path / "cut", together=5, signal="text")
    run(model, processor, events, tmp_path / "cut", True, together=5, signal="text")
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_a_folder_in_the_way_of_one_leaves_the_others_to_be_resumed(tmp_path):
    model, processor, events = model_of("qwen2"), processor_of("qwen2"), several_events()
    run(model, processor, events, tmp_path / "whole", signal="text")
    # The rollout of the fourth event is there already; its turn comes when the second one has ended.
    run(model, processor, events[3:4], tmp_path / "cut", signal="text")
    with pytest.raises(InputError, match="four-seed0 holds a rollout already"):
        run(model, processor, events, tmp_path / "cut", together=3, signal="text")
    assert journal_lines(tmp_path / "cut") == {"one-seed0": 4, "three-seed0": 4}
    run(model, processor, events, tmp_path / "cut", True, together=3, signal="text")
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_the_time_of_a_batch_is_shared_among_its_events(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock, write = Clock(), in_process.write_signals

    def slow(requests):
        clock.now += 30.0
        return write(requests)

    monkeypatch.setattr(lockstep, "time", clock)
    monkeypatch.setattr(event_run, "time", clock)
    monkeypatch.setattr(in_process, "write_signals", slow)
    events = several_events()[:3]
    run(model_of("qwen2"), processor_of("qwen2"), events, tmp_path, together=3, signal="text", action="choice")
    spent = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("timings.json")}
    # 5, 4 and 7 steps: three share the first four, two the fifth, and one has the rest for itself.
    assert spent["two-seed0"]["seconds_per_step"] == [10.0] * 4
    assert spent["one-seed0"]["seconds_per_step"] == [10.0] * 4 + [15.0]
    assert spent["three-seed0"]["seconds_per_step"] == [10.0] * 4 + [15.0, 30.0, 30.0]


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
@pytest.mark.parametrize("role", ["policy", "mean_field"])
def test_a_failure_stays_with_its_event(family, role):
    processor, model, events = processor_of(family), new_model(family, tied=False), several_events()
    # One event's people are known by their job, its signals by their topic.
    at = {i: {"state": {"job": "zzqqzz"}} for i in (9, 12)}
    events[2] = with_turns(events[2], at=at, topic="A rumour about zzqqzz.")
    mark = processor.encoder("policy").encode("zzqqzz")
    settings = {"signal": "both", "action": "label_text", "batch_tokens": 10**6}
    healthy = run(model, processor, events, **settings)

    def fail(module, args, kwargs, output):
        for row, ids in enumerate(kwargs["input_ids"].tolist()):
            if not any(ids[i : i + len(mark)] == mark for i in range(len(ids))):
                continue
            output.logits[row] = torch.nan
            if role == "mean_field" and not output.logits.shape[1]:  # the pass over the prompts, which fills the cache
                for layer in returned_cache(kwargs).layers:
                    layer.values[row] = torch.nan

    model.backbone(role).register_forward_hook(fail, with_kwargs=True)
    found = run(model, processor, events, together=5, **settings)
    assert [outcome(found[i]) for i in (0, 1, 3, 4)] == [outcome(healthy[i]) for i in (0, 1, 3, 4)]
    assert outcome(found[2]) != outcome(healthy[2])
    assert outcome(found[2]) == outcome(run(model, processor, events[2], **settings))
    if role == "policy":
        assert {row.turn for row in found[2].simulated() if row.failure == "non_finite_logits"} == {9, 12}
    else:
        failures = {step.signal_failure for step in found[2].steps[1:]}
        assert failures == {"non_finite_logits"} and found[2].n_failed == len(found[2].steps) - 1


# -- prefixes of several events in one batch --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [16384, 90, 1])
def test_rows_behind_different_prefixes_are_what_each_prefix_gives_alone(family, batch_tokens):
    backbone = model_of(family).backbone("policy")
    config = model_of(family).generation_config_of("policy")

    def ids(length, seed):
        return torch.randint(8, 400, (length,), generator=torch.Generator().manual_seed(seed)).tolist()

    prefixes = [encode_prefix(backbone, ids(length, i)) for i, length in enumerate((3, 12, 40, 12, 21))]
    rows = [(n % 5, ids(1 + n % 4, 50 + n), 1000 + n) for n in range(23)]
    settings = {"generation_config": config, "end_ids": [7], "max_new_tokens": 6}
    expected = [generate_keyed(backbone, prefixes[p], [s], [k], **settings)[0] for p, s, k in rows]
    chosen = [prefixes[p] for p, _, _ in rows]
    segments, keys = [s for _, s, _ in rows], [k for _, _, k in rows]
    settings["batch_tokens"] = batch_tokens
    assert generate_keyed(backbone, chosen, segments, keys, **settings) == expected
    assert generate_keyed(backbone, chosen[::-1], segments[::-1], keys[::-1], **settings) == expected[::-1]
    assert [prefix.cache.get_seq_length() for prefix in prefixes] == [3, 12, 40, 12, 21]
    assert len({replace(one, end=None) for one in expected}) > 20


def test_nothing_to_generate_is_no_call():
    backbone = model_of("qwen2").backbone("policy")
    config = model_of("qwen2").generation_config_of("policy")
    assert generate_keyed(backbone, [], [], [], generation_config=config, end_ids=[7], max_new_tokens=3) == []
