"""The metric population_kl: `population_kl.py` is the `evaluate` module, `divergence.py` its arithmetic."""
