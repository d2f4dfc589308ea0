"""Preparing a batch of `IBTuneTrainer`: signals are drawn, weighed and turned into tensors, all without gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.events import Event
from mf_llm.simulation.keyed_draws import stream_key, uniform_number
from mf_llm.simulation.signals import shown_signal
from mf_llm.training.data_collator import DataCollatorForIBTune, Transition
from mf_llm.training.ib_tune_config import IBTuneConfig
from mf_llm.training.policy_scores import policy_scores, score_trees
from mf_llm.training.prompt_trees import PolicyTree
from mf_llm.training.signal_sampler import DrawnSignals, SignalSampler
from mf_llm.training.signal_store import SignalStore
from mf_llm.training.simulated_history import with_simulated_history
from mf_llm.training.token_tree import PackedTrees
from mf_llm.training.transition_settings import TransitionSettings

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation


@dataclass
class PreparedBatch:
    """Transitions with the signals that were drawn for them, ready for `compute_loss`.

    Attributes:
        transitions: B transitions.
        roles: the roles whose loss is computed.
        policy: the trees under the signals that are carried on, and their tensors.
        base: log-probabilities of the policy's nodes under its base, tree by tree (anchored readout).
        mean_field: the tensors of the signals below their prompts.
        log_r: ``[B, K, L]`` log-probabilities of the signals' tokens under the prior.
        relevance: ``[B, K]`` nats per person.
        old_log_q: ``[B, K, L]`` of the first update that used these signals.
        signal_tokens: mean length of a signal.
    """

    transitions: list[Transition]
    roles: tuple[str, ...]
    policy: tuple[list[PolicyTree], PackedTrees] | None = None
    base: list[torch.Tensor] | None = None
    mean_field: PackedTrees | None = None
    log_r: torch.Tensor | None = None
    relevance: torch.Tensor | None = None
    old_log_q: torch.Tensor | None = None
    signal_tokens: float | None = None


class BatchPreparer:
    """Draws and weighs the signals of transitions with the current models.

    Args:
        collator: prompts and tensors.
        sampler: draws the signals.
        args: what is trained.
        events: (data set, event id) -> event, for simulated histories.
        settings: how the transitions were made, for the same.

    Attributes:
        store: keeps the signals of a mean field that is trained no more when the policy is; None draws them anew.
    """

    def __init__(
        self,
        collator: DataCollatorForIBTune,
        sampler: SignalSampler,
        args: IBTuneConfig,
        events: Mapping[tuple[str, str], Event],
        settings: TransitionSettings | None = None,
    ) -> None:
        self.store: SignalStore | None = None
        self.collator, self.sampler, self.args = collator, sampler, args
        self.events, self.settings = events, settings

    @torch.no_grad()
    def prepare(
        self, model: MFLLMForSimulation, transitions: list[Transition], roles: tuple[str, ...], turn: str | int
    ) -> PreparedBatch:
        args, prepared = self.args, PreparedBatch(transitions, roles)
        trains_mean_field = "mean_field" in roles
        drawn: list[DrawnSignals | None] = [None] * len(transitions)
        if args.has_text:
            if self.store is not None and roles == ("policy",) and turn != "evaluation":
                drawn = self.store.draw(transitions, turn)
            else:
                drawn = self.sampler.draw(transitions, args.num_signals if trains_mean_field else 1, turn)
        if "policy" in roles:
            signals = [
                self._shown(transition, one.texts[one.carried] if one else None)
                for transition, one in zip(transitions, drawn, strict=True)
            ]
            trees = self.collator.policy_trees(transitions, signals, turn)
            prepared.policy = trees, self.collator.pack("policy", [tree.tree for tree in trees])
            if args.anchored:
                prepared.base = self._base_scores(model, trees)
        told = [(t, one) for t, one in zip(transitions, drawn, strict=True) if one is not None]
        if trains_mean_field and told:
            self._prepare_mean_field(model, prepared, told, turn)
        lengths = [len(ids) for one in drawn if one for ids in one.ids]
        prepared.signal_tokens = sum(lengths) / len(lengths) if lengths else None
        return prepared

    def _prepare_mean_field(
        self,
        model: MFLLMForSimulation,
        prepared: PreparedBatch,
        told: Sequence[tuple[Transition, DrawnSignals]],
        turn: str | int,
    ) -> None:
        args, collator = self.args, self.collator
        count = args.num_signals
        pairs = [(transition, text) for transition, one in told for text in one.texts]
        trees = collator.policy_trees([t for t, _ in pairs], [self._shown(t, text) for t, text in pairs], turn)
        values = score_trees(model, "policy", [t.tree for t in trees], collator, batch_tokens=args.scoring_tokens)
        base = self._base_scores(model, trees) if args.anchored else [None] * len(trees)
        scores = [
            policy_scores(tree, transition, value.sum(-1), one, temperature=args.choice_temperature).log_likelihood
            for tree, (transition, _), value, one in zip(trees, pairs, values, base, strict=True)
        ]
        prepared.relevance = torch.stack(scores).view(len(told), count)
        priors = [collator.processor.mean_field_prior_prompt(t["topic"], limits=collator.limits) for t, _ in told]
        with model.adapters_disabled("mean_field"):
            log_r = score_trees(
                model,
                "mean_field",
                collator.signal_trees(priors, [one.ids for _, one in told]),
                collator,
                batch_tokens=args.scoring_tokens,
                temperature=args.signal_temperature,
            )
        packed = collator.pack(
            "mean_field", collator.signal_trees([one.prompt for _, one in told], [one.ids for _, one in told])
        )
        prepared.mean_field = packed
        padded = [torch.nn.functional.pad(one, (0, packed.shape[1] - one.shape[1])) for one in log_r]
        prepared.log_r = torch.stack(padded)

    def _base_scores(self, model: MFLLMForSimulation, trees: Sequence[PolicyTree]) -> list[torch.Tensor]:
        with model.adapters_disabled("policy"):
            values = score_trees(
                model, "policy", [t.tree for t in trees], self.collator, batch_tokens=self.args.scoring_tokens
            )
        return [value.sum(-1) for value in values]

    def _shown(self, transition: Transition, text: str | None) -> str | None:
        return shown_signal(self.args.signal, transition["statistics"], text)

    def rolled_on(self, model: MFLLMForSimulation, transitions: list[Transition], draw: int) -> list[Transition]:
        """The batch, with some histories simulated beyond their warm-up by the current model."""
        result = []
        for transition in transitions:
            name = (self.args.seed, transition["data_set"], transition["event_id"], transition["draw"], draw)
            if uniform_number(stream_key(*name, "simulate")) < self.args.simulated_history:
                steps = 1 + int(uniform_number(stream_key(*name, "steps")) * self.args.simulated_steps)
                transition = with_simulated_history(
                    transition,
                    self.events[transition["data_set"], transition["event_id"]],
                    model,
                    self.collator.processor,
                    steps=steps,
                    config_options=simulation_options(self.args) | {"writers": self.args.max_texts},
                    seed=stream_key(*name, "rollout") >> 1,
                    settings=self.settings,
                )
            result.append(transition)
        return result


# Training reads each transition in one order of the options, and what it changes depends on that order too. The anchor
# does not, so in the anchored readout this part is noise, which a mean over several orders takes out.
ANCHORED_ORDERS = 4


def simulation_options(args: IBTuneConfig, settings: TransitionSettings | None = None) -> dict[str, Any]:
    """Fields of `SimulationConfig` with which a model is simulated as it was trained.

    Args:
        args: what was trained.
        settings: how the transitions were made; an action they name is asked for in the same words.
    """
    options: dict[str, Any] = {"signal": args.signal, "anchored": args.anchored}
    if settings is not None:
        options |= {"action": settings.action} if settings.action != "auto" else {}
        options |= {"shown_answers": settings.shown_answers} if settings.shown_answers else {}
    options |= {"option_orders": ANCHORED_ORDERS} if args.anchored else {}
    options |= {"choice_temperature": args.choice_temperature} if args.choice_temperature != 1 else {}
    return options | {
        "max_prompt_tokens": args.max_prompt_tokens,
        "signal_max_tokens": args.signal_max_tokens,
    }
