"""`IBTuneTrainer`: the Hugging Face `Trainer` with the information bottleneck of both roles as its loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, get_scheduler, set_seed

from mf_llm.errors import InputError
from mf_llm.events import Event
from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.attention_windows import takes_trees
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.training.batch_preparation import BatchPreparer, PreparedBatch, simulation_options
from mf_llm.training.card_data import CardData
from mf_llm.training.composite_checkpoints import CompositeCheckpoints
from mf_llm.training.data_collator import DataCollatorForIBTune
from mf_llm.training.ib_tune_config import BOTTLENECK_FIELDS, IBTuneConfig
from mf_llm.training.lora import add_adapters, check_adapters
from mf_llm.training.losses import LossParts, mean_field_loss
from mf_llm.training.policy_scores import policy_loss, policy_scores
from mf_llm.training.repeated_batches import RepeatedBatches
from mf_llm.training.sharded_models import as_one_group, check_sharding, gathered
from mf_llm.training.signal_file import SIGNALS_FILE, SignalFile
from mf_llm.training.signal_sampler import SignalSampler
from mf_llm.training.signal_store import SignalStore
from mf_llm.training.transition_settings import TransitionSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig

_LOSSES = ("label_nll", "policy_nll", "population_kl", "rate", "ratio", "relevance", "reward", "reward_std")
_PARTS = (*_LOSSES, "signal_tokens", "text_nll")


class IBTuneTrainer(CompositeCheckpoints, Trainer):
    """Fine-tunes policy and mean field with the bottleneck of method section 3.

    One step: the signals of a batch of transitions are drawn from the current mean-field model; the policy is trained
    on one of them, and the mean field by how much each of its K signals says about the people who act next, less what
    it costs in nats. See `mf_llm.training.losses` for the objective.

    Both roles need adapters: the prior, the anchor's base and the reference are the same weights with adapters off.

    Args:
        model: the model, with or without adapters.
        args: an `IBTuneConfig`.
        processing_class: its `MFLLMProcessor`.
        train_dataset, eval_dataset: rows of `build_transitions`.
        peft_config: LoRA to add to a model without adapters (see `lora_config`).
        events: data set name -> events; needed for `simulated_history`.
        transition_settings: how `train_dataset` was made; needed for the same if not by default.
        card: what the model card says; to its `training` (command, settings of the data) the trainer adds what it
            knows. None writes no card.
        **kwargs: as for `Trainer` (callbacks, optimizers, ...).

    Raises:
        InputError: a role that is to be trained has no adapters, or data are missing.
    """

    args: IBTuneConfig
    model: MFLLMForSimulation
    data_collator: DataCollatorForIBTune
    train_dataset: Any
    _drawn: list[PreparedBatch]  # by micro-batch, as long as they are used again
    _micro: tuple[int, int]  # the step, and the number of its micro-batch
    _tag_names = ("mf_llm", "ib-tune")
    card_fields = BOTTLENECK_FIELDS
    # compute_loss returns a mean over transitions: the Trainer is to divide by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: MFLLMForSimulation,
        args: IBTuneConfig,
        *,
        processing_class: MFLLMProcessor,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        peft_config: PeftConfig | None = None,
        events: Mapping[str, Sequence[Event]] | None = None,
        transition_settings: TransitionSettings | None = None,
        card: CardData | None = None,
        **kwargs: Any,
    ) -> None:
        if peft_config is not None:
            if any(model.has_adapters(role) for role in ("policy", "mean_field")):
                raise InputError("`peft_config` must be None for a model that has adapters already; leave it out.")
            set_seed(args.seed)  # the adapters are drawn at random
            # The wrapper is not kept: the composite carries the adapters, and saves and loads them itself.
            add_adapters(model, peft_config)
        check_adapters(model, args)
        for role in ("policy", "mean_field"):
            if role not in args.trains and model.has_adapters(role):
                model.freeze(role)
        self._use_sampler_of_training(model, args)
        model.config.simulation = simulation_options(args, transition_settings)
        if args.simulated_history > 0 and events is None:
            raise InputError(
                "`events` must be given with simulated_history > 0, got None; histories are rolled on from them."
            )
        collator = DataCollatorForIBTune(
            processing_class,
            target=args.target,
            max_texts=args.max_texts,
            seed=args.seed,
            limits=PromptLimits(max_prompt_tokens=args.max_prompt_tokens),
            shared={role: takes_trees(model.backbone(role)) for role in ("policy", "mean_field")},
        )
        self._sums: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self._eval_sums: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self._last_parts: dict[str, float] = {}
        self._policy_tokens = 0
        self.composite, self.card = model, card
        super().__init__(
            model=model,
            args=args,
            data_collator=kwargs.pop("data_collator", None) or collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        # Not the Trainer's `processing_class`: it would align the special tokens of one tokenizer with the composite.
        self.processor = processing_class
        self.can_return_loss = True
        model.config.__dict__.pop("use_cache", None)  # set by the Trainer; each backbone has its own
        sampler = SignalSampler(
            model.backbone("mean_field"),
            self.data_collator,
            temperature=args.signal_temperature,
            max_new_tokens=args.signal_max_tokens,
            seed=args.seed,
            batch_tokens=args.scoring_tokens,
        )
        by_id = {(name, event.event_id): event for name, members in (events or {}).items() for event in members}
        self.preparer = BatchPreparer(self.data_collator, sampler, args, by_id, transition_settings)
        self._forget_draws()

    # -- what is trained when -----------------------------------------------------------------------------------------

    def roles_of(self, step: int) -> tuple[str, ...]:
        """The roles that optimiser step `step` trains."""
        if self.args.schedule == "sequential":
            return ("mean_field",) if step < self.args.mean_field_steps(self.state.max_steps) else ("policy",)
        if self.args.schedule == "alternate":
            return ("mean_field",) if step % 2 == 0 else ("policy",)
        return self.args.trains

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """With `mean_field_learning_rate`, the mean field's parameters are groups of their own."""
        is_new, rate = self.optimizer is None, self.args.mean_field_learning_rate
        optimizer = super().create_optimizer(model)
        if is_new and rate is not None:
            of_mean_field = {id(parameter) for parameter in self.composite.backbone("mean_field").parameters()}
            for group in list(optimizer.param_groups):
                own = [parameter for parameter in group["params"] if id(parameter) in of_mean_field]
                if own:
                    group["params"] = [one for one in group["params"] if id(one) not in of_mean_field]
                    optimizer.add_param_group({**group, "params": own, "lr": rate})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """In the sequential schedule each role gets the whole learning-rate schedule within its own steps."""
        first = self.args.mean_field_steps(num_training_steps)
        if self.args.schedule != "sequential" or first in (0, num_training_steps) or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        phases = [first, num_training_steps - first]
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        options: Any = self.args.lr_scheduler_kwargs
        factors = []
        for steps in phases:
            scratch = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            one = get_scheduler(
                self.args.lr_scheduler_type,
                optimizer=scratch,
                num_warmup_steps=self.args.get_warmup_steps(steps),
                num_training_steps=steps,
                scheduler_specific_kwargs=options,
            )
            if not isinstance(one, LambdaLR):
                return super().create_scheduler(num_training_steps, optimizer)
            factors.append(one.lr_lambdas[0])
        self.lr_scheduler = LambdaLR(
            optimizer, lambda step: factors[0](step) if step < first else factors[1](step - first)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        sampler: Any = super()._get_train_sampler(train_dataset)
        if self.args.updates_per_draw == 1 or sampler is None:
            return sampler
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return RepeatedBatches(sampler, size, self.args.updates_per_draw)

    # -- preparing a batch --------------------------------------------------------------------------------------------

    def _prepare_inputs(self, inputs: dict[str, Any]) -> PreparedBatch:  # type: ignore[override]
        """Draws the signals of a batch, once per `updates_per_draw` steps in training."""
        transitions = inputs["transitions"]
        if not self.model.training:
            with self._whole_model() as model, self.accelerator.autocast():
                return self.preparer.prepare(model, transitions, self.args.trains, "evaluation")
        _switch_off_dropout(self.accelerator.unwrap_model(self.model).backbone("mean_field"))
        step = self.state.global_step
        micro = self._micro[1] + 1 if self._micro[0] == step else 0
        self._micro = (step, micro)
        roles, draw = self.roles_of(step), step // self.args.updates_per_draw
        if step % self.args.updates_per_draw and micro < len(self._drawn) and self._drawn[micro].roles == roles:
            return self._drawn[micro]
        # In the precision of the loss, so that what is drawn from is what is scored.
        with self._whole_model() as model, self.accelerator.autocast():
            model.eval()
            try:
                rolled_on = self.preparer.rolled_on(model, transitions, draw)
                prepared = self.preparer.prepare(model, rolled_on, roles, draw)
            finally:
                model.train()
                _switch_off_dropout(model.backbone("mean_field"))
        self._drawn = [*self._drawn[:micro], prepared]
        return prepared

    def _forget_draws(self) -> None:
        self._drawn, self._micro = [], (-1, 0)
        if self.args.has_text and self.args.schedule in ("sequential", "policy") and self.train_dataset is not None:
            ahead = self.args.world_size == 1
            # Of each process its own: another one draws for other transitions. Sharded weights have no fingerprint.
            name = SIGNALS_FILE.format(process=self.args.process_index)
            file = None if self.is_fsdp_enabled else SignalFile(Path(str(self.args.output_dir)) / name)
            self.preparer.store = SignalStore(self.preparer.sampler, self.train_dataset, ahead=ahead, file=file)

    # -- losses -------------------------------------------------------------------------------------------------------

    def compute_loss(  # type: ignore[override]
        self,
        model: torch.nn.Module,
        inputs: PreparedBatch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """One call of the wrapped model for all roles of the step; the loss is a mean over transitions."""
        device = self.accelerator.device
        arguments: dict[str, Any] = {}
        if inputs.policy is not None:
            arguments |= inputs.policy[1].model_inputs("policy", device)
        if inputs.mean_field is not None:
            arguments |= inputs.mean_field.model_inputs("mean_field", device)
        if not arguments:
            raise InputError(
                "`train_dataset` must hold transitions with a history to train the mean field, got a batch without; "
                "nothing was said that could be summarised; leave out transitions with warm_up 0."
            )
        output = model(**arguments)
        losses: list[LossParts] = []
        if inputs.mean_field is not None:
            losses.append(self._mean_field_loss(inputs, output.mean_field_logits))
        if inputs.policy is not None:
            losses.append(self._policy_loss(inputs, output.policy_logits))
        self._record({key: value for one in losses for key, value in one.parts.items()}, inputs)
        loss = torch.stack([one.loss for one in losses]).sum()
        return (loss, output) if return_outputs else loss

    def _mean_field_loss(self, inputs: PreparedBatch, logits: torch.Tensor) -> LossParts:
        assert inputs.mean_field is not None and inputs.log_r is not None and inputs.relevance is not None
        log_q = inputs.mean_field.log_probs(logits, self.args.signal_temperature).view(inputs.log_r.shape)
        loss = mean_field_loss(
            log_q,
            inputs.log_r,
            inputs.relevance,
            beta=self.args.beta,
            old_log_q=inputs.old_log_q,
            max_ratio=self.args.max_ratio,
        )
        if inputs.old_log_q is None:
            inputs.old_log_q = log_q.detach()
        return loss

    def _policy_loss(self, inputs: PreparedBatch, logits: torch.Tensor) -> LossParts:
        assert inputs.policy is not None
        trees, packed = inputs.policy
        values = packed.log_probs(logits).sum(-1).split([len(tree.tree.score_rows) for tree in trees])
        base: Sequence[torch.Tensor | None] = inputs.base or [None] * len(trees)
        scores = [
            policy_scores(tree, transition, value, one, temperature=self.args.choice_temperature)
            for tree, transition, value, one in zip(trees, inputs.transitions, values, base, strict=True)
        ]
        weights = {name: getattr(self.args, name) for name in ("lambda_population", "lambda_perturbation")}
        return policy_loss(scores, **weights)

    def _record(self, parts: dict[str, float], inputs: PreparedBatch) -> None:
        if inputs.signal_tokens is not None:
            parts["signal_tokens"] = inputs.signal_tokens
        sums = self._sums if self.model.training else self._eval_sums
        if self.model.training and inputs.policy is not None:
            self._policy_tokens += inputs.policy[1].n_tokens
        self._last_parts = parts
        for key, value in parts.items():
            sums[key].append((value, len(inputs.transitions)))

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but the dropout of later training does not depend on it."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, None, None]:
        """The validation loss: that of the policy, or the mean field's objective where it is trained alone.

        The surrogate of the mean field has a useful gradient and a meaningless value, so it is left out.
        """
        prepared = self._prepare_inputs(inputs)
        with torch.no_grad():
            self.compute_loss(model, prepared)
        last = self._last_parts
        if "policy" in self.args.trains:
            value = last["policy_nll"] + self.args.lambda_population * last.get("population_kl", 0.0)
            value += self.args.lambda_perturbation * last.get("perturbation", 0.0)
        else:
            value = -last["reward"]
        return torch.tensor(value, device=self.accelerator.device), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the named parts since the last log, over all processes."""
        if "loss" in logs or "train_loss" in logs:
            self._count_tokens()
        if "loss" in logs:
            logs |= self._means(self._sums)
        elif any(key.startswith("eval_") for key in logs) and self._eval_sums:
            logs |= {f"eval_{key}": value for key, value in self._means(self._eval_sums).items()}
        super().log(logs, start_time)

    def _count_tokens(self) -> None:
        """Adds the policy's tokens with a gradient, of all processes, to ``state.num_input_tokens_seen``."""
        counted = torch.tensor([self._policy_tokens], device=self.accelerator.device)
        self.state.num_input_tokens_seen += int(self.accelerator.reduce(counted, reduction="sum"))
        self._policy_tokens = 0

    def _means(self, sums: dict[str, list[tuple[float, int]]]) -> dict[str, float]:
        # All names, since a part that this process had no people for may be known to another.
        rows = [[sum(v * n for v, n in sums[name]), sum(n for _, n in sums[name])] for name in _PARTS]
        local = torch.tensor(rows, dtype=torch.float32)
        sums.clear()
        total = self.accelerator.reduce(local.to(self.accelerator.device), reduction="sum")
        return {name: float(part / n) for name, (part, n) in zip(_PARTS, total, strict=True) if n}

    # -- model --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _whole_model(self) -> Iterator[MFLLMForSimulation]:
        """The composite outside its wrapper, for work without gradients; sharded parameters are gathered."""
        model = self.accelerator.unwrap_model(self.model)
        with gathered(model):
            yield model

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        self._forget_draws()
        if not self.is_fsdp_enabled:
            return super()._prepare_for_training(*args, **kwargs)
        check_sharding(self.accelerator.state.fsdp_plugin)
        with as_one_group(self.composite):
            return super()._prepare_for_training(*args, **kwargs)

    @staticmethod
    def _use_sampler_of_training(model: MFLLMForSimulation, args: IBTuneConfig) -> None:
        """Rollouts draw signals from the very distribution that is trained."""
        if args.has_text:
            model.generation_config_of("mean_field").update(
                do_sample=True,
                temperature=args.signal_temperature,
                top_k=0,
                top_p=1.0,
                min_p=None,
                typical_p=1.0,
                repetition_penalty=1.0,
                max_new_tokens=args.signal_max_tokens,
            )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self._count_tokens()  # the state is part of the checkpoint
        super()._save_checkpoint(model, trial)


def _switch_off_dropout(backbone: torch.nn.Module) -> None:
    """The q that is scored must be the q that was drawn from: that in evaluation mode."""
    backbone.eval()
    for module in backbone.modules():
        # A layer checkpoints in training mode alone; what is inside it stays in evaluation mode.
        module.training = bool(getattr(module, "gradient_checkpointing", False))
