"""What a run of `IBTuneTrainer` costs, said before it starts: steps, tokens and, from a short measurement, time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mf_llm.models.prompts import SUMMARISE
from mf_llm.simulation.estimate import duration
from mf_llm.simulation.keyed_draws import keyed_sample, stream_key
from mf_llm.simulation.signal_draws import draw_signals
from mf_llm.simulation.signals import shown_signal
from mf_llm.training.signal_store import TOGETHER

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation
    from mf_llm.training.data_collator import Transition
    from mf_llm.training.ib_tune_config import IBTuneConfig
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer
    from mf_llm.training.token_tree import PackedTrees

MAX_SAMPLED = 32
# The passes are measured with more transitions at a time until they take this long, or are a whole batch.
ENOUGH_SECONDS = 2.0
_DECODED = 8
TRAINED = ("mean_field", "policy")
FORWARD_ALONE = ("relevance", "prior", "base")
DRAWING = ("prompts", "drawn")
_TURN = "estimate"

Roles = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """What a run costs. Tokens are those of the whole run, over all processes.

    Attributes:
        transitions: transitions there are.
        sampled: transitions that were looked at; the others are taken to be like them.
        schedule: what is trained when.
        steps: optimiser steps.
        role_steps: role -> optimiser steps that train it.
        batch: transitions per optimiser step.
        processes: processes that share the work.
        tokens: "mean_field", "policy" (read forward and backward), "relevance" (signals weighed by the policy),
            "prior", "base" (the policy without adapters, for the anchor), "prompts" (signals are drawn from) -> tokens
            that are read; "drawn" -> tokens of signals, if each is as long as it may be.
        seconds: of the whole run, without evaluations and simulated histories.
        measured_in: seconds that the measurement took.
    """

    transitions: int
    sampled: int
    schedule: str
    steps: int
    role_steps: Mapping[str, int]
    batch: int
    processes: int
    tokens: Mapping[str, int]
    seconds: float
    measured_in: float

    def __str__(self) -> str:
        """Three lines for the terminal."""
        tokens, together = self.tokens, f" over {self.processes} processes" if self.processes > 1 else ""
        steps = ", ".join(f"{n} train the {_words(role)}" for role, n in self.role_steps.items() if n)
        trained = ", ".join(f"{tokens[role]:,} {_words(role)}" for role in TRAINED if tokens[role])
        others = [f"{tokens[name]:,} {name}" for name in FORWARD_ALONE if tokens[name]]
        if tokens["drawn"]:
            others.insert(0, f"{tokens['drawn']:,} drawn from {tokens['prompts']:,} of prompts")
        seen = f" (from {self.sampled} transitions)" if self.sampled < self.transitions else ""
        return (
            f"{self.transitions} transitions, schedule {self.schedule}: {self.steps} steps of {self.batch} transitions"
            f"{together}, of which {steps}.\n"
            f"At most about as many tokens{seen}: with a gradient {trained}; without {', '.join(others) or 'none'}.\n"
            f"About {duration(self.seconds)} without evaluations, as measured here in {duration(self.measured_in)}."
        )


def estimate_training(trainer: IBTuneTrainer) -> TrainingEstimate:
    """Counts the tokens of a keyed sample of the transitions, and measures a forward and backward pass and decoding.

    The model, its gradients and all random states are left as they were.

    Args:
        trainer: before its training.
    """
    args, dataset = trainer.args, trainer.train_dataset
    sample = [dataset[i] for i in keyed_sample(len(dataset), MAX_SAMPLED, stream_key(args.seed, _TURN))]
    signal = _stand_in(trainer)
    with _left_as_it_was(trainer) as model:
        steps, per_step = _steps(trainer)
        kinds = _steps_of_each_kind(args, steps)
        start = time.perf_counter()
        speed = _measure(trainer, model, sample, signal)
        draws = {roles: _Draws.of(trainer, roles, count * per_step) for roles, count in kinds.items()}
        seconds = sum(one.seconds(trainer, model, sample, signal) for one in draws.values())
        measured_in = time.perf_counter() - start
    tokens = Counter[str]()
    for roles, count in kinds.items():
        made = count * per_step
        # What needs no gradient is done once for all updates with the same signals.
        times = dict.fromkeys(TRAINED, made) | dict.fromkeys(FORWARD_ALONE, made / args.updates_per_draw)
        times |= dict.fromkeys(DRAWING, draws[roles].transitions)
        tokens.update({name: n * times[name] for name, n in _tokens(trainer, sample, roles, signal).items()})
    return TrainingEstimate(
        transitions=len(dataset),
        sampled=len(sample),
        schedule=args.schedule,
        steps=steps,
        role_steps={role: sum(n for roles, n in kinds.items() if role in roles) for role in TRAINED},
        batch=_batch(args),
        processes=args.world_size,
        tokens={name: round(tokens[name]) for name in (*TRAINED, *FORWARD_ALONE, *DRAWING)},
        seconds=seconds + sum(tokens[name] * speed[name] for name in speed) / args.world_size,
        measured_in=measured_in,
    )


@dataclass(frozen=True)
class _Draws:
    """The draws in steps that train some roles.

    Attributes:
        transitions: transitions whose signals are drawn, over all processes.
        together: transitions whose signals one process draws together.
        count: K, signals of each.
    """

    transitions: float
    together: int
    count: int

    @classmethod
    def of(cls, trainer: IBTuneTrainer, roles: Roles, transitions: float) -> _Draws:
        args, size = trainer.args, len(trainer.train_dataset)
        drawn, together = transitions / args.updates_per_draw, args.train_batch_size
        if args.schedule in ("sequential", "policy") and roles == ("policy",):
            # The mean field stands still: signals are drawn ahead, and kept (see `SignalStore`).
            together = min(TOGETHER, size) if args.world_size == 1 else together
            drawn = min(math.ceil(drawn / together) * together, size * args.world_size)
        return cls(drawn if args.has_text else 0.0, together, args.num_signals if "mean_field" in roles else 1)

    def seconds(
        self, trainer: IBTuneTrainer, model: MFLLMForSimulation, sample: Sequence[Transition], signal: list[int]
    ) -> float:
        """Seconds of decoding signals in the whole run; reading their prompts is left out."""
        history = max(len(transition["history"]) for transition in sample)
        if not self.transitions or not history:
            return 0.0
        # The earlier steps of a history get one signal each.
        rows = [self.together] * (history - 1) + [self.together * self.count]
        measured = {n: _decoding(trainer, model, signal[:1], n) for n in dict.fromkeys(rows)}
        draws = self.transitions / self.together / trainer.args.world_size
        return draws * len(signal) * sum(measured[n] for n in rows)


def _batch(args: IBTuneConfig) -> int:
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def _steps(trainer: IBTuneTrainer) -> tuple[int, float]:
    """Optimiser steps of the run, and transitions in one of them on average: the last of an epoch may hold fewer."""
    args = trainer.args
    per_epoch = max(math.ceil(len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps), 1)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    return steps, min(_batch(args), len(trainer.train_dataset) * args.updates_per_draw / per_epoch)


def _steps_of_each_kind(args: IBTuneConfig, steps: int) -> dict[Roles, int]:
    """Roles that are trained together -> number of optimiser steps that train them."""
    first = {"sequential": args.mean_field_steps(steps), "alternate": math.ceil(steps / 2)}
    if args.schedule not in first:
        return {args.trains: steps}
    kinds = {("mean_field",): first[args.schedule], ("policy",): steps - first[args.schedule]}
    return {roles: count for roles, count in kinds.items() if count}


def _stand_in(trainer: IBTuneTrainer) -> list[int]:
    """The tokens of a signal as long as it may be, in the place of all that will be drawn."""
    tokenizer = trainer.preparer.collator.processor.tokenizer_of("mean_field")
    ids = tokenizer(f"{SUMMARISE} ", add_special_tokens=False)["input_ids"]
    longest = trainer.args.signal_max_tokens
    return (ids * math.ceil(longest / len(ids)))[:longest]


def _tokens(trainer: IBTuneTrainer, sample: Sequence[Transition], roles: Roles, signal: list[int]) -> dict[str, float]:
    """Tokens per transition in a step that trains some roles; see `TrainingEstimate.tokens`."""
    args, total = trainer.args, Counter[str]()
    trains_mean_field = "mean_field" in roles
    n_signals = args.num_signals if trains_mean_field else 1
    for transition in sample:
        steps = len(transition["history"]) if args.has_text else 0
        policy = _packed(trainer, "policy", [transition], signal).n_tokens
        if "policy" in roles:
            total["policy"] += policy
            total["base"] += policy * args.anchored
        if not steps:
            continue
        total["prompts"] += sum(len(_prompt(trainer, transition, step, signal)) for step in range(steps))
        total["drawn"] += (steps - 1 + n_signals) * len(signal)
        if trains_mean_field:
            total["mean_field"] += _packed(trainer, "mean_field", [transition], signal).n_tokens
            total["prior"] += _packed(trainer, "prior", [transition], signal).n_tokens
            total["relevance"] += policy * n_signals
            total["base"] += policy * n_signals * args.anchored
    return {name: total[name] / len(sample) for name in (*TRAINED, *FORWARD_ALONE, *DRAWING)}


def _prompt(trainer: IBTuneTrainer, transition: Transition, step: int, signal: list[int]) -> list[int]:
    return trainer.preparer.collator.mean_field_prompt(transition, step, _text(trainer, signal) if step else None)


def _text(trainer: IBTuneTrainer, signal: list[int]) -> str:
    return trainer.preparer.collator.processor.read_answer("mean_field", signal)


def _packed(trainer: IBTuneTrainer, what: str, transitions: Sequence[Transition], signal: list[int]) -> PackedTrees:
    """What a step reads of some transitions: "policy", "mean_field" or "prior"."""
    args, collator = trainer.args, trainer.preparer.collator
    if what == "policy":
        text = _text(trainer, signal) if args.has_text else None
        shown = [shown_signal(args.signal, transition["statistics"], text) for transition in transitions]
        return collator.pack("policy", [one.tree for one in collator.policy_trees(transitions, shown, _TURN)])
    if what == "prior":
        prompts = [
            collator.processor.mean_field_prior_prompt(transition["topic"], limits=collator.limits)
            for transition in transitions
        ]
    else:
        prompts = [_prompt(trainer, one, len(one["history"]) - 1, signal) for one in transitions]
    return collator.pack("mean_field", collator.signal_trees(prompts, [[signal] * args.num_signals] * len(prompts)))


def _measure(
    trainer: IBTuneTrainer, model: MFLLMForSimulation, sample: Sequence[Transition], signal: list[int]
) -> dict[str, float]:
    """Name of some tokens -> seconds per token, of reading alone or with a gradient."""
    args = trainer.args
    told = [transition for transition in sample if transition["history"]] if args.has_text else []
    forward, both = {}, {}
    for role, batch in (("policy", sample), ("mean_field", told)):
        if not batch:
            continue
        most = 1 if args.gradient_checkpointing else min(args.train_batch_size, len(batch))
        trained, size = role in args.trains, 1
        while True:
            packed = _packed(trainer, role, batch[:size], signal)
            if size == 1:
                _pass(trainer, model, role, packed, backward=False)  # the first of its kind is slower
            taken = _pass(trainer, model, role, packed, backward=False)
            forward[role] = taken / packed.n_tokens
            if trained:
                again = taken if args.gradient_checkpointing else 0.0  # everything is computed forward twice
                taken = again + _pass(trainer, model, role, packed, backward=True)
                both[role] = taken / packed.n_tokens
            if size == most or taken > ENOUGH_SECONDS:
                break
            size = min(4 * size, most)
    speed = {role: both.get(role, 0.0) for role in TRAINED}
    speed |= {"relevance": forward["policy"], "base": forward["policy"]}
    return speed | dict.fromkeys(("prior", "prompts"), forward.get("mean_field", 0.0))


def _pass(
    trainer: IBTuneTrainer, model: MFLLMForSimulation, role: str, packed: PackedTrees, *, backward: bool
) -> float:
    """Seconds of a pass."""
    model.train(backward)
    start = _now(model)
    with torch.set_grad_enabled(backward), trainer.compute_loss_context_manager():
        output = model(**packed.model_inputs(role, model.device))
        loss = packed.log_probs(getattr(output, f"{role}_logits")).sum()
    if backward:
        loss.backward()
    return _now(model) - start


def _decoding(trainer: IBTuneTrainer, model: MFLLMForSimulation, prompt: list[int], rows: int) -> float:
    """Seconds of one step that decodes a token of each of some signals."""
    # The end is no token, so that every row goes on.
    keys = [[stream_key(_TURN, row)] for row in range(rows)]
    options: dict[str, Any] = {"temperature": trainer.args.signal_temperature, "end_ids": [-1]}
    backbone, taken = model.backbone("mean_field"), []
    for length in (1, 1, 1 + _DECODED):  # the first call is slower
        start = _now(model)
        draw_signals(backbone, [prompt] * rows, keys, max_new_tokens=length, **options)
        taken.append(_now(model) - start)
    return max(taken[2] - taken[1], 0.0) / _DECODED


def _now(model: MFLLMForSimulation) -> float:
    """The time at which the device has done what it was given."""
    if model.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


@contextmanager
def _left_as_it_was(trainer: IBTuneTrainer) -> Iterator[MFLLMForSimulation]:
    model, device = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.device
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield model
    finally:
        model.zero_grad(set_to_none=True)
        for module, training in modes:
            module.training = training


def _words(role: str) -> str:
    return role.replace("_", " ")
