"""The trainers of the benchmark's checkpoints, as its table asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mf_llm.benchmark.method_entry import check_keys

if TYPE_CHECKING:
    from datasets import Dataset

    from mf_llm.benchmark.training_runs import TrainingRuns
    from mf_llm.training import IBTuneTrainer, PolicySFTTrainer

# What of a run is no argument of a trainer.
_OF_THE_TABLE = ("start", "sft", "budget", "transitions", "data_sets", "max_transitions")


def ib_tune_trainer(runs: TrainingRuns, name: str, seed: int, transitions: Dataset) -> IBTuneTrainer:
    """The trainer of a run of IB-Tune."""
    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
    from mf_llm.training import IBTuneConfig, IBTuneTrainer, lora_config

    run, lora = runs.table["runs"][name], None
    folder = str(runs.folder_of(name, seed))
    arguments = _arguments(runs.table, run)
    check_keys(arguments, [f.name for f in fields(IBTuneConfig)], f"common and run {name!r}")
    config = IBTuneConfig(output_dir=folder, seed=seed, report_to="none", **arguments)
    if run.get("start"):
        start = str(runs.folder_of(run["start"], seed))
        model = MFLLMForSimulation.from_pretrained(start, is_trainable=True, dtype=runs.dtype)
    else:
        model = MFLLMForSimulation.from_backbones(runs.model, dtype=runs.dtype)
        lora = lora_config(model, **runs.table["adapters"])
    return IBTuneTrainer(
        model,
        config,
        processing_class=MFLLMProcessor.from_backbones(runs.model),
        train_dataset=transitions,
        peft_config=lora,
        transition_settings=runs.settings_of(name),
    )


def sft_trainer(runs: TrainingRuns, name: str, seed: int, transitions: Dataset, budget: int) -> PolicySFTTrainer:
    """The trainer of the supervised baseline, with a budget of tokens."""
    from trl import SFTConfig

    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor
    from mf_llm.training import PolicySFTTrainer, lora_config, sft_rows
    from mf_llm.training.sft import within_budget

    table, known = runs.table, {field.name for field in fields(SFTConfig)}
    arguments = {key: value for key, value in _arguments(table, table["runs"][name]).items() if key in known}
    # TRL's default of checkpointing would make the baseline slower.
    settings = {"gradient_checkpointing": False} | arguments | {"num_train_epochs": 1}
    folder = str(runs.folder_of(name, seed))
    config = SFTConfig(output_dir=folder, seed=seed, report_to="none", max_length=None, **settings)
    model = MFLLMForSimulation.from_backbones(runs.model, dtype=runs.dtype)
    processor = MFLLMProcessor.from_backbones(runs.model)
    rows = sft_rows(transitions, processor, target=table["common"]["target"], seed=seed)
    return PolicySFTTrainer(
        model,
        config,
        processing_class=processor,
        train_dataset=within_budget(rows, budget, seed=seed),
        peft_config=lora_config(model, roles=("policy",), **table["adapters"]),
    )


def _arguments(table: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """What the table says to the trainer."""
    return {**table["common"], **{key: value for key, value in run.items() if key not in _OF_THE_TABLE}}
