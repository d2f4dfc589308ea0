"""What both trainers share: their checkpoints are folders that `MFLLMForSimulation.from_pretrained` loads."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mf_llm.models.adapters import load_adapter_weights
from mf_llm.training.card_data import CardData, TrainingSummary
from mf_llm.training.hub_uploads import HubUploads
from mf_llm.training.model_card import write_model_card

if TYPE_CHECKING:
    from mf_llm.models import MFLLMForSimulation, MFLLMProcessor


class CompositeCheckpoints(HubUploads):
    """Mixin of a `Trainer` that saves adapters, configuration, processor and model card, and loads adapters again.

    Attributes:
        composite: the model as a whole, whatever part of it is trained.
        processor: its processor.
        card: what the model card says before the trainer adds what it knows; None writes no card.
        card_fields: names of arguments that are hyper-parameters of the card beside those of every trainer.
    """

    composite: MFLLMForSimulation
    processor: MFLLMProcessor
    card: CardData | None
    card_fields: tuple[str, ...] = ()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the card into the output folder; the arguments of transformers are not needed."""
        if self.is_world_process_zero():
            self._write_card(str(self.args.output_dir))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Not training_args.bin: nothing reads it back, and a pickle tells paths of this machine to the Hub.
        folder = output_dir or str(self.args.output_dir)
        if self.args.should_save:
            self.composite.save_pretrained(folder, state_dict=state_dict)
            self.processor.save_pretrained(folder)
            self._write_card(folder)

    def _write_card(self, folder: str | os.PathLike) -> None:
        if self.card is None:
            return
        known, lora = self.card.training, next(iter(self.composite.peft_config.values()))
        summary = TrainingSummary.of_trainer(
            self,
            names=self.card_fields,
            peft_config=lora,
            extra=known.hyper_parameters if known else None,
            command=known.command if known else None,
        )
        write_model_card(folder, replace(self.card, training=summary))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # sharded weights have files of their own
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_adapter_weights(self.composite, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            load_adapter_weights(self.composite, str(self.state.best_model_checkpoint))
