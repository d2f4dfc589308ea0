"""Training: transitions from events, IB-Tune, the supervised baseline, model cards.

Names are imported on first use; what is here needs the extra ``train``.
"""

from __future__ import annotations

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

__getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
