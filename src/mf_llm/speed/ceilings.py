"""What the machine can do at best: a large matrix product and a large copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ceilings:
    """Measured ceilings.

    Attributes:
        flops: floating-point operations in a second, in a product of two large square matrices.
        bandwidth: bytes in a second, read and written, in a large copy.
    """

    flops: float
    bandwidth: float


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, repeats: int = 3) -> Ceilings:
    """The best of some tries of each.

    Args:
        device: where.
        dtype: of the matrices.
        repeats: tries.
    """
    cuda = device.type == "cuda"
    size, numbers = (8192, 2**30) if cuda else (3072, 2**27)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = _best(lambda: a @ b, repeats, cuda)
    source = torch.zeros(numbers, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = _best(lambda: target.copy_(source), repeats, cuda)
    return Ceilings(flops=2 * size**3 / product, bandwidth=2 * numbers / copied)


def _best(work: Callable[[], object], repeats: int, cuda: bool) -> float:
    seconds = []
    for _ in range(repeats + 1):  # the first one also makes kernels and touches memory
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
