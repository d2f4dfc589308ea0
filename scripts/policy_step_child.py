"""One measured run of a training step, in a process of its own, for ``benchmark_policy_step.py``.

    python scripts/policy_step_child.py SETTINGS REPORT

SETTINGS is the JSON of `Settings`; REPORT is a file that gets the JSON of what was measured.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar

from mf_llm.atomic_files import write_json
from mf_llm.events import load_event_sets
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.training.lora import lora_config
from mf_llm.training.transition_settings import TransitionSettings
from mf_llm.training.transitions import build_transitions


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        method: "sft" (``trl.SFTTrainer`` on the backbone alone), "sft-lean" (the same, with logits of labelled tokens
            alone) or "ib-tune".
        signal, anchored: of IB-Tune.
        rows: rows of a step of SFT; transitions of a step of IB-Tune.
        n_transitions: transitions that both are made of.
        steps: measured optimiser steps, after `updates_per_draw` that are not counted.
        updates_per_draw: of IB-Tune.
    """

    method: str
    rows: int
    n_transitions: int
    steps: int
    events: str
    model: str
    dtype: str = "auto"
    signal: str = "both"
    anchored: bool = False
    updates_per_draw: int = 1
    signal_max_tokens: int = 48
    lora_r: int = 8
    gradient_checkpointing: bool = False
    seed: int = 0


@dataclass
class Step:
    """One optimiser step: seconds of its parts, and what went through the policy with a gradient."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    prepare: float = 0.0
    draw: float = 0.0
    draw_cpu: float = 0.0
    drawn_for: int = 0
    base: float = 0.0
    tokens: int = 0
    padded: int = 0
    people: int = 0
    drawn_tokens: int = 0


@dataclass
class Meter(TrainerCallback):
    """Seconds, tokens and memory of every step."""

    cuda: bool
    steps: list[Step] = field(default_factory=list)
    loaded: int = 0
    start: float = 0.0
    cpu_start: float = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        # What loading needed for a moment is none of training's doing.
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        self.loaded = self.now()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(Step())
        self.start, self.cpu_start = self.clock(), time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps[-1].seconds = self.clock() - self.start
        self.steps[-1].cpu_seconds = time.process_time() - self.cpu_start

    def clock(self) -> float:
        """Seconds, when everything that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def now(self) -> int:
        """Bytes in use: of the process (resident), or of tensors on the GPU."""
        return torch.cuda.memory_allocated() if self.cuda else _status("VmRSS")

    def peak(self) -> int:
        """The same at its highest since training began."""
        return torch.cuda.max_memory_allocated() if self.cuda else _status("VmHWM")

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds added to a part of the step."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            result = function(*args, **kwargs)
            setattr(self.steps[-1], part, getattr(self.steps[-1], part) + self.clock() - start)
            return result

        return call


def spread_draws(steps: Sequence[Step], per_step: float) -> None:
    """Charges every step with its share of all drawing, as if each transition came once in the run.

    Signals of many transitions are drawn together, ahead of the steps that need them and for all epochs.

    Args:
        steps: all steps of the run.
        per_step: transitions whose signals a step needs.
    """
    drawn_for = sum(step.drawn_for for step in steps)
    if not drawn_for:
        return
    totals = [sum(getattr(step, name) for step in steps) for name in ("draw", "draw_cpu", "drawn_tokens")]
    share, cpu_share, tokens = (total * per_step / drawn_for for total in totals)
    for step in steps:
        step.seconds += share - step.draw
        step.prepare += share - step.draw
        step.cpu_seconds += cpu_share - step.draw_cpu
        step.draw, step.draw_cpu, step.drawn_tokens = share, cpu_share, round(tokens)


def main() -> None:
    settings, report = Settings(**json.loads(sys.argv[1])), Path(sys.argv[2])
    disable_progress_bar()
    meter = Meter(torch.cuda.is_available())
    with tempfile.TemporaryDirectory() as folder:
        trainer = (ib_tune_trainer if settings.method == "ib-tune" else sft_trainer)(settings, meter, folder)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(meter)
        trainer.train()
    spread_draws(meter.steps, settings.rows / settings.updates_per_draw)
    parameters = list(trainer.model.named_parameters())
    trained = [p for name, p in parameters if p.requires_grad and "mean_field" not in name]
    write_json(
        report,
        {
            "steps": [asdict(step) for step in meter.steps[settings.updates_per_draw :]],
            "loaded": meter.loaded,
            "peak": meter.peak(),
            "device": torch.cuda.get_device_name() if meter.cuda else "cpu",
            "threads": torch.get_num_threads(),
            "dtype": str(next(p.dtype for name, p in parameters if "lora" not in name)),
            "adapter_parameters": sum(p.numel() for p in trained),
            "adapter_dtype": str(trained[0].dtype),
        },
    )


def transitions_of(settings: Settings) -> list[dict[str, Any]]:
    """Transitions with a history, the same for every method.

    Raises:
        ValueError: the events give fewer.
    """
    event_sets, per_event = load_event_sets(settings.events), 1
    while per_event <= settings.n_transitions:
        asked = TransitionSettings(
            transitions_per_event=per_event, transitions_per_survey=per_event, seed=settings.seed
        )
        rows = [row for row in build_transitions(event_sets, asked, split=None, cache=False) if row["history"]]
        if len(rows) >= settings.n_transitions:
            order = permutation(len(rows), stream_key(settings.seed, "benchmark"))
            return [rows[i] for i in order[: settings.n_transitions]]
        per_event *= 2
    raise ValueError(f"`events` must give {settings.n_transitions} transitions, got {len(rows)}; give more events.")


def ib_tune_trainer(settings: Settings, meter: Meter, folder: str) -> Trainer:
    """IB-Tune in the policy's part of the sequential schedule; both roles have adapters."""
    from mf_llm.models.loading import load_model_and_processor
    from mf_llm.training.ib_tune_config import IBTuneConfig
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer
    from mf_llm.training.transitions import transition_features

    model, processor = load_model_and_processor(settings.model, dtype=settings.dtype)
    text = settings.signal in ("text", "both")
    set_seed(settings.seed)
    trainer = IBTuneTrainer(
        model,
        IBTuneConfig(
            **_common(settings, folder),
            schedule="sequential" if text else "policy",
            mean_field_share=0.0,
            signal=settings.signal,
            anchored=settings.anchored,
            signal_max_tokens=settings.signal_max_tokens,
            updates_per_draw=settings.updates_per_draw,
        ),
        processing_class=processor,
        train_dataset=Dataset.from_list(transitions_of(settings), features=transition_features()),
        peft_config=lora_config(model, r=settings.lora_r),
    )
    preparer = trainer.preparer
    timed_draw = meter.timed("draw", preparer.sampler.draw)

    def draw(transitions: Any, *args: Any) -> Any:
        step, start = meter.steps[-1], time.process_time()
        drawn = timed_draw(transitions, *args)
        step.drawn_for += len(transitions)
        step.draw_cpu += time.process_time() - start
        return drawn

    preparer.sampler.draw = draw
    preparer._base_scores = meter.timed("base", preparer._base_scores)
    preparer.prepare = meter.timed("prepare", preparer.prepare)
    compute_loss = trainer.compute_loss

    def count_and_compute(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        step, packed = meter.steps[-1], inputs.policy[1]
        step.tokens += packed.n_tokens
        step.padded += packed.input_ids.numel()
        step.people += sum(len(transition["people"]) for transition in inputs.transitions)
        step.drawn_tokens = preparer.sampler.tokens_drawn - sum(one.drawn_tokens for one in meter.steps[:-1])
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = count_and_compute
    return trainer


def sft_trainer(settings: Settings, meter: Meter, folder: str) -> Trainer:
    """TRL's own trainer on the backbone alone, without anything of ours but the rows."""
    from torch import nn
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from mf_llm.models import MFLLMProcessor, load_backbone
    from mf_llm.training.sft import sft_rows

    backbone = load_backbone(settings.model, dtype=settings.dtype)
    if meter.cuda:
        backbone = backbone.to("cuda")
    processor = MFLLMProcessor.from_backbones(settings.model)
    rows = sft_rows(transitions_of(settings), processor, seed=settings.seed)
    lora = lora_config(nn.ModuleDict({"policy": backbone}), r=settings.lora_r, roles=("policy",))
    lora.target_modules = lora.target_modules.removeprefix(r"policy\.")
    tokenizer = processor.policy_tokenizer
    padding = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
    set_seed(settings.seed)
    trainer = (SFTTrainer if settings.method == "sft" else _lean(SFTTrainer))(
        model=backbone,
        args=SFTConfig(**_common(settings, folder), max_length=None),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=padding),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora,
    )
    compute_loss = trainer.compute_loss

    def count_and_compute(model: Any, inputs: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        step = meter.steps[-1]
        step.tokens += int(inputs["attention_mask"].sum())
        step.padded += inputs["input_ids"].numel()
        step.people += len(inputs["input_ids"])
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = count_and_compute
    return trainer


def _lean(trainer: type[Trainer]) -> type[Trainer]:
    """SFT whose logits are those of labelled tokens alone.

    TRL 1.16 does so where Triton runs. Elsewhere, on a CPU too, it takes the logits of every token of the prompt as
    well, which is slower and needs more memory than SFT has to.
    """

    class LeanSFT(trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> torch.Tensor:
            base, labels = self.accelerator.unwrap_model(model).get_base_model(), inputs["labels"][:, 1:]
            hidden = base.base_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).last_hidden_state
            wanted = labels != -100
            logits = base.get_output_embeddings()(hidden[:, :-1][wanted]).float()
            total = torch.nn.functional.cross_entropy(logits, labels[wanted], reduction="sum")
            return total / (wanted.sum() if num_items_in_batch is None else num_items_in_batch)

    return LeanSFT


def _common(settings: Settings, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": settings.rows,
        "max_steps": settings.steps + settings.updates_per_draw,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": False,  # no mixed precision: the base has its type already
        "learning_rate": 2e-4,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
        "use_cpu": not torch.cuda.is_available(),
    }


def _status(name: str) -> int:
    """A number of ``/proc/self/status`` in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024


if __name__ == "__main__":
    main()
