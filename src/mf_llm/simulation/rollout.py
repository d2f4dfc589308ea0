"""`Rollout`: the record of one simulated event, one row per action and one row per step."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.atomic_files import write_json, write_table
from mf_llm.errors import UNREADABLE, InputError
from mf_llm.events.validation import one_line, show
from mf_llm.json_records import digest
from mf_llm.simulation.rollout_validation import check_rollout

if TYPE_CHECKING:
    import pyarrow as pa

ROLLOUT_SCHEMA_VERSION = 1
JOURNAL = "journal.jsonl"
REAL, SIMULATED, INTERVENTION, FAILED = "real", "simulated", "intervention", "failed"


@dataclass(frozen=True, kw_only=True)
class ActionRow:
    """One action of one person.

    Attributes:
        step: index of the step.
        turn: index of the person in ``event.turns``; in a simulation of a population its states follow the warm-up.
        weight: survey weight (1 where there is none); of a population's state, how many people the row stands for.
        wave: survey wave, or None.
        state: the profile as the policy read it (empty if nothing is known).
        text: what the person wrote; empty for a choice, and for a failed generation.
        label: category on the rollout's dimension (real, or drawn by the policy), or None.
        probabilities: ``pi(k | topic, state, signal)`` over the K categories of a simulated action, or None.
        source: "real", "simulated", "intervention" or "failed".
        failure: why the generation failed ("empty_text", "non_finite_logits"), or None.
        counts: how many of the people that the row stands for chose each of the K categories, in a simulation of a
            population, where a row is one of its states; None for a row that is one person.
    """

    step: int
    turn: int
    weight: float
    wave: str | None
    state: str
    text: str
    label: str | None
    probabilities: tuple[float, ...] | None
    source: str
    failure: str | None = None
    counts: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One step: the people who acted together and the signal they acted on.

    Attributes:
        step: index of the step.
        real: True in the warm-up, where real actions were fed to the mean-field model.
        wave: survey wave of the step, or None.
        n_people: number of people in the step.
        n_failed: number of failed generations among them.
        signal: the signal `m_t` these people saw (text).
        signal_failure: why the mean-field model gave no signal (the one before was kept), or None.
        shares: weighted shares of the K categories in this step (exact readout: mean probabilities), or None.
        prompt_tokens: tokens encoded in this step, shared prefixes counted once.
        new_tokens: tokens generated in this step by both roles.
        counts: how many people chose each of the K categories, in a simulation of a population; None otherwise.
    """

    step: int
    real: bool
    wave: str | None
    n_people: int
    n_failed: int
    signal: str
    signal_failure: str | None
    shares: tuple[float, ...] | None
    prompt_tokens: int = 0
    new_tokens: int = 0
    counts: tuple[int, ...] | None = None


@dataclass(kw_only=True)
class Rollout:
    """One simulated event: everything needed to read it, score it and make it again.

    Real labels and texts appear for warm-up turns only; what people really did afterwards is never in here.

    Attributes:
        event_id, event_hash: the event and the SHA-256 of its content.
        data_set: name of the data set the event was loaded from, or None.
        topic: the topic people reacted to.
        dimension, categories: what is read out of the actions (None and () for free text without a dimension).
        seed: seed of the keyed randomness.
        config: the resolved `SimulationConfig` as a dict (what "auto" became is under ``resolved``).
        versions: versions of the packages and fingerprints of the model that made it.
        actions, steps: the rows.
    """

    event_id: str
    event_hash: str
    data_set: str | None
    topic: str
    dimension: str | None
    categories: tuple[str, ...]
    seed: int
    config: dict[str, Any]
    versions: dict[str, Any]
    actions: list[ActionRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)

    @property
    def n_failed(self) -> int:
        """Number of failed generations, of the policy and of the mean-field model."""
        return sum(row.source == FAILED for row in self.actions) + sum(
            row.signal_failure is not None for row in self.steps
        )

    def simulated(self) -> list[ActionRow]:
        """The rows after the warm-up, failed ones included."""
        return [row for row in self.actions if row.source != REAL]

    def trajectory(self) -> list[tuple[float, ...] | None]:
        """Shares per step: a list of T tuples of K shares (None where a step has no reading)."""
        return [row.shares for row in self.steps]

    def actions_table(self) -> pa.Table:
        """The actions as a `pyarrow.Table`, with ``data_set``, ``event_id`` and ``seed`` in front."""
        return _table(self, self.actions, ActionRow)

    def steps_table(self) -> pa.Table:
        """The steps as a `pyarrow.Table`, with ``data_set``, ``event_id`` and ``seed`` in front."""
        return _table(self, self.steps, StepRow)

    def metadata(self) -> dict[str, Any]:
        """Everything but the rows, as it stands in ``rollout.json``."""
        names = [f.name for f in fields(self) if f.name not in ("actions", "steps")]
        record = {"schema_version": ROLLOUT_SCHEMA_VERSION} | {name: getattr(self, name) for name in names}
        return record | {"categories": list(self.categories), "n_failed": self.n_failed}

    def save(self, folder: str | Path) -> Path:
        """Writes ``actions.parquet``, ``steps.parquet`` and ``rollout.json`` (last, so that it marks a whole rollout).

        Each file is written beside its place and moved there: a crash never leaves half a file. The last one holds the
        checksums of all three, so that one that was changed, or comes from another rollout, is not taken for it.
        """
        folder, sums = Path(folder), {}
        for name, table in (("actions.parquet", self.actions_table()), ("steps.parquet", self.steps_table())):
            write_table(folder / name, table)
            sums[name] = digest((folder / name).read_bytes())
        record = self.metadata()
        write_json(folder / "rollout.json", record | {"sha256": sums | {"rollout.json": digest(record)}})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Rollout:
        """Reads what `save` wrote.

        Raises:
            InputError: if a file is missing, cannot be read, was changed, holds what no simulation makes, or was
                written by an unknown version.
        """
        folder = Path(folder)
        for name in ("rollout.json", "actions.parquet", "steps.parquet"):
            if not (folder / name).is_file():
                raise InputError(
                    f"`folder` must be a folder written by Rollout.save, got {folder} without {name}; the rollout "
                    "cannot be read; finish the run with --resume or name another folder."
                )
        try:
            return cls._read(folder)
        except (InputError, *UNREADABLE) as error:
            raise InputError(
                f"{folder} must hold a rollout written by Rollout.save, but its files cannot be read "
                f"({one_line(error) or repr(error)}); simulate again into another folder."
            ) from error

    @classmethod
    def _read(cls, folder: Path) -> Rollout:
        import pyarrow.parquet as pq

        record = json.loads((folder / "rollout.json").read_text(encoding="utf-8"))
        tables = {name: (folder / name).read_bytes() for name in ("actions.parquet", "steps.parquet")}
        sums = record.pop("sha256", None)  # older rollouts have none
        if record.get("schema_version") != ROLLOUT_SCHEMA_VERSION:
            raise InputError(
                f"rollout.json must have schema_version {ROLLOUT_SCHEMA_VERSION}, got "
                f"{show(record.get('schema_version'))}; it was written by another version of mf_llm"
            )
        if sums is not None:
            found = {name: digest(content) for name, content in tables.items()} | {"rollout.json": digest(record)}
            changed = [name for name in found if found[name] != sums.get(name)]
            if changed:
                raise InputError(f"{changed[0]} was changed after it was written, or is of another rollout")
        del record["schema_version"]
        n_failed, categories = record.pop("n_failed", None), record["categories"]
        record["categories"] = tuple(categories) if isinstance(categories, list) else categories
        rollout = cls(**record)
        parts: tuple[tuple[list[Any], type], ...] = ((rollout.actions, ActionRow), (rollout.steps, StepRow))
        for (name, content), (rows, kind) in zip(tables.items(), parts, strict=True):
            table = pq.read_table(BytesIO(content))
            _check_origin(rollout, name, table)
            rows += _rows(table, kind)
        check_rollout(rollout)
        if n_failed not in (None, rollout.n_failed):
            raise InputError(f"rollout.json: `n_failed` must be {rollout.n_failed}, got {show(n_failed)}")
        return rollout


def load_rollouts(run_dir: str | Path) -> list[Rollout]:
    """All finished rollouts of a run folder (or the one in it), in the order of their folder names.

    Raises:
        InputError: if there is none, or one has lost a file.

    Examples:
        >>> from mf_llm import MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_events, simulate
        >>> from mf_llm.models import tiny_backbone, tiny_tokenizer  # random weights: replies mean nothing
        >>> model = MFLLMForSimulation.from_backbones(tiny_backbone("qwen2"))
        >>> processor = MFLLMProcessor(tiny_tokenizer("qwen2"))
        >>> [event] = load_events("bridge-closure")
        >>> config = SimulationConfig(signal="statistics", action="choice", max_actions=64)
        >>> rollouts = simulate(model, processor, event, config, seeds=[1, 2], output="runs/tiny", progress=False)
        >>> [rollout.seed for rollout in load_rollouts("runs/tiny")]
        [1, 2]
    """
    run_dir = Path(run_dir)
    if (run_dir / "rollout.json").is_file():
        return [Rollout.load(run_dir)]
    folders = sorted(path.parent for path in run_dir.glob("rollouts/*/rollout.json"))
    if not folders:
        raise InputError(
            f"`run_dir` must be a folder with finished rollouts, got {run_dir}; there is nothing to read; run "
            "`mf-llm simulate ... --output DIR` first, or finish it with --resume."
        )
    for folder in sorted(path.parent for path in run_dir.glob("rollouts/*/actions.parquet")):
        # One that is not finished still has its journal.
        if folder not in folders and not (folder / JOURNAL).exists():
            raise InputError(
                f"{folder} must hold a whole rollout, but its rollout.json is missing; the run would be judged "
                "without it; put the file back, or make the rollout again with --resume."
            )
    return [Rollout.load(folder) for folder in folders]


def _schema(row_class: type) -> pa.Schema:
    import pyarrow as pa

    types = {
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "str": pa.string(),
        "str | None": pa.string(),
        "tuple[float, ...] | None": pa.list_(pa.float64()),
        "tuple[int, ...] | None": pa.list_(pa.int64()),
    }
    head = [("data_set", pa.string()), ("event_id", pa.string()), ("seed", pa.int64())]
    return pa.schema(head + [(f.name, types[str(f.type)]) for f in fields(row_class)])


def _table(rollout: Rollout, rows: list[Any], row_class: type) -> pa.Table:
    import pyarrow as pa

    head = {"data_set": rollout.data_set, "event_id": rollout.event_id, "seed": rollout.seed}
    return pa.Table.from_pylist([head | asdict(row) for row in rows], schema=_schema(row_class))


def _check_origin(rollout: Rollout, name: str, table: pa.Table) -> None:
    """Refuses a table of another rollout."""
    for column in ("event_id", "seed", "data_set"):
        values, wanted = table.column(column).unique().to_pylist(), getattr(rollout, column)
        if values not in ([], [wanted]):
            raise InputError(f"{name}: `{column}` must be {show(wanted)} as in rollout.json, got {show(values[-1])}")


def _rows(table: pa.Table, row_class: type) -> list[Any]:
    # A column that was added later has its default: an older file is read, and an older reader passes it over.
    names = [f.name for f in fields(row_class) if f.name in table.column_names or f.default is MISSING]
    columns = [table.column(name).to_pylist() for name in names]
    return [
        row_class(**{name: tuple(v) if isinstance(v, list) else v for name, v in zip(names, values, strict=True)})
        for values in zip(*columns, strict=True)
    ]
