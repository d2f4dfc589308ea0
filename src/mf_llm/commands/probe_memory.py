"""``mf-llm memory``: can a backbone continue the texts that it is judged on?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mf_llm.commands.evaluate_run import terminal_width
from mf_llm.errors import InputError
from mf_llm.events import load_event_sets
from mf_llm.models.default_backbone import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from mf_llm.evaluation.memorisation import MemorisationConfig, MemorisationReport


def run_probe_memory(
    events: str,
    *,
    model: str = DEFAULT_BACKBONE,
    output: Path | None = None,
    data_sets: tuple[str, ...] = (),
    dtype: str = "auto",
    config: MemorisationConfig | None = None,
) -> MemorisationReport:
    """Probes a backbone; writes ``memorisation.csv`` and ``memorisation.json`` and prints a table.

    Args:
        events: where the events are.
        model: a causal language model, or a checkpoint of this package (its policy is probed).
        output: folder of the results; ``memory/NAME-OF-EVENTS`` by default.
        data_sets: only these; all by default.
        dtype: type of the weights.
        config: what is probed.

    Raises:
        InputError: the model is not found, a data set does not exist, or no data set has texts to continue.
    """
    from mf_llm.evaluation.known_passages import YARDSTICK
    from mf_llm.evaluation.memorisation import probe_memorisation
    from mf_llm.models.loading import load_model_and_processor

    sets = load_event_sets(events)
    for name in data_sets:
        if name not in sets:
            raise InputError(
                f"`--data-sets` must be different names out of {', '.join(sets)}, got {name!r}; nothing was probed."
            )
    sets = {name: found for name, found in sets.items() if not data_sets or name in data_sets}
    loaded, processor = load_model_and_processor(model, dtype=dtype)
    name = Path(model).name if Path(model).is_dir() else model
    report = probe_memorisation(sets, loaded.backbone("policy"), processor.policy_tokenizer, name=name, config=config)
    if all(row["dataset"] == YARDSTICK for row in report.rows):
        skipped = [
            f"{one['data_set']} ({one['part']}, {one['split']}): {one['reason']}" for one in report.summary["skipped"]
        ]
        raise InputError(
            f"`EVENTS` must hold texts that can be cut in two, got none in {events}: {'; '.join(skipped)}; nothing "
            "was probed; name other events or another split."
        )
    folder = report.save(output or Path("memory") / (Path(events).name.split(".")[0] or "events"))
    print(report.table(terminal_width()))
    print(f"Results: {folder / 'memorisation.csv'} and {folder / 'memorisation.json'}")
    return report
