"""`DataCollatorForIBTune`: from transitions, which are text, to the tensors of both roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mf_llm.models.processing_mf_llm import MFLLMProcessor, PromptLimits
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.training.prompt_trees import PolicyTree, policy_tree, signal_tree
from mf_llm.training.token_tree import PackedTrees, TokenTree, pack_trees

Transition = Mapping[str, Any]


@dataclass
class DataCollatorForIBTune:
    """Builds the batches of `IBTuneTrainer`.

    Called by a data loader it hands the transitions on as they are, since what people see depends on signals that the
    current mean-field model has yet to write. The trainer draws these and then asks for the tensors:

    * `policy_trees`: prompt -> profiles -> options -> texts, one tree per transition and signal;
    * `signal_trees`: prompt -> K signals, one tree per transition, for the mean-field model or its prior;
    * `pack`: trees to tensors.

    A prompt ``[5 6 7]`` with the branches ``[8 9]`` and ``[8 4 2]``, scored, gives

        input_ids     [[5, 6, 7, 8, 8, 4]]          (the last token of a leaf is predicted, never read)
        position_ids  [[0, 1, 2, 3, 3, 4]]
        attention     row 4 (the second 8) sees columns 0 1 2 and 4, not 3
        log_probs     [[log p(8), log p(9), 0], [log p(8), log p(4), log p(2)]]

    Attributes:
        processor: prompts and tokenizers.
        target: "label" or "action".
        max_texts: people of a transition whose texts are scored.
        seed: of the order in which options are listed, another one each time a transition comes.
        limits: bounds of the prompts.
        shared: for each role, whether a row may hold a whole tree (see `pack_trees`).
    """

    processor: MFLLMProcessor
    target: str = "label"
    max_texts: int = 16
    seed: int = 0
    limits: PromptLimits = field(default_factory=PromptLimits)
    shared: Mapping[str, bool] = field(default_factory=lambda: {"policy": True, "mean_field": True})

    def __call__(self, features: Sequence[Transition]) -> dict[str, list[Transition]]:
        """The batch as the data loader gives it."""
        return {"transitions": list(features)}

    def policy_trees(
        self, transitions: Sequence[Transition], signals: Sequence[str | None], turn: str | int = 0
    ) -> list[PolicyTree]:
        """One tree per pair of transition and signal; `turn` names the draw of the option orders."""
        return [
            policy_tree(
                self.processor,
                transition,
                signal,
                order=self._order(transition, turn),
                target=self.target,
                max_texts=self.max_texts,
                limits=self.limits,
            )
            for transition, signal in zip(transitions, signals, strict=True)
        ]

    def mean_field_prompt(self, transition: Transition, step: int, previous: str | None) -> list[int]:
        """The prompt for the signal after a step of a transition's history."""
        told = transition["history"][step]
        return self.processor.mean_field_prompt(
            transition["topic"], previous, told["lines"], tally=told["tally"] or None, limits=self.limits
        )

    def signal_trees(
        self, prompts: Sequence[Sequence[int]], signals: Sequence[Sequence[Sequence[int]]]
    ) -> list[TokenTree]:
        """One tree per prompt with its K signals as branches."""
        return [signal_tree(prompt, ids) for prompt, ids in zip(prompts, signals, strict=True)]

    def pack(self, role: str, trees: Sequence[TokenTree]) -> PackedTrees:
        """Trees of one role as tensors."""
        return pack_trees(trees, shared=self.shared[role])

    def _order(self, transition: Transition, turn: str | int) -> list[int] | None:
        if not transition["options"]:
            return None
        name = (self.seed, transition["data_set"], transition["event_id"], transition["draw"], turn)
        return permutation(len(transition["options"]), stream_key(*name, "option order"))
