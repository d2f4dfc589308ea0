"""``mf-llm compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mf_llm.commands.evaluate_run import terminal_width
from mf_llm.errors import InputError
from mf_llm.evaluation import compare
from mf_llm.evaluation.forecasters import default_methods
from mf_llm.events import load_event_sets


def run_compare(events: str, *, methods: Sequence[str], output: Path, seed: int) -> None:
    """Judges methods on the test events; writes ``results.csv`` and ``summary.json`` and prints the table.

    Args:
        events: where the events are.
        methods: names of methods.
        output: folder for the results.
        seed: seed of the bootstrap.
    """
    known = {method.name: method for method in default_methods()}
    unknown = [name for name in methods if name not in known]
    if unknown or not methods or len(set(methods)) != len(methods):
        raise InputError(
            f"`--methods` must be different names out of {', '.join(known)}, got {', '.join(methods) or 'none'}; "
            "nothing was compared."
        )
    comparison = compare(load_event_sets(events), [known[name] for name in methods], seed=seed)
    comparison.save(output)
    print(comparison.table(terminal_width()))
    print(f"Results: {output / 'results.csv'} and {output / 'summary.json'}")
