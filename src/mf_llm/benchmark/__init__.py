"""The benchmark: every method on every data set, rollouts made once and kept, and what sets the methods apart."""
