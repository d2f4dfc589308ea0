"""Each batch several times in a row: to the same process, in the same order."""

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from mf_llm.errors import InputError
from mf_llm.training.repeated_batches import RepeatedBatches


@pytest.mark.parametrize(
    ("size", "times", "expected"),
    [
        (2, 1, [0, 1, 2, 3, 4, 5]),
        (2, 2, [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5]),
        (3, 3, [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5]),
        (4, 2, [0, 1, 2, 3, 0, 1, 2, 3]),  # the incomplete last run is dropped
    ],
)
def test_runs_are_repeated(size, times, expected):
    sampler = RepeatedBatches(range(6), size, times)
    assert list(sampler) == expected and len(sampler) == len(expected)
    assert list(sampler) == expected  # a second epoch


def test_a_shuffled_order_is_drawn_once_per_epoch():
    sampler = RepeatedBatches(RandomSampler(range(20)), size=4, times=3)
    epochs = [list(sampler), list(sampler)]
    for order in epochs:
        runs = [order[i : i + 4] for i in range(0, 60, 4)]
        assert runs[0::3] == runs[1::3] == runs[2::3]
        assert sorted(index for run in runs[0::3] for index in run) == list(range(20))
    assert epochs[0] != epochs[1]


def test_the_order_follows_from_seed_and_epoch_alone():
    """What a process has drawn before, or that a run was resumed, must not change it."""

    def orders(seed, first_epoch=0, drawn_before=0):
        torch.manual_seed(seed)
        sampler = RepeatedBatches(RandomSampler(range(12)), 2, 2)
        loader = prepare_data_loader(DataLoader(range(12), batch_size=2, sampler=sampler), put_on_device=False)
        torch.rand(drawn_before)
        epochs = []
        for epoch in range(first_epoch, 3):
            loader.set_epoch(epoch)
            epochs.append([batch.tolist() for batch in loader])
        return epochs

    whole = orders(7)
    assert len({str(epoch) for epoch in whole}) == 3
    assert orders(7, drawn_before=5) == whole
    assert orders(7, first_epoch=1) == whole[1:]
    assert orders(8) != whole


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_process_gets_its_own_batches_again(processes, accumulation):
    """A run is what all processes take for one optimiser step, so that the draws a process keeps are its own."""
    batch, times = 2, 3
    run = batch * accumulation * processes
    sampler = RepeatedBatches(RandomSampler(range(4 * run + 1)), run, times)
    seen = []
    for process in range(processes):
        sampler.set_epoch(0)
        batches = list(BatchSamplerShard(BatchSampler(sampler, batch, drop_last=False), processes, process))
        assert len(batches) == 4 * times * accumulation
        steps = [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]
        assert steps[0::times] == steps[1::times] == steps[2::times]
        seen += [index for step in steps[0::times] for one in step for index in one]
    assert len(seen) == len(set(seen)) == 4 * run
    sampler.set_epoch(0)
    assert set(seen) == set(sampler)


def test_fewer_transitions_than_a_step_takes_are_refused():
    with pytest.raises(InputError, match="`train_dataset` must hold at least 7 transitions with updates_per_draw=2"):
        RepeatedBatches(range(6), size=7, times=2)


def test_a_data_loader_counts_the_repeated_batches():
    loader = DataLoader(list(range(10)), batch_size=2, sampler=RepeatedBatches(range(10), size=4, times=2))
    batches = [one.tolist() for one in loader]
    assert batches == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5], [6, 7], [4, 5], [6, 7]]
    assert len(loader) == len(batches) == 8
