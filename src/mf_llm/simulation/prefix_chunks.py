"""Shared prompt parts encoded piece by piece: what the prompts of an event have in common is encoded once."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from mf_llm.simulation import readout
from mf_llm.simulation.readout import SharedPrefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Parts = tuple[tuple[int, ...], ...]


class PrefixStems:
    """The beginnings of prefixes that one model has encoded: of each number of parts the last one.

    One for each state of a model: with adapters and without them the same tokens have different keys and values.

    Args:
        backbone: a causal language model.
        known: prefixes that somebody still holds; the same for all who read in this state of the model side by side.
    """

    def __init__(self, backbone: PreTrainedModel, known: MutableMapping[Parts, SharedPrefix] | None = None) -> None:
        self.backbone = backbone
        self.known = WeakValueDictionary() if known is None else known
        self._last: dict[int, tuple[Parts, SharedPrefix]] = {}

    def encoded(self, parts: Parts) -> SharedPrefix:
        """The prefix of all `parts`, kept for those that begin with it."""
        known = self._last.get(len(parts))
        if known is None or known[0] != parts:
            known = self._last[len(parts)] = parts, encode_prefix(self, parts)
        return known[1]

    def keep(self, parts: Parts, prefix: SharedPrefix) -> None:
        """Takes over the prefix of `parts` that somebody else encoded, for those that begin with it."""
        self._last[len(parts)] = parts, prefix


def encode_prefix(stems: PrefixStems, parts: Sequence[Sequence[int]]) -> SharedPrefix:
    """Encodes the last of `parts` behind the others, which are encoded only if they are not among `stems`.

    Nothing is encoded twice as long as somebody holds it. Each part is a pass of its own, whatever is known already:
    passes of other lengths round differently, and a run that was resumed is to give what an uninterrupted one gives,
    to the last bit.

    Args:
        stems: what was encoded before.
        parts: at least one part, each of at least one token.
    """
    known: Parts = tuple(tuple(part) for part in parts)
    found = stems.known.get(known)
    if found is None:
        before = stems.encoded(known[:-1]) if len(known) > 1 else None
        found = stems.known[known] = readout.encode_prefix(stems.backbone, known[-1], before)
    return found
