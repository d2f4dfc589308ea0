"""`Rollout`: the record of one simulated event, one row per action and one row per step."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mf_llm.atomic_files import write_json, write_table
from mf_llm.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

ROLLOUT_SCHEMA_VERSION = 1
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

        Each file is written beside its place and moved there: a crash never leaves half a file.
        """
        folder = Path(folder)
        write_table(folder / "actions.parquet", self.actions_table())
        write_table(folder / "steps.parquet", self.steps_table())
        write_json(folder / "rollout.json", self.metadata())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Rollout:
        """Reads what `save` wrote.

        Raises:
            InputError: if a file is missing, cannot be read or was written by an unknown version.
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
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            raise InputError(
                f"{folder} must hold a rollout written by Rollout.save, but its files cannot be read "
                f"({str(error).splitlines()[0] if str(error) else error!r}); simulate again into another folder."
            ) from error

    @classmethod
    def _read(cls, folder: Path) -> Rollout:
        import pyarrow.parquet as pq

        record = json.loads((folder / "rollout.json").read_text(encoding="utf-8"))
        if record.pop("schema_version", None) != ROLLOUT_SCHEMA_VERSION:
            raise InputError(
                f"{folder / 'rollout.json'} must have schema_version {ROLLOUT_SCHEMA_VERSION}; it was written by "
                "another version of mf_llm; simulate again or install that version."
            )
        record.pop("n_failed", None)
        record["categories"] = tuple(record["categories"])
        return cls(
            **record,
            actions=_rows(pq.read_table(folder / "actions.parquet"), ActionRow),
            steps=_rows(pq.read_table(folder / "steps.parquet"), StepRow),
        )


def load_rollouts(run_dir: str | Path) -> list[Rollout]:
    """All finished rollouts of a run folder (or the one in it), in the order of their folder names.

    Raises:
        InputError: if there is none.
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


def _rows(table: pa.Table, row_class: type) -> list[Any]:
    # A column that was added later has its default: an older file is read, and an older reader passes it over.
    names = [f.name for f in fields(row_class) if f.name in table.column_names or f.default is MISSING]
    columns = [table.column(name).to_pylist() for name in names]
    return [
        row_class(**{name: tuple(v) if isinstance(v, list) else v for name, v in zip(names, values, strict=True)})
        for values in zip(*columns, strict=True)
    ]
