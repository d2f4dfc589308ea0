"""What a run asked of its servers, and what that cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mf_llm.endpoints.chat import Answer


@dataclass
class Counters:
    """Sums over answers.

    Attributes:
        price_per_million: price of a million prompt tokens and of a million new tokens, or None.
        answers: questions that are through.
        requests: how often servers were asked for them.
        prompt_tokens, new_tokens: as the servers counted them.
        faults: failed requests by kind, those that were made good included.
        failures: questions that stayed without an answer, by kind.
    """

    price_per_million: tuple[float, float] | None = None
    answers: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer) -> None:
        """Counts one answer."""
        self.answers += 1
        self.requests += answer.requests
        self.prompt_tokens += answer.prompt_tokens
        self.new_tokens += answer.new_tokens
        self.faults.update(answer.faults)
        if answer.failure is not None:
            self.failures[answer.failure] += 1

    @property
    def retries(self) -> int:
        """Requests beyond the first one of each question."""
        return self.requests - self.answers

    @property
    def cost(self) -> float | None:
        """What the tokens cost, or None where there is no price."""
        if self.price_per_million is None:
            return None
        prompt, new = self.price_per_million
        return (self.prompt_tokens * prompt + self.new_tokens * new) / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "answers": self.answers,
            "requests": self.requests,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "faults": dict(sorted(self.faults.items())),
            "failures": dict(sorted(self.failures.items())),
            "price_per_million": self.price_per_million,
            "cost": self.cost,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Counters:
        """What `to_dict` made plain."""
        price = record["price_per_million"]
        sums = {name: record[name] for name in ("answers", "requests", "prompt_tokens", "new_tokens")}
        faults, failures = Counter(record["faults"]), Counter(record["failures"])
        return cls(tuple(price) if price else None, **sums, faults=faults, failures=failures)

    def describe(self) -> str:
        """One line for the terminal."""
        cost = "" if self.cost is None else f", cost {self.cost:,.4g}"
        failed = f" ({_listed(self.failures)})" if self.failures else ""
        return (
            f"{self.requests:,} requests ({self.retries:,} of them again), {self.prompt_tokens:,} prompt tokens, "
            f"{self.new_tokens:,} new tokens{cost}; {sum(self.failures.values()):,} without an answer{failed}."
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
