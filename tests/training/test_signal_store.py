"""Signals of a mean field that stands still: drawn once, many together, and the same as drawn alone."""

import copy

import pytest
from made_transitions import build, made_event
from small_events import FAMILIES, model_of, processor_of

from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.training.data_collator import DataCollatorForIBTune
from mf_llm.training.signal_file import SignalFile
from mf_llm.training.signal_sampler import SignalSampler
from mf_llm.training.signal_store import TOGETHER, SignalStore

ROWS = build(*(made_event(f"e{i}", 60) for i in range(5)), transitions_per_event=2, agents_per_step=4)


class CountingSampler(SignalSampler):
    """Remembers how many transitions each draw was for."""

    def draw(self, transitions, count, turn):
        self.draws = [*getattr(self, "draws", []), (len(transitions), count, turn)]
        return super().draw(transitions, count, turn)


def sampler_of(family="qwen2"):
    collator = DataCollatorForIBTune(processor_of(family))
    backbone = model_of(family).backbone("mean_field")
    return CountingSampler(backbone, collator, temperature=1.0, max_new_tokens=5, seed=3, batch_tokens=4096)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_signal_does_not_depend_on_what_is_drawn_with_it(family):
    alone = [sampler_of(family).draw([row], 1, "policy")[0] for row in ROWS]
    store = SignalStore(sampler_of(family), ROWS)
    found = [one for start in range(0, 10, 2) for one in store.draw(ROWS[start : start + 2], turn=start)]
    assert found == alone
    assert len({one.texts[0] for one in found}) > 5


def test_every_transition_is_drawn_for_once():
    sampler = sampler_of()
    store = SignalStore(sampler, ROWS)
    first = store.draw(ROWS[3:5], 0)
    assert len(ROWS) == 10 < TOGETHER and sampler.draws == [(10, 1, "policy")]
    assert store.draw(ROWS[3:5], 7) == first
    store.draw(ROWS, 8)
    assert len(sampler.draws) == 1


def test_without_looking_ahead_a_batch_is_drawn_for_alone():
    sampler = sampler_of()
    store = SignalStore(sampler, ROWS, ahead=False)
    store.draw(ROWS[:2], 0)
    store.draw(ROWS[1:4], 1)
    assert [size for size, _, _ in sampler.draws] == [2, 2]


def test_a_history_that_was_rolled_on_is_drawn_for_each_time():
    sampler = sampler_of()
    store = SignalStore(sampler, ROWS)
    rolled_on = ROWS[0] | {"warm_up": ROWS[0]["warm_up"] + 4}
    found = [store.draw([rolled_on, ROWS[0]], turn)[0] for turn in (1, 2)]
    assert found[0] != found[1]
    assert [draw for draw in sampler.draws if draw[0] == 1] == [(1, 1, 1), (1, 1, 2)]


def test_without_a_history_there_is_no_signal():
    first = ROWS[0] | {"history": [], "warm_up": 0}
    store = SignalStore(sampler_of(), [first, *ROWS[1:]])
    assert store.draw([first, ROWS[1]], 0)[0] is None


def test_a_run_that_goes_on_draws_nothing_again(tmp_path):
    file = SignalFile(tmp_path / "run" / "signals.jsonl")
    drawn = SignalStore(sampler_of(), ROWS, file=file).draw(ROWS, 0)
    sampler = sampler_of()
    again = SignalStore(sampler, ROWS, file=file)
    assert again.draw(ROWS[4:6], 0) == drawn[4:6] and again.draw(ROWS, 1) == drawn
    assert not hasattr(sampler, "draws")


@pytest.mark.parametrize("change", ["seed", "temperature", "max_new_tokens", "limits", "weights", "history"])
def test_what_another_signal_would_come_from_is_not_found_in_the_file(tmp_path, change):
    file = SignalFile(tmp_path / "signals.jsonl")
    SignalStore(sampler_of(), ROWS, file=file).draw(ROWS, 0)
    sampler, rows = sampler_of(), ROWS
    if change == "weights":
        sampler.backbone = copy.deepcopy(sampler.backbone)
        next(sampler.backbone.parameters()).data[0] += 1
    elif change == "limits":
        sampler.collator.limits = PromptLimits(max_prompt_tokens=240)
    elif change == "history":
        told = [{**step, "lines": step["lines"][:-1]} for step in ROWS[0]["history"]]
        rows = [ROWS[0] | {"history": told}, *ROWS[1:]]
    else:
        setattr(sampler, change, getattr(sampler, change) + 1)
    SignalStore(sampler, rows, file=file).draw(rows, 0)
    assert sampler.draws == [(1 if change == "history" else 10, 1, "policy")]


def test_a_line_that_was_cut_short_is_drawn_again(tmp_path):
    file = SignalFile(tmp_path / "signals.jsonl")
    drawn = SignalStore(sampler_of(), ROWS, file=file).draw(ROWS, 0)
    file.path.write_bytes(file.path.read_bytes()[:-20])
    sampler = sampler_of()
    assert SignalStore(sampler, ROWS, file=file).draw(ROWS, 0) == drawn
    assert sampler.draws == [(1, 1, "policy")]
    assert list(file.read().values()) == drawn
