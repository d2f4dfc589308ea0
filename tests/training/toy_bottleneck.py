"""A mean-field model small enough to be enumerated: closed forms for the estimator of the bottleneck's gradient.

The model `q` is a table of next-token logits, one row per context. Its vocabulary is an end token and two words; a
signal ends with the end token, or has as many words as the length cap allows, where the end is forced. The prior `r`
is another table. Expectations over signals, and over tuples of signals, are sums.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch

END, WORDS = 0, (1, 2)
VOCABULARY = 1 + len(WORDS)

# (log_q, log_r, relevance, old_log_q) -> loss; shapes [B, K, L], [B, K, L], [B, K], [B, K, L]. The last holds what the
# signals were drawn with.
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Toy:
    """All signals of at most `cap` tokens, and what can be computed by going through them.

    Args:
        cap: the longest signal in tokens; one of `cap` words has no end token.

    Attributes:
        signals: S token tuples, the end token included where there is one.
        contexts: C tuples of the words that stand before a token.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.contexts = [words for length in range(cap) for words in product(WORDS, repeat=length)]
        self.signals = [(*words, END) for words in self.contexts] + list(product(WORDS, repeat=cap))
        self._context = torch.zeros(len(self.signals), cap, dtype=torch.long)
        self._token = torch.zeros(len(self.signals), cap, dtype=torch.long)
        self._real = torch.zeros(len(self.signals), cap, dtype=torch.bool)
        for s, signal in enumerate(self.signals):
            for j, token in enumerate(signal):
                self._context[s, j] = self.contexts.index(signal[:j])
                self._token[s, j], self._real[s, j] = token, True

    def table(self, seed: int, scale: float = 1.0) -> torch.Tensor:
        """Random logits ``[C, V]`` of a model, float64 with a gradient."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(len(self.contexts), VOCABULARY, generator=generator, dtype=torch.float64)
        return (scale * values).requires_grad_()

    def relevance(self, seed: int, scale: float = 1.0) -> torch.Tensor:
        """A relevance ``[S]`` for every signal: minus some nats per person."""
        generator = torch.Generator().manual_seed(seed)
        return -scale * torch.rand(len(self.signals), generator=generator, dtype=torch.float64)

    def log_probs(self, table: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the tokens of all signals ``[S, L]``; 0 behind the end, forced or not."""
        values = torch.log_softmax(table, dim=-1)[self._context, self._token]
        return torch.where(self._real, values, 0.0)

    def probabilities(self, table: torch.Tensor) -> torch.Tensor:
        """``[S]``, sum 1."""
        return self.log_probs(table).sum(-1).exp()

    def rate(self, table: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        """``KL(q || r)`` in nats."""
        log_q, log_r = self.log_probs(table).sum(-1), self.log_probs(prior).sum(-1)
        return (log_q.exp() * (log_q - log_r)).sum()

    def objective(
        self, table: torch.Tensor, prior: torch.Tensor, relevance: torch.Tensor, beta: float
    ) -> torch.Tensor:
        """``L_mu = E_q[log q - log r] - beta E_q[relevance]`` (method, section 3), by enumeration."""
        return self.rate(table, prior.detach()) - beta * (self.probabilities(table) * relevance).sum()

    def gradient(self, table: torch.Tensor, prior: torch.Tensor, relevance: torch.Tensor, beta: float) -> torch.Tensor:
        """The gradient of the objective in the logits of `table`, flat."""
        return torch.autograd.grad(self.objective(table, prior, relevance, beta), table)[0].flatten()

    def best(self, prior: torch.Tensor, relevance: torch.Tensor, beta: float) -> torch.Tensor:
        """Where the objective is lowest: ``q(m) = r(m) exp(beta relevance(m)) / Z``, ``[S]``."""
        return torch.softmax(self.log_probs(prior.detach()).sum(-1) + beta * relevance, dim=0)

    def table_of(self, probabilities: torch.Tensor) -> torch.Tensor:
        """The table under which the signals have these probabilities ``[S]``."""
        rows = torch.zeros(len(self.contexts), VOCABULARY, dtype=torch.float64)
        for signal, p in zip(self.signals, probabilities.tolist(), strict=True):
            for j, token in enumerate(signal):
                rows[self.contexts.index(signal[:j]), token] += p
        return rows.log().requires_grad_()

    def tuple_gradients(
        self,
        loss: Loss,
        table: torch.Tensor,
        prior: torch.Tensor,
        relevance: torch.Tensor,
        *,
        count: int = 2,
        drawn_from: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What an estimator gives for every tuple of `count` signals that one transition can draw.

        Args:
            loss: the estimator.
            table: of q, whose gradient is asked for.
            prior: of r.
            relevance: ``[S]``.
            count: K.
            drawn_from: the table that signals are drawn from; q's own by default.

        Returns:
            Probabilities ``[T]`` of the T = S^K tuples, and gradients ``[T, C * V]``.
        """
        tuples = torch.tensor(list(product(range(len(self.signals)), repeat=count)))
        log_r = self.log_probs(prior.detach())
        old = self.log_probs(table if drawn_from is None else drawn_from).detach()
        gradients = []
        for chosen in tuples:
            log_q = self.log_probs(table)[chosen]
            value = loss(log_q[None], log_r[chosen][None], relevance[chosen][None], old[chosen][None])
            gradients.append(torch.autograd.grad(value, table)[0].flatten())
        return old.sum(-1).exp()[tuples].prod(dim=1), torch.stack(gradients)

    def expected_gradient(self, loss: Loss, *args: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """The expectation of an estimator; arguments as in `tuple_gradients`."""
        p, gradients = self.tuple_gradients(loss, *args, **kwargs)
        return p @ gradients

    def sampled_gradients(
        self,
        loss: Loss,
        table: torch.Tensor,
        prior: torch.Tensor,
        relevance: torch.Tensor,
        *,
        transitions: int,
        count: int,
        seed: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws signals for many transitions and puts them into one call of the estimator.

        Returns:
            Mean gradient ``[P]`` over the transitions, and its standard error ``[P]``.
        """
        generator = torch.Generator().manual_seed(seed)
        p = self.probabilities(table).detach()
        drawn = torch.multinomial(p, transitions * count, replacement=True, generator=generator)
        drawn = drawn.view(transitions, count)
        log_q = self.log_probs(table)[drawn]
        value = loss(log_q, self.log_probs(prior.detach())[drawn], relevance[drawn], log_q.detach())
        (mean,) = torch.autograd.grad(value, table, retain_graph=True)
        # The loss is a mean over transitions of something linear in log q: what each gives follows from its slopes.
        slopes = transitions * torch.autograd.grad(value, log_q)[0]
        rows = torch.zeros(transitions, len(self.signals), self.cap, dtype=torch.float64)
        rows.scatter_add_(1, drawn[..., None].expand(-1, -1, self.cap), slopes)
        each = rows.flatten(1) @ self._jacobian(table)
        torch.testing.assert_close(each.mean(0), mean.flatten())
        return mean.flatten(), each.std(dim=0) / transitions**0.5

    def _jacobian(self, table: torch.Tensor) -> torch.Tensor:
        """Derivatives ``[S * L, C * V]`` of `log_probs`."""
        whole = torch.autograd.functional.jacobian(self.log_probs, table.detach())
        return whole.reshape(len(self.signals) * self.cap, -1)
