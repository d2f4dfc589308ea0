"""The supervised baseline: the policy alone, fine-tuned on what people did, without any signal.

It sees the same states and actions as IB-Tune and is trained by ``trl.SFTTrainer``. What is trained is what
``mf-llm simulate --signal none`` runs: the same prompts, options and end tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, Features, List, Value
from transformers import set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from mf_llm.errors import InputError
from mf_llm.simulation.keyed_draws import permutation, stream_key, uniform_number
from mf_llm.simulation.readout import option_orders
from mf_llm.training.composite_checkpoints import CompositeCheckpoints
from mf_llm.training.lora import add_adapters
from mf_llm.training.prompt_trees import TARGETS
from mf_llm.training.transitions import answer_of

if TYPE_CHECKING:
    from peft import LoraConfig

    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
    from mf_llm.models.processing_mf_llm import PromptLimits
    from mf_llm.training.card_data import CardData

IGNORED = -100
_COLUMNS = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


def sft_rows(
    transitions: Dataset | Sequence[Mapping[str, Any]],
    processor: MFLLMProcessor,
    *,
    target: str = "label",
    limits: PromptLimits | None = None,
    seed: int = 0,
) -> Dataset:
    """One row per target person: the prompt of the method `state` (topic and profile) and what the person answered.

    The people of a transition take turns in a keyed order of the options and its reverse, as in a simulation. Where
    people have survey weights, they are drawn in proportion to them (systematic resampling, as many rows as people):
    the loss of `SFTTrainer` knows no weights, and unweighted it would learn the sample's shares, not the population's.

    Args:
        transitions: rows of `mf_llm.training.transitions.build_transitions`; their history is not read.
        processor: prompts and tokenizer of the policy.
        target: "label" (the option with what ends it) or "action" (the option, and behind it the text with its end
            token, which is the whole answer where there are no options).
        limits: bounds of the prompts and of the texts; take those of the simulation.
        seed: of option orders and resampling.

    Returns:
        A data set with the columns that `SFTTrainer` takes as they are: ``input_ids`` and ``labels``, which are -100
        on the prompt.

    Raises:
        InputError: nobody has what is to be learned.
    """
    if target not in TARGETS:
        raise InputError(f"`target` must be one of {', '.join(TARGETS)}, got {target!r}.")
    pairs = [
        pair
        for transition in transitions
        for pair in _answers(transition, processor, target=target, limits=limits, seed=seed)
    ]
    if not pairs:
        raise InputError(
            f"`transitions` must hold people with {'a label' if target == 'label' else 'an action'}, got none in "
            f"{len(transitions)} transitions; nothing would be trained; use target={_other(target)!r} or other events."
        )
    columns = {
        "input_ids": [prompt + answer for prompt, answer in pairs],
        "labels": [[IGNORED] * len(prompt) + answer for prompt, answer in pairs],
    }
    return Dataset.from_dict(columns, features=_COLUMNS)


def count_tokens(rows: Dataset) -> int:
    """Tokens that go through the policy in one pass over `rows`: prompts and answers, padding not counted.

    It is what `SFTTrainer` logs as ``num_tokens``, and `PolicySFTTrainer` keeps as ``state.num_input_tokens_seen``.
    """
    return sum(map(len, rows["input_ids"]))


def within_budget(rows: Dataset, budget_tokens: int, *, seed: int = 0) -> Dataset:
    """One epoch of at most `budget_tokens` forward tokens, counted as by `count_tokens`.

    A method is compared with another at an equal number of tokens that went through the policy with a gradient, so
    that neither sees more. Rows are taken in a keyed order until the next one does not fit, so that the budget is
    missed by less than one row. A budget larger than the data goes through them again, in another order.

    Args:
        rows: of `sft_rows`.
        budget_tokens: at least the tokens of the longest row.
        seed: of the order.

    Raises:
        InputError: the budget is smaller than a row.
    """
    lengths = [len(ids) for ids in rows["input_ids"]]
    if budget_tokens < max(lengths):
        raise InputError(
            f"`budget_tokens` must be at least the longest row ({max(lengths)} tokens), got {budget_tokens}; nothing "
            "could be trained; raise it."
        )
    chosen, left = [], budget_tokens
    for index in _passes(len(rows), seed):
        if lengths[index] > left:
            break
        chosen.append(index)
        left -= lengths[index]
    return rows.select(chosen)


class PolicySFTTrainer(CompositeCheckpoints, SFTTrainer):
    """`SFTTrainer` for the policy of a composite model: it trains its adapters and saves the composite.

    The policy is trained where it is, inside the composite, so that a callback can roll the composite out. Every
    checkpoint is a folder that `MFLLMForSimulation.from_pretrained` loads: adapters, ``config.json``, processor, card.

    Args:
        model: the composite, with adapters on the policy alone or without any.
        args: `SFTConfig`; `max_length` must hold every row, since a cut row has lost its answer.
        processing_class: its `MFLLMProcessor`.
        train_dataset: rows of `sft_rows`.
        eval_dataset: the same of validation events, or None.
        peft_config: LoRA to add to a model without adapters (``lora_config(model, roles=("policy",))``).
        card: what the model card says; to its `training` (command, settings of the data) the trainer adds what it
            knows. None writes no card.
        **kwargs: for `SFTTrainer` (callbacks, optimizers, ...).

    Raises:
        InputError: the adapters are not where they should be, or a row is too long.
    """

    _tag_names = ("mf_llm", "sft")  # type: ignore[assignment]

    def __init__(
        self,
        model: MFLLMForSimulation,
        args: SFTConfig,
        *,
        processing_class: MFLLMProcessor,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        peft_config: LoraConfig | None = None,
        card: CardData | None = None,
        **kwargs: Any,
    ) -> None:
        for name, rows in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            _check_lengths(name, rows, args.max_length)
        if peft_config is not None:
            set_seed(args.seed)  # the adapters are drawn at random
            add_adapters(model, peft_config)
        if not model.has_adapters("policy") or model.has_adapters("mean_field"):
            raise InputError(
                "`model` must have adapters on the policy and none on the mean-field model, got another model; the "
                'baseline trains the policy alone; give peft_config=lora_config(model, roles=("policy",)).'
            )
        model.config.simulation = {"signal": "none"}
        if args.include_num_input_tokens_seen == "no":
            args.include_num_input_tokens_seen = "non_padding"  # the budget's count, kept when a run is resumed
        # A copy, since TRL and transformers set special tokens of the tokenizer they are given.
        tokenizer = copy.deepcopy(processing_class.policy_tokenizer)
        padding = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self.composite, self.processor, self.card = model, processing_class, card
        caching = model.policy.config.use_cache
        super().__init__(
            model=model.policy,
            args=args,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=padding),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            **kwargs,
        )
        # The trainer switches it off, each forward pass does so too; in the checkpoint it would slow down simulation.
        model.policy.config.use_cache = caching

    def trained_model(self) -> MFLLMForSimulation:
        """The composite in evaluation mode, free of what TRL and accelerate put around the policy's ``forward``.

        The trainer cannot be used any more afterwards.
        """
        policy = self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)
        policy.__dict__.pop("forward", None)
        # Only the policy was moved to the trainer's device.
        return self.composite.to(self.accelerator.device).eval()


def _answers(
    transition: Mapping[str, Any],
    processor: MFLLMProcessor,
    *,
    target: str,
    limits: PromptLimits | None,
    seed: int,
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt and answer of the target people of one transition, as token ids."""
    answer, silent = answer_of(transition), set(transition["silent"])
    options = processor.option_ids(answer) if answer.options else []
    key = (seed, transition["event_id"], transition["draw"])
    orders: list[list[int] | None] = [None]
    if options:
        orders = [*option_orders(permutation(len(options), stream_key(*key, "option order")), 2)]
    prefixes = [
        processor.policy_prefix(transition["topic"], None, answer, order=order, limits=limits) for order in orders
    ]
    people = [p for p in transition["people"] if _has_target(p, answer.kind, target)]
    weights = [float(person["weight"]) for person in people]
    for n, i in enumerate(_resampled(weights, stream_key(*key, "people"))):
        person = people[i]
        ids = list(options[person["label"]]) if options else []
        if (
            target == "action"
            and answer.kind != "choice"
            and not (options and answer.options[person["label"]] in silent)
        ):
            ids += processor.text_ids(person["action"], limits=limits)
        state = json.loads(person["state"]) if person["state"] else {}
        yield prefixes[n % len(prefixes)] + processor.person_segment(state, answer, limits=limits), ids


def _has_target(person: Mapping[str, Any], kind: str, target: str) -> bool:
    if kind == "text":
        return target == "action" and bool(person["action"].strip())
    return person["label"] >= 0


def _resampled(weights: Sequence[float], key: int) -> list[int]:
    """Systematic resampling: index i stands floor or ceil of ``n w_i / sum w`` times; once where weights are equal."""
    if len(set(weights)) <= 1:
        return list(range(len(weights)))
    cumulative = np.cumsum(weights) / np.sum(weights) * len(weights)
    places = np.arange(len(weights)) + uniform_number(key)
    return [int(i) for i in np.searchsorted(cumulative, places, side="right").clip(max=len(weights) - 1)]


def _passes(n: int, seed: int) -> Iterator[int]:
    for number in count():
        yield from permutation(n, stream_key(seed, number, "budget"))


def _check_lengths(name: str, rows: Dataset | None, max_length: int | None) -> None:
    longest = max(map(len, rows["input_ids"]), default=0) if rows is not None else 0
    if max_length is not None and longest > max_length:
        raise InputError(
            f"`max_length` must hold every row, got {max_length} and a row of {longest} tokens in `{name}`; its "
            "answer would be cut off and never learned; raise it or set it to null, or lower `max_prompt_tokens`."
        )


def _other(target: str) -> str:
    return "action" if target == "label" else "label"


__all__ = ["PolicySFTTrainer", "count_tokens", "sft_rows", "within_budget"]
