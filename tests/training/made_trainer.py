"""A tiny model in training: quick settings of `IBTuneTrainer`, shared by its tests and by their child processes."""

import os
from pathlib import Path

import torch
from datasets import Dataset
from made_transitions import build, made_event
from transformers import TrainerCallback

from mf_llm import MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.training.ib_tune_config import IBTuneConfig
from mf_llm.training.ib_tune_trainer import IBTuneTrainer
from mf_llm.training.lora import add_adapters, lora_config
from mf_llm.training.transition_settings import TransitionSettings

ROLES = ("policy", "mean_field")
SETTINGS = TransitionSettings(agents_per_step=4, warm_ups=(8, 12), max_history_steps=2, max_people=6)
# What differs between two runs of the same training, and between a run and its resumption.
CLOCK = ("runtime", "per_second", "train_loss", "preparation_time", "total_flos")


def events(n=4, split="train", **fields):
    """Events `<split>-0`, `<split>-1`, ..."""
    return [made_event(f"{split}-{i}", 28, split=split, **fields) for i in range(n)]


def rows(n=4, split="train", silent=()) -> Dataset:
    """One transition of each of n events; in those numbered in `silent` nobody writes anything."""
    both = [*events(n), *(events(n, split) if split != "train" else [])]
    found = build(*both, split=split, **vars(SETTINGS))
    return Dataset.from_list([row | {"silent": row["options"] if i in silent else []} for i, row in enumerate(found)])


def backbone(folder, family="qwen2") -> str:
    """A tiny backbone on disk."""
    return str(save_tiny_backbone(Path(folder) / family, family))


def new_model(base, *, tied=True, dtype="float32", roles=ROLES, spread=0.1, r=4, dropout=0.0) -> MFLLMForSimulation:
    """The model on a backbone's folder, with adapters: both halves at random, the second with deviation `spread`."""
    model = MFLLMForSimulation.from_backbones(base, tie_backbones=tied, dtype=dtype)
    if roles:
        torch.manual_seed(0)
        lora = lora_config(model, r=r, alpha=2 * r, roles=roles, dropout=dropout)
        model = add_adapters(model, lora).get_base_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def config(folder, **changes) -> IBTuneConfig:
    """Quick settings: one optimiser step is two transitions, two signals each."""
    quick = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "seed": 3,
        "schedule": "joint",
        "num_signals": 2,
        "signal_max_tokens": 5,
        "beta": 8.0,
        "max_prompt_tokens": 400,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    return IBTuneConfig(**(quick | changes))


def trainer_of(base, folder, *, model=None, data=None, evaluated=None, options=None, **changes) -> IBTuneTrainer:
    """A trainer on a backbone's folder; `options` are those of the trainer, `changes` those of its configuration."""
    return IBTuneTrainer(
        model if model is not None else new_model(base),
        config(folder, **changes),
        processing_class=MFLLMProcessor.from_backbones(base),
        train_dataset=data if data is not None else rows(),
        eval_dataset=evaluated,
        transition_settings=SETTINGS,
        **(options or {}),
    )


def trained(base, folder, *, resume=None, **options) -> IBTuneTrainer:
    """As `trainer_of`, after training."""
    trainer = trainer_of(base, folder, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(model) -> dict[str, torch.Tensor]:
    """A copy of all parameters, or of this process's part of them."""
    parts = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {name: (part.to_local() if hasattr(part, "to_local") else part).clone() for name, part in parts.items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parameters that are no longer bit for bit what they were."""
    assert before.keys() == after.keys()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def adapters(model, role=None) -> set[str]:
    """The names of the adapters' parameters, of one role or of both."""
    return {name for name, _ in model.named_parameters() if "lora_" in name and name.startswith(role or ROLES)}


def history(trainer) -> list[dict]:
    """What was logged, without what the clock says."""
    return [{k: v for k, v in entry.items() if not k.endswith(CLOCK)} for entry in trainer.state.log_history]


def child_environment() -> dict[str, str]:
    """That of a child process that imports what its parent imports, and computes as it does."""
    folders = [str(Path(__file__).parents[1] / "simulation"), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = str(torch.get_num_threads())
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": threads}


class Changes(TrainerCallback):
    """Notes after each optimiser step whose adapters changed in it."""

    def __init__(self):
        self.steps, self._before = [], {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._before = weights(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        after = weights(model)
        names = changed(self._before, after)
        self.steps.append(sorted(role for role in ROLES if names & adapters(model, role)))
        self._before = after
