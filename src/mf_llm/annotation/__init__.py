"""Annotation: reading a category out of a text a person wrote, and how well that works.

Names are imported on first use: torch, transformers, scikit-learn and rich load only where they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from mf_llm.annotation.annotator import Annotations as Annotations
    from mf_llm.annotation.annotator import Annotator as Annotator
    from mf_llm.annotation.annotator_quality import AnnotatorQuality as AnnotatorQuality
    from mf_llm.annotation.annotator_quality import assess_annotator as assess_annotator
    from mf_llm.annotation.classifier_annotator import ClassifierAnnotator as ClassifierAnnotator
    from mf_llm.annotation.classifier_fitting import fit_classifier as fit_classifier
    from mf_llm.annotation.dimension_sets import Category as Category
    from mf_llm.annotation.dimension_sets import Dimension as Dimension
    from mf_llm.annotation.dimension_sets import DimensionSet as DimensionSet
    from mf_llm.annotation.dimension_sets import event_dimension as event_dimension
    from mf_llm.annotation.dimension_sets import load_dimensions as load_dimensions
    from mf_llm.annotation.endpoint_annotator import EndpointAnnotator as EndpointAnnotator
    from mf_llm.annotation.error_correction import correct_shares as correct_shares
    from mf_llm.annotation.llm_annotator import LLMAnnotator as LLMAnnotator
    from mf_llm.annotation.replay import annotate_event as annotate_event
    from mf_llm.annotation.replay import judge_annotated as judge_annotated
    from mf_llm.annotation.rollout_annotation import annotate_rollout as annotate_rollout
    from mf_llm.annotation.rule_annotator import RuleAnnotator as RuleAnnotator
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _PUBLIC_NAMES)
