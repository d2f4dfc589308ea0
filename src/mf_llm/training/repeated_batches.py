"""A sampler that hands out each batch several times in a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch.utils.data import RandomSampler, Sampler

from mf_llm.errors import InputError


class _Order(Protocol):  # a list, or a sampler
    def __iter__(self) -> Iterator[int]: ...
    def __len__(self) -> int: ...


class RepeatedBatches(Sampler[int]):
    """Repeats runs of indices, so that the optimiser can use the signals of one draw several times.

    Examples:
        >>> list(RepeatedBatches([0, 1, 2, 3], size=2, times=2))
        [0, 1, 0, 1, 2, 3, 2, 3]

    Args:
        sampler: the order of the indices.
        size: length of a run: what all processes take for one optimiser step. An incomplete last run is dropped.
        times: how often a run comes.

    Raises:
        InputError: there are fewer indices than a run has.
    """

    def __init__(self, sampler: _Order, size: int, times: int) -> None:
        if len(sampler) < size:
            raise InputError(
                f"`train_dataset` must hold at least {size} transitions with updates_per_draw={times}, got "
                f"{len(sampler)}; not one optimiser step could be made; lower `per_device_train_batch_size` or "
                "`gradient_accumulation_steps`."
            )
        self.sampler, self.size, self.times = _seedable(sampler), size, times

    def __iter__(self) -> Iterator[int]:
        run: list[int] = []
        for index in self.sampler:
            run.append(index)
            if len(run) == self.size:
                for _ in range(self.times):
                    yield from run
                run = []

    def __len__(self) -> int:
        return len(self.sampler) // self.size * self.size * self.times

    def set_epoch(self, epoch: int) -> None:
        """Tells the order of which epoch comes next; called by accelerate."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def _seedable(sampler: _Order) -> _Order:
    # accelerate makes a random order a function of seed and epoch, so that processes agree on it and a resumed run
    # finds it again; it cannot see the sampler inside this one.
    from accelerate.data_loader import SeedableRandomSampler

    if not isinstance(sampler, RandomSampler) or isinstance(sampler, SeedableRandomSampler):
        return sampler
    return SeedableRandomSampler(
        data_source=sampler.data_source,
        replacement=sampler.replacement,
        num_samples=sampler._num_samples,
        generator=sampler.generator,
    )
