"""Models: two backbones (policy and mean field) in one checkpoint, their processor, and where backbones come from.

Names are imported on first use; none of them needs the Hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from mf_llm.models.backbones import DEFAULT_BACKBONE as DEFAULT_BACKBONE
    from mf_llm.models.backbones import load_backbone as load_backbone
    from mf_llm.models.backbones import load_tokenizer as load_tokenizer
    from mf_llm.models.checkpoints import packaged_checkpoints as packaged_checkpoints
    from mf_llm.models.configuration_mf_llm import MFLLMConfig as MFLLMConfig
    from mf_llm.models.loading import load_model as load_model
    from mf_llm.models.modeling_mf_llm import MFLLMForSimulation as MFLLMForSimulation
    from mf_llm.models.modeling_mf_llm import MFLLMOutput as MFLLMOutput
    from mf_llm.models.processing_mf_llm import MFLLMProcessor as MFLLMProcessor
    from mf_llm.models.tiny import tiny_backbone as tiny_backbone
    from mf_llm.models.tiny import tiny_tokenizer as tiny_tokenizer
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
