"""Keyed randomness: every random number is a function of what it is for, never of when or beside whom it is drawn.

A stream is named by a key: (seed, event, step, person, purpose). Its numbers are a pure function of (key, counter), so
batch size, order, interruption and the number of processes cannot change them, and two branches of a rollout share
them (common random numbers).
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_key(*parts: str | int) -> int:
    """The 64-bit key of a stream of random numbers.

    Args:
        parts: what the stream is for, such as ``(seed, event_id, step, turn, "label")``.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def draw_categories(probabilities: np.ndarray, keys: list[int]) -> np.ndarray:
    """One keyed draw per row.

    Args:
        probabilities: ``[N, K]``, rows sum to 1.
        keys: N stream keys.

    Returns:
        ``[N]`` int64 category indices (inverse of the cumulative distribution, in float64).
    """
    uniform = np.array([uniform_number(key) for key in keys])
    cumulative = np.cumsum(np.asarray(probabilities, dtype=np.float64), axis=1)
    return (uniform[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1).clip(max=probabilities.shape[1] - 1)


def uniform_number(key: int, counter: int = 0) -> float:
    """A number in (0, 1) of 52 bits, a function of key and counter."""
    digest = hashlib.blake2b(key.to_bytes(8, "little") + counter.to_bytes(8, "little"), digest_size=8).digest()
    # 52 bits, shifted by half a step: float64 holds every value exactly and none is 0 or 1.
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) / 2**52


def keyed_generator(key: int) -> np.random.Generator:
    """A generator whose numbers are a function of the key alone."""
    return np.random.Generator(np.random.Philox(key=np.uint64(key)))


def keyed_sample(n: int, size: int, key: int, weights: np.ndarray | None = None) -> list[int]:
    """`size` of ``range(n)`` without replacement, in increasing order; with weights by Efraimidis and Spirakis (2006).

    Args:
        n: how many there are.
        size: how many to take; all if there are no more.
        key: stream key.
        weights: ``[n]``, not negative; equal by default.
    """
    if n <= size:
        return list(range(n))
    generator = keyed_generator(key)
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    race = -np.log(generator.random(n)) / np.maximum(weights, 1e-300)
    return sorted(int(i) for i in np.argsort(race, kind="stable")[:size])


def permutation(n: int, key: int) -> list[int]:
    """A keyed permutation of ``range(n)``."""
    return [int(i) for i in keyed_generator(key).permutation(n)]
