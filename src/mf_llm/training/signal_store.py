"""Signals of a mean field that is trained no more: drawn once per transition, many transitions together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from mf_llm.simulation.provenance import weights_fingerprint
from mf_llm.training.data_collator import Transition
from mf_llm.training.signal_file import SignalFile
from mf_llm.training.signal_sampler import DrawnSignals, SignalSampler

# Decoding is as fast per row as the batch is large, up to about this many rows.
TOGETHER = 64

_Key = tuple[str, str, int, int]


class SignalStore:
    """One signal per training transition, for the policy's part of a run.

    While the mean field stands still, a transition's signal may be drawn ahead of its batch and kept for later epochs.
    A signal depends on its transition alone, not on what is drawn with it (in float32; see `draw_signals`).

    Args:
        sampler: draws them.
        transitions: the training transitions.
        ahead: fill up a draw with transitions that no batch asked for yet. Not where several processes share them:
            each would draw for all.
        file: where they are kept for a run that goes on later, or that starts from the same mean field. A signal is
            found again by the weights, the prompts and the noise it came from.
    """

    def __init__(
        self,
        sampler: SignalSampler,
        transitions: Sequence[Transition],
        *,
        ahead: bool = True,
        file: SignalFile | None = None,
    ) -> None:
        self.sampler, self.transitions, self.file = sampler, transitions, file
        self._on_disk: dict[str, DrawnSignals] | None = None
        self._weights = ""
        self._drawn: dict[_Key, DrawnSignals | None] = {}
        self._places: dict[_Key, int] | None = None
        self._ahead: Iterator[int] = iter(range(len(transitions) if ahead else 0))

    def draw(self, transitions: Sequence[Transition], turn: str | int) -> list[DrawnSignals | None]:
        """The signals of some transitions; None for one without a history.

        Args:
            transitions: a batch. One that is not a training transition (its history was rolled on) is drawn for.
            turn: names the draw of these.
        """
        known = self._known()
        missing = self._not_kept([t for t in transitions if _key(t) in known and _key(t) not in self._drawn])
        if missing:
            asked = {_key(one) for one in missing}
            while len(missing) < TOGETHER and (place := next(self._ahead, None)) is not None:
                one = self.transitions[place]
                if _key(one) not in self._drawn and _key(one) not in asked:
                    missing += self._not_kept([one])
            self._keep(missing, self.sampler.draw(missing, 1, "policy"))
        others = [t for t in transitions if _key(t) not in known]
        fresh = iter(self.sampler.draw(others, 1, turn) if others else [])
        return [self._drawn[_key(t)] if _key(t) in known else next(fresh) for t in transitions]

    def _not_kept(self, transitions: Sequence[Transition]) -> list[Transition]:
        """Those that are not in the file; the signals of the others are taken from it."""
        if self.file is None:
            return list(transitions)
        if self._on_disk is None:
            self._on_disk, self._weights = self.file.read(), weights_fingerprint(self.sampler.backbone)
        missing = []
        for one in transitions:
            signals = self._on_disk.get(self._name(one)) if one["history"] else None
            if signals is None:
                missing.append(one)
            else:
                self._drawn[_key(one)] = signals
        return missing

    def _keep(self, transitions: Sequence[Transition], drawn: Sequence[DrawnSignals | None]) -> None:
        self._drawn |= {_key(one): signals for one, signals in zip(transitions, drawn, strict=True)}
        if self.file is not None:
            pairs = zip(transitions, drawn, strict=True)
            self.file.append({self._name(one): signals for one, signals in pairs if signals is not None})

    def _name(self, transition: Transition) -> str:
        """Hash of what its signal depends on: weights, sampling, the noise's name and the prompts."""
        sampler = self.sampler
        prompts = [
            sampler.collator.mean_field_prompt(transition, step, None) for step in range(len(transition["history"]))
        ]
        of_sampler = (sampler.temperature, sampler.max_new_tokens, sampler.seed, str(sampler.backbone.dtype))
        record = (self._weights, of_sampler, _key(transition), prompts)
        return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:32]

    def _known(self) -> dict[_Key, int]:
        if self._places is None:
            self._places = {_key(one): place for place, one in enumerate(self.transitions)}
        return self._places


def _key(transition: Transition) -> _Key:
    return transition["data_set"], transition["event_id"], transition["draw"], transition["warm_up"]
