"""Words behind ``mf-llm`` that cannot be meant: exit code 2, one message, and nothing done."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from hypothesis import strategies as st
from wrong_values import try_many

from mf_llm import cli

pytestmark = pytest.mark.trust("inputs", "wrong words on the command line")

NO_WHOLE = st.sampled_from(["", "x", "1.5", "nan", "inf", "1e3", "--", "0x10", "one", "½", "9" * 5000, "[1]", "None"])
NO_NUMBER = st.sampled_from(["", "x", "1,5", "--", "None", "1e", "½x"])
NOT_POSITIVE = NO_NUMBER | st.sampled_from(["nan", "-nan", "inf", "-inf", "0", "-1", "1e999"])
BELOW_1 = NO_WHOLE | st.integers(-(2**70), 0).map(str)
BELOW_0 = NO_WHOLE | st.integers(-(2**70), -1).map(str)
TOO_LARGE = st.sampled_from([str(2**63), "9" * 400])
WORD = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=12).filter(
    lambda word: not word.startswith("-")
)
NO_WORD = WORD.map("x-".__add__)
PATH = st.sampled_from(["no-such-file", "no/such/file.yaml", ".", "a" * 300, "/dev/null/x", "é\u2028.csv", "file.txt"])

NO_LENGTH = st.sampled_from(["-1", "1.5", "9" * 400, "9" * 5000, "", "nan", "²"])

SIMULATE = ["simulate", "bridge-closure", "--dry-run"]
WAVES = ["simulate", "vaccine-intention", "--dry-run"]
# What is right, the option, and values that are certainly wrong for it.
OPTIONS = {
    **{f"simulate {name}": (SIMULATE, name, BELOW_1) for name in (
        "--limit", "--agents-per-step", "--max-actions", "--people-per-wave", "--max-new-tokens",
        "--signal-max-tokens",
        "--option-orders", "--seeds", "--events-together")},
    **{f"simulate large {name}": (SIMULATE, name, TOO_LARGE) for name in (
        "--agents-per-step", "--max-actions", "--people-per-wave", "--max-new-tokens", "--seed")},
    "simulate --seed": (SIMULATE, "--seed", BELOW_0), "simulate --writers": (SIMULATE, "--writers", BELOW_0),
    **{f"simulate {name}": (SIMULATE, name, NO_WORD) for name in (
        "--split", "--signal", "--readout", "--action", "--steps", "--dtype", "--event", "--dimension")},
    "simulate --warm-up": (SIMULATE, "--warm-up", NO_WORD | NO_LENGTH),
    "simulate --seconds": ([*SIMULATE, "--steps", "time"], "--seconds-per-step", NOT_POSITIVE),
    "simulate --bins": ([*SIMULATE, "--population", "no-table.csv"], "--bins", PATH),
    "simulate --population": (SIMULATE, "--population", PATH),
    "simulate --n-people": (SIMULATE, "--n-people", BELOW_1),
    "simulate --weight-column": (SIMULATE, "--weight-column", WORD),
    "simulate alone": (SIMULATE, "--n-steps", BELOW_1),
    "simulate --endpoint": ([*SIMULATE, "--endpoint-model", "m"], "--endpoint", NO_WORD | st.sampled_from(
        ["http://", "http://[", "http://h:x", "ftp://h", "", "http://h:99999"])),
    **{f"endpoint {name}": ([*SIMULATE, "--endpoint", "http://127.0.0.1:9", "--endpoint-model", "m"], name, wrong)
       for name, wrong in {
           "--concurrency": BELOW_1, "--retries": BELOW_0, "--timeout": NOT_POSITIVE,
           "--requests-per-minute": NOT_POSITIVE, "--api-key-env": st.just("NO_SUCH_VARIABLE"),
           "--price": st.sampled_from(["", "1", "1,2,3", "a,b", "-1,1", "nan,1", "inf,inf", "1;2", ","]),
       }.items()},
    **{f"too many {name}": (right, name, st.integers(10**6 + 1, 2**70).map(str)) for right, name in (
        (SIMULATE, "--seeds"), (["compare", "bridge-closure"], "--bootstrap"),
        (["compare", "bridge-closure"], "--replay"), (SIMULATE, "--n-steps"), (SIMULATE, "--concurrency"))},
    "wave --warm-up": (WAVES, "--warm-up", NO_WORD | st.sampled_from(["", "9" * 400])),
    "simulate": (["simulate", "--dry-run"], None, PATH),
    "evaluate": (["evaluate"], None, PATH), "evaluate --seed": (["evaluate", "."], "--seed", BELOW_0),
    "forecast": (["forecast", "--data", "bridge-closure"], None, PATH),
    "forecast --data": (["forecast", "."], "--data", PATH),
    "forecast --bootstrap": (["forecast", ".", "--data", "bridge-closure"], "--bootstrap", BELOW_1),
    "forecast --recalibrate-on": (["forecast", ".", "--data", "bridge-closure"], "--recalibrate-on", PATH),
    "report": (["report"], None, PATH), "report --max-events": (["report", "."], "--max-events", BELOW_0),
    "intervene": (["intervene", "--plan", "no-plan.yaml"], None, PATH),
    "intervene --plan": (["intervene", "."], "--plan", PATH),
    "intervene --seeds": (["intervene", ".", "--plan", "p"], "--seeds", BELOW_1),
    "compare": (["compare"], None, PATH), "compare --methods": (["compare", "bridge-closure"], "--methods", NO_WORD),
    "compare --method-list": (["compare", "bridge-closure"], "--method-list", PATH),
    "compare --training-table": (["compare", "bridge-closure"], "--training-table", PATH),
    "compare --data-sets": (["compare", "bridge-closure"], "--data-sets", NO_WORD),
    "compare --bootstrap": (["compare", "bridge-closure"], "--bootstrap", BELOW_1),
    "compare --replay": (["compare", "bridge-closure"], "--replay", BELOW_1),
    "annotate": (["annotate"], None, PATH), "memory": (["memory"], None, PATH),
    "unknown option": (SIMULATE, None, WORD.map("--colour-".__add__)), "unknown command": ([], None, NO_WORD),
}  # fmt: skip


def call(*words: str) -> tuple[int, str]:
    """``mf-llm WORDS`` in this process: exit code and what it said."""
    said = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(StringIO()):
        patch.setattr(sys, "argv", ["mf-llm", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0), said.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_wrong_words(tries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file.txt").write_text("no table")

    def attempt(drawn):
        (right, option, _), value = OPTIONS[drawn[0]], drawn[1]
        code, said = call(*right, *([option] if option else []), value)
        assert code == 2 and said.strip() and "Traceback" not in said, (code, said)
        if said.startswith("mf-llm: "):
            assert said.count("\n") == 1, said
        elif said.startswith("left out: "):  # events of a data set that the words do not fit
            assert said.strip().splitlines()[-1].startswith("mf-llm: "), said
        else:  # of the library that reads the words
            assert "Error: " in said or "Usage: " in said, said
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file.txt"], "something was written"

    drawn = st.sampled_from(sorted(OPTIONS)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name][2]))
    try_many(tries, 30, 300, drawn, attempt)


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_outputs_that_are_no_folders(tries, tmp_path, kind):
    (tmp_path / "file").write_text("precious")
    output = tmp_path / "file" / "run" if kind == "below a file" else tmp_path / "file"
    for words in (
        ["compare", "bridge-closure", "--methods", "uniform,carry", "--bootstrap", "10"],
        ["simulate", "bridge-closure", "--warm-up", "8", "--model", "no-such-model"],
        ["annotate", "bridge-closure", "--annotator", "rule"],
    ):
        tries.add()
        code, said = call(*words, "--output", str(output))
        assert code == 2 and said.strip().splitlines()[-1].startswith("mf-llm: "), said
        assert (tmp_path / "file").read_text() == "precious"
