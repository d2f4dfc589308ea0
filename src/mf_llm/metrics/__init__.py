"""Metrics for `evaluate`: the distance between a simulated population and the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import evaluate

__all__ = ["load_metric"]


def load_metric(**kwargs: Any) -> evaluate.Metric:
    """The installed ``population_kl`` metric, without network or a copy in the modules cache.

    ``evaluate.load("src/mf_llm/metrics/population_kl")`` gives the same metric from a bare folder.

    Args:
        **kwargs: arguments of `evaluate.Metric`, such as ``cache_dir``, ``keep_in_memory`` or ``experiment_id``.

    Raises:
        InputError: the package ``evaluate`` is not installed.

    Examples:
        >>> people, simulated = ["deny", "support", "support", "deny"], ["support", "support", "support", "deny"]
        >>> result = load_metric().compute(references=people, predictions=simulated)
        >>> round(result["kl"], 3)
        0.087
    """
    from mf_llm.errors import InputError

    try:
        from mf_llm.metrics.population_kl.population_kl import PopulationKL
    except ModuleNotFoundError as error:
        if error.name != "evaluate":
            raise
        raise InputError(
            "the package `evaluate` is not installed; the metric needs it; install it with: pip install 'mf-llm[eval]'"
        ) from error
    return PopulationKL(**kwargs)
