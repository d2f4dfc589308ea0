"""Annotation: reading a category out of a text a person wrote, and how well that works.

Names are imported on first use: torch, transformers, scikit-learn and rich load only where they are needed.
"""

from __future__ import annotations

from mf_llm._lazy_names import lazy_names

# No module here is named like a public function: importing it would put the module in the function's place.
_PUBLIC_NAMES = {
    "Annotations": "mf_llm.annotation.annotator",
    "Annotator": "mf_llm.annotation.annotator",
    "AnnotatorQuality": "mf_llm.annotation.annotator_quality",
    "Category": "mf_llm.annotation.dimension_sets",
    "ClassifierAnnotator": "mf_llm.annotation.classifier_annotator",
    "Dimension": "mf_llm.annotation.dimension_sets",
    "DimensionSet": "mf_llm.annotation.dimension_sets",
    "EndpointAnnotator": "mf_llm.annotation.endpoint_annotator",
    "LLMAnnotator": "mf_llm.annotation.llm_annotator",
    "RuleAnnotator": "mf_llm.annotation.rule_annotator",
    "annotate_event": "mf_llm.annotation.replay",
    "annotate_rollout": "mf_llm.annotation.rollout_annotation",
    "assess_annotator": "mf_llm.annotation.annotator_quality",
    "correct_shares": "mf_llm.annotation.error_correction",
    "event_dimension": "mf_llm.annotation.dimension_sets",
    "fit_classifier": "mf_llm.annotation.classifier_fitting",
    "judge_annotated": "mf_llm.annotation.replay",
    "load_dimensions": "mf_llm.annotation.dimension_sets",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
