"""Makes the Auto classes of transformers find this package's classes, under the model type ``mf_llm``.

The modules of our classes import transformers, and transformers' import may be what calls these functions. A class
whose module is still being loaded is therefore skipped here; its module calls the function again when it is complete.
"""

from __future__ import annotations

import importlib
from typing import Any


def register_auto_classes() -> None:
    """Registers configuration, model and processor; calling it again does nothing."""
    register_configuration()
    register_model()
    register_processor()


def register_configuration() -> None:
    """Lets ``AutoConfig`` find `MFLLMConfig`."""
    config_class = _class_if_loaded("configuration_mf_llm", "MFLLMConfig")
    if config_class is not None:
        from transformers import AutoConfig

        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def register_model() -> None:
    """Lets ``AutoModel`` find `MFLLMForSimulation`."""
    model_class = _class_if_loaded("modeling_mf_llm", "MFLLMForSimulation")
    if model_class is not None:
        from transformers import AutoModel

        AutoModel.register(model_class.config_class, model_class, exist_ok=True)


def register_processor() -> None:
    """Lets ``AutoProcessor`` find `MFLLMProcessor`."""
    config_class = _class_if_loaded("configuration_mf_llm", "MFLLMConfig")
    processor_class = _class_if_loaded("processing_mf_llm", "MFLLMProcessor")
    if config_class is not None and processor_class is not None:
        from transformers import AutoProcessor

        AutoProcessor.register(config_class, processor_class, exist_ok=True)


def _class_if_loaded(module: str, name: str) -> Any:
    """The class, its module imported if need be; None while that module is being loaded."""
    return getattr(importlib.import_module(f"mf_llm.models.{module}"), name, None)
