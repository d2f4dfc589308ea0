"""Training: transitions from events, IB-Tune, the supervised baseline, model cards.

Names are imported on first use; what is here needs the extra ``train``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mf_llm._lazy_names import lazy_names

_PUBLIC_NAMES = {
    "CardData": "mf_llm.training.card_data",
    "DataCollatorForIBTune": "mf_llm.training.data_collator",
    "IBTuneConfig": "mf_llm.training.ib_tune_config",
    "IBTuneTrainer": "mf_llm.training.ib_tune_trainer",
    "PolicySFTTrainer": "mf_llm.training.sft",
    "TransitionSettings": "mf_llm.training.transition_settings",
    "build_transitions": "mf_llm.training.transitions",
    "lora_config": "mf_llm.training.lora",
    "sft_rows": "mf_llm.training.sft",
    "write_model_card": "mf_llm.training.model_card",
}

if TYPE_CHECKING:
    from mf_llm.training.card_data import CardData as CardData
    from mf_llm.training.data_collator import DataCollatorForIBTune as DataCollatorForIBTune
    from mf_llm.training.ib_tune_config import IBTuneConfig as IBTuneConfig
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer as IBTuneTrainer
    from mf_llm.training.lora import lora_config as lora_config
    from mf_llm.training.model_card import write_model_card as write_model_card
    from mf_llm.training.sft import PolicySFTTrainer as PolicySFTTrainer
    from mf_llm.training.sft import sft_rows as sft_rows
    from mf_llm.training.transition_settings import TransitionSettings as TransitionSettings
    from mf_llm.training.transitions import build_transitions as build_transitions
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
