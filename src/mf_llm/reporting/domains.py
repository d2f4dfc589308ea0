"""Gains by domain: health, politics, ... Only domains with enough test events carry a claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mf_llm.evaluation.intervals import Interval, event_draws, generator
from mf_llm.evaluation.scoring import Replicated
from mf_llm.events import Event
from mf_llm.reporting.comparison_files import ComparisonFiles
from mf_llm.reporting.real_events import RealEvents

MIN_EVENTS = 5
NO_DOMAIN = "no domain given"


@dataclass(frozen=True, kw_only=True)
class DomainGain:
    """The gain of a method in one domain.

    Attributes:
        domain: as the events say.
        method: the method.
        gain: mean over the events of the domain, in nats.
        n_events: the test events.
        data_sets: the labels they come from.
    """

    domain: str
    method: str
    gain: Interval
    n_events: int
    data_sets: tuple[str, ...]

    @property
    def claimed(self) -> bool:
        """Whether there are enough events for a claim."""
        return self.n_events >= MIN_EVENTS and self.domain != NO_DOMAIN


def domain_gains(files: ComparisonFiles, real: RealEvents, methods: Sequence[str]) -> list[DomainGain]:
    """Gains by domain, domains in alphabetical order; surveys, whose people are resampled instead, are left out.

    A method that is missing on a data set of a domain has no gain there.
    """
    domains: dict[str, dict[str, list[Event]]] = {}
    for label in files.streams:
        task = real.tasks.get(label)
        for plan in task.plans if task else ():
            members = domains.setdefault(plan.event.domain or NO_DOMAIN, {})
            members.setdefault(label, []).append(plan.event)
    ordered = sorted(domains, key=lambda domain: (domain == NO_DOMAIN, domain))
    found = [_gain(files, domain, method, domains[domain]) for domain in ordered for method in methods]
    return [one for one in found if one is not None]


def _gain(files: ComparisonFiles, domain: str, method: str, members: dict[str, list[Event]]) -> DomainGain | None:
    n_events, parts = sum(map(len, members.values())), []
    for label, events in members.items():
        rows = files.judged_events(method, label)
        if files.missing(method, label) or any(event.event_id not in rows for event in events):
            return None
        rng = generator(files.summary["seed"], "domain", domain, label)
        draws = event_draws(events, rng, files.summary["n_bootstrap"])
        gain = Replicated.mean([float(rows[event.event_id]["gain"]) for event in events], draws)
        parts.append((len(events) / n_events, gain))
    replicates = [share * gain.replicates for share, gain in parts if gain.replicates is not None]
    total = Replicated(sum(share * gain.value for share, gain in parts), np.sum(replicates, axis=0))
    return DomainGain(domain=domain, method=method, gain=total.interval(), n_events=n_events, data_sets=tuple(members))
