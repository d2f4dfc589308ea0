"""What rollouts that make their steps side by side have read already: equal prompts are read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np

from mf_llm.simulation.prefix_chunks import Parts
from mf_llm.simulation.readout import SharedPrefix

# Segments, options and bound of the batch.
Asked = tuple[Sequence[Sequence[int]], Sequence[Sequence[int]], int]


class SharedReadings:
    """Prefixes and option likelihoods that the rollouts of one simulation share.

    The seeds of an ensemble meet the same people and, until their signals part, the same signal; those that list the
    options in the same order then ask the model the same. A reading is shared as a whole, with the rows that were read
    beside it, so that each rollout gets what it would have got alone, to the last bit. Nothing outlives the prefixes
    that the rollouts hold.

    Attributes:
        tuned, base: prefixes that are encoded, with adapters and without them.
    """

    def __init__(self) -> None:
        self.tuned: WeakValueDictionary[Parts, SharedPrefix] = WeakValueDictionary()
        self.base: WeakValueDictionary[Parts, SharedPrefix] = WeakValueDictionary()
        self._scores: WeakKeyDictionary[SharedPrefix, tuple[int, dict[bytes, np.ndarray]]] = WeakKeyDictionary()

    def scores(
        self,
        prefix: SharedPrefix,
        asked: Asked,
        step: int,
        read: Callable[[], np.ndarray],
    ) -> np.ndarray:
        """What `read` gives, or gave when the same was asked in the same step.

        Args:
            prefix: the shared part of the prompts.
            asked: segments, options and bound of the batch, on which the reading depends.
            step: index of the step. What was read in another one is let go: it is rarely asked again, and a long
                event has many.
            read: reads the options.

        Returns:
            ``[N, K]``, not to be written to.
        """
        known, key = self._of_step(prefix, step), _digest(asked)
        if key not in known:
            known[key] = read()
        return known[key]

    def take_in(self, prefix: SharedPrefix, asked: Asked, step: int, scores: np.ndarray) -> None:
        """Keeps `scores` as what was read where `asked` is asked behind `prefix`; see `scores`."""
        self._of_step(prefix, step)[_digest(asked)] = scores

    def _of_step(self, prefix: SharedPrefix, step: int) -> dict[bytes, np.ndarray]:
        known = self._scores.get(prefix)
        if known is None or known[0] != step:
            known = self._scores[prefix] = step, {}
        return known[1]


def _digest(asked: Asked) -> bytes:
    # The segments of a large population are not to be held any longer.
    return hashlib.blake2b(repr(asked).encode(), digest_size=16).digest()
