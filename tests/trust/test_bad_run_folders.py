"""Run folders that were damaged, lack a file or hold one of another run: refused, or read as they were written."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from made_benchmark import write_data
from wrong_values import (
    BROKEN_TEXTS,
    FRACTIONS,
    LISTS,
    MAPPINGS,
    NOT_FINITE,
    NUMBERS,
    TEXTS,
    TRUTHS,
    check_refusal,
    damages,
    try_many,
)

from mf_llm import cli
from mf_llm.errors import InputError
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation import Rollout, SimulationConfig, load_rollouts
from mf_llm.simulation.journal import FinishedStep, Journal
from mf_llm.simulation.rollout import ActionRow, StepRow

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.trust("inputs", "run folders that are damaged, incomplete or mixed up")

FILES = ("rollout.json", "actions.parquet", "steps.parquet")
CATEGORIES = ("for", "against")


def made_rollout(seed: int = 0, event_id: str = "bridge") -> Rollout:
    """Two steps of the warm-up and two simulated ones, of three people."""
    actions, steps = [], []
    for step in range(4):
        real = step < 2
        for person in range(3):
            share = (1 + person + seed) / 8
            actions.append(
                ActionRow(
                    step=step, turn=3 * step + person, weight=1.0 + person, wave=None, state=f"age: {20 + person}",
                    text=f"Word {step}.", label=CATEGORIES[person % 2],
                    probabilities=None if real else (share, 1 - share), source="real" if real else "simulated",
                )
            )  # fmt: skip
        steps.append(
            StepRow(
                step=step, real=real, wave=None, n_people=3, n_failed=0, signal=f"Signal {step}", signal_failure=None,
                shares=(0.25, 0.75), prompt_tokens=100, new_tokens=3,
            )
        )  # fmt: skip
    return Rollout(
        event_id=event_id, event_hash="ab" * 32, data_set="bridges", topic="A bridge closes.", dimension="stance",
        categories=CATEGORIES, seed=seed, versions={"a": "1"}, actions=actions, steps=steps,
        config=SimulationConfig(seed=seed).to_dict() | {"resolved": {"action": "choice"}},
    )  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_damaged_rollouts(tries, tmp_path, name):
    whole = made_rollout()
    content = (whole.save(tmp_path) / name).read_bytes()
    assert Rollout.load(tmp_path) == whole

    def attempt(damage):
        (tmp_path / name).write_bytes(damage(content))
        try:
            found = Rollout.load(tmp_path)
        except InputError as error:
            check_refusal(error, str(tmp_path))
        else:
            assert found == whole  # such as a blank between two words of JSON

    try_many(tries, 50, 700, damages(), attempt)


def test_files_of_another_rollout(tries, tmp_path):
    others = {"seed": made_rollout(seed=1), "event": made_rollout(event_id="other"), "settings": made_rollout()}
    others["settings"].actions = [replace(row, text="Other.") for row in others["settings"].actions]
    others["settings"].steps = [replace(row, signal="Other.") for row in others["settings"].steps]
    for kind, other in others.items():
        other.save(tmp_path / "other")
        for name in FILES:
            for with_sums in (True, False):
                tries.add()
                made_rollout().save(tmp_path / "own")
                shutil.copy(tmp_path / "other" / name, tmp_path / "own" / name)
                if not with_sums:  # as older versions wrote them
                    forget_sums(tmp_path / "own")
                    if kind == "settings":
                        continue  # nothing tells these apart without checksums
                with pytest.raises(InputError) as caught:
                    Rollout.load(tmp_path / "own")
                check_refusal(caught.value, str(tmp_path / "own"))


def forget_sums(folder: Path) -> None:
    record = json.loads((folder / "rollout.json").read_text())
    del record["sha256"]
    (folder / "rollout.json").write_text(json.dumps(record))


NO_TEXT = NUMBERS | TRUTHS | LISTS | MAPPINGS
NO_SHARES = st.sampled_from([[0.5], [0.2, 0.2], [1.5, -0.5], [0.2, 0.3, 0.5], [], [float("nan")] * 2, [0.0, 0.0]])
WRONG_RECORDS = {
    "event_id": NO_TEXT | st.none() | st.just(""), "event_hash": NO_TEXT | st.none(), "data_set": NO_TEXT | TEXTS,
    "topic": NO_TEXT | st.none(), "dimension": NO_TEXT | st.none(),
    "seed": TRUTHS | TEXTS | FRACTIONS | LISTS | st.just(5),
    "categories": NUMBERS | TRUTHS | TEXTS | st.none()
    | st.sampled_from([[], ["for"], ["for", "for"], ["for", 1], [[]]]),
    "config": NUMBERS | TRUTHS | LISTS | TEXTS
    | st.sampled_from([None, {"signal": "loud"}, {"resolved": []}, {"seed": "0"}]),
    "versions": NUMBERS | TRUTHS | LISTS | TEXTS | st.none(), "n_failed": st.integers(1) | TEXTS | FRACTIONS,
    "schema_version": NO_TEXT.filter(lambda v: v != 1) | TEXTS, "surprise": NUMBERS,
}  # fmt: skip
WRONG_ROWS = {
    "actions.parquet": {
        "step": st.sampled_from([-1, 4, 99]), "turn": st.sampled_from([-1, -99]),
        "weight": NOT_FINITE | st.floats(-1e9, -1e-9), "label": st.sampled_from(["maybe", "", "For"]),
        "probabilities": NO_SHARES, "source": st.sampled_from(["dream", "", "Real"]), "event_id": TEXTS,
        "seed": st.integers(1, 9), "data_set": TEXTS | st.none(), "counts": st.sampled_from([[1], [1, -1], [1, 2, 3]]),
        "state": st.none(), "text": st.none(),
    },
    "steps.parquet": {
        "step": st.sampled_from([-1, 0, 3]), "n_people": st.integers(-9, -1), "n_failed": st.integers(-9, -1),
        "shares": NO_SHARES, "prompt_tokens": st.integers(-9, -1), "new_tokens": st.integers(-9, -1),
        "signal": st.none(), "real": st.none(), "event_id": TEXTS,
        "counts": st.sampled_from([[1], [1, -1], [1, 2, 3]]),
    },
}  # fmt: skip
COLUMNS_OF_ANOTHER_TYPE = {
    "step": ["a", 0.5, None], "turn": ["a", 0.5, True], "weight": ["a", True, None], "label": [3, 0.5],
    "text": [3, True],
    "probabilities": ["a", 3, ["a"]], "source": [3, None], "n_people": ["a", 0.5], "signal": [3], "real": ["a", 3],
    "shares": ["a", 3], "seed": ["a", 0.5], "event_id": [3, None], "prompt_tokens": ["a", 0.5, None],
}  # fmt: skip


def test_wrong_values_in_older_records(tries, tmp_path):
    made_rollout().save(tmp_path)
    forget_sums(tmp_path)
    record = json.loads((tmp_path / "rollout.json").read_text())
    assert Rollout.load(tmp_path) == made_rollout()

    def attempt(drawn):
        name, value = drawn
        (tmp_path / "rollout.json").write_text(json.dumps(record | {name: value}))
        with pytest.raises(InputError) as caught:
            Rollout.load(tmp_path)
        check_refusal(caught.value, str(tmp_path))

    drawn = st.sampled_from(sorted(WRONG_RECORDS)).flatmap(lambda name: st.tuples(st.just(name), WRONG_RECORDS[name]))
    try_many(tries, 40, 400, drawn, attempt)
    for name in record.keys() - {"n_failed"}:
        tries.add()
        (tmp_path / "rollout.json").write_text(json.dumps({k: v for k, v in record.items() if k != name}))
        with pytest.raises(InputError) as caught:
            Rollout.load(tmp_path)
        check_refusal(caught.value, str(tmp_path))


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(folder / name).to_pylist()


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / name)


@pytest.mark.parametrize("name", sorted(WRONG_ROWS))
def test_wrong_values_in_older_tables(tries, tmp_path, name):
    made_rollout().save(tmp_path)
    forget_sums(tmp_path)
    rows = rows_of(tmp_path, name)
    write_rows(tmp_path, name, rows)
    assert Rollout.load(tmp_path) == made_rollout()

    def attempt(drawn):
        column, value = drawn
        changed = [dict(row) for row in rows]
        changed[2 if column != "probabilities" else -1][column] = value
        write_rows(tmp_path, name, changed)
        with pytest.raises(InputError) as caught:
            Rollout.load(tmp_path)
        check_refusal(caught.value, str(tmp_path), name)

    wrong = WRONG_ROWS[name]
    drawn = st.sampled_from(sorted(wrong)).flatmap(lambda column: st.tuples(st.just(column), wrong[column]))
    try_many(tries, 25, 250, drawn, attempt)
    for column, values in COLUMNS_OF_ANOTHER_TYPE.items():
        for value in values if column in rows[0] else ():
            tries.add()
            write_rows(tmp_path, name, [row | {column: value} for row in rows])
            with pytest.raises(InputError) as caught:
                Rollout.load(tmp_path)
            check_refusal(caught.value, str(tmp_path))
    for column in rows[0].keys() - {"counts", "failure"}:
        if column in ("prompt_tokens", "new_tokens"):
            continue  # they were added later and have a default
        tries.add()
        write_rows(tmp_path, name, [{key: value for key, value in row.items() if key != column} for row in rows])
        with pytest.raises(InputError) as caught:
            Rollout.load(tmp_path)
        check_refusal(caught.value, str(tmp_path))


def write_journal(folder: Path) -> tuple[dict[str, Any], list[FinishedStep]]:
    rollout = made_rollout()
    header = {key: value for key, value in rollout.metadata().items() if key != "n_failed"}
    journal, finished = Journal(folder, header, resume=False), []
    for step in rollout.steps:
        rows = tuple(row for row in rollout.actions if row.step == step.step)
        finished.append(FinishedStep(step=step, actions=rows, signal="S", signal_failure=None, seconds=0.5))
        journal.append(finished[-1])
    journal.close()
    return header, finished


def reopened(folder: Path, header: dict[str, Any]) -> list[FinishedStep]:
    journal = Journal(folder, header, resume=True)
    journal.close()
    return journal.finished


def test_damaged_journals(tries, tmp_path):
    header, finished = write_journal(tmp_path)
    path = tmp_path / "journal.jsonl"
    content = path.read_bytes()
    assert reopened(tmp_path, header) == finished

    def attempt(damage):
        path.write_bytes(damage(content))
        try:
            found = reopened(tmp_path, header)
        except InputError as error:
            check_refusal(error, str(tmp_path))
        else:
            assert found == finished[: len(found)]  # lines that a crash cut short are made again

    try_many(tries, 60, 900, damages(), attempt)


def test_wrong_values_in_older_journals(tries, tmp_path):
    header, finished = write_journal(tmp_path)
    path = tmp_path / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        del line["sha256"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reopened(tmp_path, header) == finished
    names = list(asdict(finished[0].actions[0]))
    changes: list[tuple[str, Any]] = [
        *(("line", value) for value in ([], 3, "a", None, {}, lines[1], lines[4], lines[0])),
        *(("step", value) for value in ([], 3, None, {}, lines[2]["step"] | {"more": 1})),
        *(("actions", value) for value in (3, None, [3], [[]], [[1, 2]], [["a"] * 11], [[0] * 20])),
        *(("signal", value) for value in (3, [], True)),
        *(("signal_failure", value) for value in (3, [], False)),
        *(("seconds", value) for value in ("a", None, [], float("nan"), True)),
        *(("action", (name, value)) for name in names for value in ("\ud800", {}, [{}], float("inf"))),
    ]
    for kind, value in changes:
        tries.add()
        changed = json.loads(json.dumps(lines))
        if kind == "line":
            changed[2] = value
        elif kind == "action":
            changed[2]["actions"][0][names.index(value[0])] = value[1]
        else:
            changed[2][kind] = value
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        with pytest.raises(InputError) as caught:
            reopened(tmp_path, header)
        check_refusal(caught.value, str(tmp_path), "line 3")


# -- what the commands do with them -----------------------------------------------------------------------------------

METHODS = """
options: {readout: exact, action: choice, agents_per_step: 6, signal_max_tokens: 4}
methods:
  carry: {forecaster: carry}
  prior: {forecaster: prior}
  state: {options: {signal: none}}
pairs: [[carry, prior], [state, carry]]
"""
PLAN = {
    "target": {"category": "deny", "step": 4},
    "candidates": [{"name": "news", "interventions": [{"step": 3, "topic": "The mayor says that it is true."}]}],
}


def call(*words: object) -> tuple[int, str]:
    """``mf-llm WORDS`` in this process: exit code and what it printed as an error."""
    import io
    from contextlib import redirect_stderr, redirect_stdout

    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(errors), redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", ["mf-llm", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0), errors.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Events, a tiny model, and one run of each command."""
    folder = tmp_path_factory.mktemp("bad-run-folders")
    write_data(folder / "data")
    save_tiny_backbone(folder / "base", "qwen2")
    (folder / "methods.yaml").write_text(METHODS)
    (folder / "plan.json").write_text(json.dumps(PLAN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MF_LLM_CACHE", str(folder / "cache"))
        for name in ("simulate", "intervene", "compare"):
            code, said = call(*words(folder, name, folder))
            assert code == 0, said
    return folder


def words(place: Path, name: str, runs: Path) -> list[object]:
    """The words of a command whose runs are in a folder."""
    model = ["--model", place / "base", "--dtype", "float32"]
    threads = place / "data" / "threads.jsonl"

    def to(part: str) -> list[object]:
        return ["--output", runs / part]

    short = ["--signal", "both", "--agents-per-step", "4", "--action", "choice", "--signal-max-tokens", "4"]
    compared = [*to("compared"), "--method-list", place / "methods.yaml", "--bootstrap", "20"]
    return {
        "simulate": [
            "simulate",
            threads,
            "--split",
            "test",
            "--limit",
            "1",
            "--seeds",
            "2",
            *model,
            *short,
            *to("run"),
        ],
        "evaluate": ["evaluate", runs / "run", "--no-plots"],
        "forecast": ["forecast", runs / "run", "--data", threads, "--no-plots", "--bootstrap", "20", *to("forecast")],
        "intervene": ["intervene", runs / "run", "--plan", place / "plan.json", "--no-plots", *to("branches")],
        "compare": ["compare", place / "data", "--methods", "all", "--limit", "1", "--no-report", *model, *compared],
        "report": ["report", runs / "compared", *to("report.html")],
    }[name]


# Command -> the files that are damaged, what is added to its words, and what it writes.
DAMAGED = {
    "evaluate": (["run/run.json", "run/rollouts/*/*"], [], ["run/evaluation.csv"]),
    "forecast": (["run/rollouts/*/*"], [], ["forecast/forecast_windows.csv", "forecast/forecast_scores.csv"]),
    "intervene": (["run/run.json", "run/rollouts/*/*", "branches/intervene.json", "branches/branches/*/rollouts/*/*"],
                  ["--resume"], ["branches/effects.csv", "branches/effects_by_seed.csv"]),
    "simulate": (["run/run.json", "run/rollouts/*/*"], ["--resume"], ["run/actions.parquet", "run/steps.parquet"]),
    "compare": (["compared/rollouts/*/*/*/rollouts/*/*"], [], ["compared/results.csv", "compared/pairs.csv"]),
    "report": (["compared/summary.json", "compared/results.csv", "compared/methods.csv", "compared/pairs.csv",
                "compared/rollouts/*/*/*/rollouts/*/*", "compared/rollouts/*/*/*/run.json"], [], ["report.html"]),
}  # fmt: skip
# Only told, never used: how long steps took.
UNIMPORTANT = ("timings.json",)
TRIED = {"evaluate": 40, "forecast": 30, "intervene": 30, "simulate": 30, "compare": 25, "report": 25}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DAMAGED)
def test_commands_on_damaged_folders(tries, place, tmp_path, monkeypatch, name):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))
    patterns, more, results = DAMAGED[name]
    runs = tmp_path / "runs"

    def anew() -> None:
        shutil.rmtree(runs, ignore_errors=True)
        runs.mkdir()
        for part in ("run", "branches", "compared"):
            if any(part in pattern for pattern in (*patterns, *results)):
                shutil.copytree(place / part, runs / part)

    def run() -> tuple[int, str]:
        made = [str(word).replace(str(place / "run"), str(runs / "run")) for word in words(place, name, runs)]
        return call(*made, *more)

    anew()
    if name == "intervene":  # its branches say which run they are of by content, not by place
        assert run()[0] == 0
    files = sorted({path.relative_to(runs) for pattern in patterns for path in runs.glob(pattern) if path.is_file()})
    files = [path for path in files if path.name not in UNIMPORTANT]
    assert files
    code, said = run()
    assert code == 0, said
    whole = {result: (runs / result).read_bytes() for result in results}

    def attempt(drawn):
        file, damage = drawn
        anew()
        path = runs / file
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage(path.read_bytes()))
        code, said = run()
        assert "Traceback" not in said
        if code == 0:
            if name == "report" and "rollouts" in file.parts and damage is None:
                return  # rollouts may be elsewhere: the page does without them
            assert {result: (runs / result).read_bytes() for result in results} == whole, (file, damage)
        else:
            last = said.strip().splitlines()[-1]
            assert code == 2 and last.startswith("mf-llm: ") and said.count("mf-llm: ") == 1, (file, damage, said)

    drawn = st.tuples(st.sampled_from(files), st.none() | damages())
    try_many(tries, 2, TRIED[name], drawn, attempt)


RECORDS = st.sampled_from([b"", b"[]", b"null", b"3", b'"a"', b"{}", b"{", b"\xff\xfe", b'{"a": NaN}', b"\x1f\x8b"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("evaluate", "run/run.json"),
        ("intervene", "branches/intervene.json"),
        ("simulate", "run/run.json"),
        ("report", "compared/summary.json"),
    ],
)
def test_records_of_another_kind(tries, place, tmp_path, monkeypatch, name, file):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))
    runs = tmp_path / "runs"
    for part in ("run", "branches", "compared"):
        shutil.copytree(place / part, runs / part)

    def attempt(content):
        (runs / file).write_bytes(content)
        made = [str(word).replace(str(place / "run"), str(runs / "run")) for word in words(place, name, runs)]
        code, said = call(*made, *DAMAGED[name][1])
        assert code == 2 and "Traceback" not in said and str(runs) in said, said

    try_many(tries, 4, 10, RECORDS, attempt)


def test_older_comparisons_with_a_part_missing_or_of_another_kind(tries, place, tmp_path):
    """Without checksums: nothing but an error that names the folder, or a page."""
    shutil.copytree(place / "compared", tmp_path / "compared")
    path = tmp_path / "compared" / "summary.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    paths = list(paths_of(record))

    def attempt(drawn):
        (place_of, value), drop = drawn
        changed = json.loads(json.dumps(record))
        target = changed
        for part in place_of[:-1]:
            target = target[part]
        if drop:
            del target[place_of[-1]]
        else:
            target[place_of[-1]] = value
        path.write_text(json.dumps(changed))
        code, said = call("report", tmp_path / "compared")
        assert code in (0, 2) and "Traceback" not in said, said
        assert code == 0 or str(tmp_path) in said or "must" in said, said

    values = NUMBERS | TRUTHS | LISTS | MAPPINGS | TEXTS | BROKEN_TEXTS | st.none()
    try_many(tries, 2, 30, st.tuples(st.tuples(st.sampled_from(paths), values), TRUTHS), attempt)


def paths_of(record: Any, path: tuple[Any, ...] = ()) -> Any:
    for key, value in record.items() if isinstance(record, dict) else enumerate(record):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths_of(value, (*path, key))


def test_runs_without_a_folder(tries, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "missing", tmp_path / "file", tmp_path):
        for command in (["evaluate"], ["report"], ["forecast", "--data", "bridge-closure"]):
            tries.add()
            code, said = call(*command, folder)
            assert code == 2 and said.count("\n") == 1 and str(folder) in said, said
        with pytest.raises(InputError):
            load_rollouts(folder)
