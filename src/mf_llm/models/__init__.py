"""Models: two backbones (policy and mean field) in one checkpoint, their processor, and where backbones come from.

Names are imported on first use; none of them needs the Hub.
"""

from __future__ import annotations

from mf_llm._lazy_names import lazy_names

_PUBLIC_NAMES = {
    "DEFAULT_BACKBONE": "mf_llm.models.backbones",
    "MFLLMConfig": "mf_llm.models.configuration_mf_llm",
    "MFLLMForSimulation": "mf_llm.models.modeling_mf_llm",
    "MFLLMOutput": "mf_llm.models.modeling_mf_llm",
    "MFLLMProcessor": "mf_llm.models.processing_mf_llm",
    "load_backbone": "mf_llm.models.backbones",
    "load_model": "mf_llm.models.loading",
    "load_tokenizer": "mf_llm.models.backbones",
    "packaged_checkpoints": "mf_llm.models.checkpoints",
    "tiny_backbone": "mf_llm.models.tiny",
    "tiny_tokenizer": "mf_llm.models.tiny",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
