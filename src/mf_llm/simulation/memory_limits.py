"""Batches that do not fit into memory are halved, and their rows come out as they would have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from mf_llm.errors import InputError

logger = logging.getLogger(__name__)

RowT = TypeVar("RowT")
ResultT = TypeVar("ResultT")

# What allocators say in a RuntimeError: that of torch on the CPU, MPS, and libraries of CUDA before torch had a class.
_SAID = ("not enough memory", "can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def in_halves(
    batches: Sequence[Sequence[RowT]], compute: Callable[[Sequence[RowT]], ResultT]
) -> Iterator[tuple[Sequence[RowT], ResultT]]:
    """Computes batch by batch; one for which memory does not suffice is halved, and so are later ones as large.

    Rows do not depend on the batch they are in, so that a halved batch changes results by rounding only, as
    `SimulationConfig.batch_tokens` does.

    Args:
        batches: rows that are computed together.
        compute: what is done with them; it leaves nothing behind where it fails.

    Yields:
        The rows of each batch that was computed, in order, and what came out.

    Raises:
        InputError: memory does not suffice for a single row.
    """
    waiting, most = list(reversed(batches)), None
    while waiting:
        batch = waiting.pop()
        if most is not None and len(batch) > most:
            waiting += [batch[most:], batch[:most]]
            continue
        # What failed is let go of before the next try: its traceback holds the tensors that filled the memory.
        result = _tried(batch, compute)
        if result is not None:
            yield batch, result[0]
            continue
        most = len(batch) // 2
        logger.warning("A batch of %d rows did not fit into memory; going on with %d at a time.", len(batch), most)
        waiting.append(batch)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def enough_memory() -> Iterator[None]:
    """Says what to do where memory does not suffice for what cannot be made smaller.

    Raises:
        InputError: it does not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"Memory must suffice for one row of a batch, but it does not ({said}); nothing smaller can be computed; "
            "take a smaller backbone, --dtype bfloat16, shorter prompts (max_prompt_tokens) or a machine with more "
            "memory."
        ) from error


def _tried(batch: Sequence[RowT], compute: Callable[[Sequence[RowT]], ResultT]) -> tuple[ResultT] | None:
    if len(batch) == 1:
        with enough_memory():
            return (compute(batch),)
    try:
        return (compute(batch),)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
