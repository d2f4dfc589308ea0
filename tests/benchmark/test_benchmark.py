"""The benchmark end to end: a list of methods, tiny models, rollouts made once, scores, bars, Markdown."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_benchmark import TABLE, save_tuned, write_data

from mf_llm.benchmark.bars import ANCHORS, BASELINES, SEEDS, anchored_bars, find_bars, plain_bars, reference_bars
from mf_llm.benchmark.benchmark import Benchmark
from mf_llm.benchmark.job import checkpoint_hashes
from mf_llm.benchmark.markdown import annotators_table, bars_table, methods_table, pairs_by_data_set, pairs_table
from mf_llm.benchmark.method_list import load_method_list
from mf_llm.benchmark.training_runs import load_training_table
from mf_llm.commands.compare_methods import CompareRequest, run_compare
from mf_llm.errors import InputError
from mf_llm.evaluation.method_table import ALL, COMPLETE, MethodTable
from mf_llm.events import load_event_sets
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.reporting.comparison_files import ComparisonFiles

EXAMPLES = Path(__file__).parents[2] / "examples/configs"

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True.*:UserWarning"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Data, backbone, checkpoints and the list of methods; the tests share the rollouts in it."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_data(folder / "data")
    base = save_tiny_backbone(folder / "base", "qwen2")
    for seed in (0, 1):
        save_tuned(base, folder / f"tuned{seed}", seed)
    (folder / "methods.yaml").write_text(TABLE, encoding="utf-8")
    run(folder)
    return folder


def run(place: Path, methods: str = "all", *, output: Path | None = None, **changes) -> None:
    """``mf-llm compare``."""
    known = {"method_list": place / "methods.yaml", "checkpoints": str(place), "rollouts": place / "rollouts"}
    known |= {"model": str(place / "base"), "dtype": "float32", "n_bootstrap": 100, "seed": 0}
    run_compare(
        CompareRequest(
            events=str(place / "data"),
            methods=tuple(methods.split(",")),
            output=output or place / "results",
            **known | changes,
        )
    )


def benchmark(place: Path, methods: str = "all", **changes) -> Benchmark:
    entries = load_method_list(place / "methods.yaml")
    known = {"rollouts": place / "rollouts", "checkpoints": str(place), "base": str(place / "base")}
    sets = load_event_sets(str(place / "data"))
    return Benchmark(sets, entries.select(methods.split(",")), entries, **known | changes)


def table_of(place: Path, **changes):
    """A table of its own, whose cells may be changed."""
    found = benchmark(place, **changes).compare(n_bootstrap=100).methods
    return MethodTable(found.cells, found.training, found.resampling)


def rows(path: Path, **wanted: str) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def test_rollouts_are_made_once_and_what_is_missing_is_named(place, tmp_path, capsys):
    rollouts = {"rollouts": tmp_path / "rollouts"}
    run(place, "mine,base,carry", data_sets=("threads",), limit=2, output=tmp_path / "part", **rollouts)
    assert capsys.readouterr().out.count("2 of 2 events to simulate") == 3
    # The same events among all of them: the others are missing, and no mean goes round them.
    run(place, "mine,base,carry", simulate=False, output=tmp_path / "half", **rollouts)
    told = capsys.readouterr().err
    assert "missing: mine, threads/stance: seed 0: 2 of 4 events are not simulated; seed 1: 2 of 4" in told
    assert "missing: base, poll/stance: seed 0: not simulated" in told
    [row] = rows(tmp_path / "half/pairs.csv", a="mine", dataset=ALL)
    assert row["difference"] == "" and "threads/stance: seed 0: 2 of 4 events" in row["status"]
    assert rows(tmp_path / "half/methods.csv", method="carry", dataset=ALL)[0]["status"] == COMPLETE
    summary = json.loads((tmp_path / "half/summary.json").read_text(encoding="utf-8"))
    assert set(summary["overall"]) == {"carry"}

    # Then all of it: finished events stay as they are.
    [rollout] = (tmp_path / "rollouts/mine/seed1").glob("threads-*/rollouts/test-0-seed1/actions.parquet")
    before = rollout.stat().st_mtime_ns
    run(place, "mine,base,carry", output=tmp_path / "whole", **rollouts)
    assert "mine, seed 1, threads: 2 of 4 events to simulate" in capsys.readouterr().out
    assert rollout.stat().st_mtime_ns == before
    run(place, "mine,base,carry", output=tmp_path / "again", **rollouts)
    assert "to simulate" not in capsys.readouterr().out
    for name in ("results.csv", "methods.csv", "pairs.csv", "summary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    run(place, "mine,base,carry", output=tmp_path / "dry", dry_run=True, **rollouts)
    assert capsys.readouterr().out.count(": done (") == 6 and not (tmp_path / "dry").exists()


def test_the_results_are_those_of_the_models(place):
    results = place / "results"
    found = rows(results / "methods.csv", training_seed="mean")
    kl = {(row["method"], row["dataset"]): float(row["kl"]) for row in found}
    # Anchored without adapters is the carry-forward share, simulated or not.
    for scope in ("threads/stance", "poll/stance", ALL):
        assert kl["base+anchored", scope] == pytest.approx(kl["carry", scope], abs=1e-5)
        assert kl["anchored-zero", scope] == kl["carry", scope]
    # Only the policy answers without a signal: with its adapters at zero it is the base.
    assert kl["signal-only", "threads/stance"] == pytest.approx(kl["base", "threads/stance"], abs=1e-6)
    assert kl["mine", "threads/stance"] != pytest.approx(kl["base", "threads/stance"], abs=1e-4)
    seeds = rows(results / "methods.csv", method="mine", dataset="threads/stance")
    assert [row["training_seed"] for row in seeds] == ["0", "1", "mean"]
    assert float(seeds[2]["kl"]) == pytest.approx((float(seeds[0]["kl"]) + float(seeds[1]["kl"])) / 2, rel=1e-4)
    # The rows of the events are means over training seeds, and their mean is that of the data set.
    events = rows(results / "results.csv", method="mine", dataset="threads")
    assert {row["readout"] for row in events} == {"exact"} and len(events) == 4
    assert sum(float(row["kl"]) for row in events) / 4 == pytest.approx(kl["mine", "threads/stance"], rel=1e-4)
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    assert summary["missing"] == [] and summary["protocol"] == 1
    record = summary["data_sets"][0]["methods"]["mine"]
    assert record["kl"]["value"] == pytest.approx(kl["mine", "threads/stance"], rel=1e-4)
    assert record["gain"]["low"] < record["gain"]["value"] < record["gain"]["high"]
    survey = summary["surveys"][0]["methods"]["mine"]
    assert survey["kl"]["value"] == pytest.approx(kl["mine", "poll/stance"], rel=1e-4)
    assert set(summary["overall"]) == set(summary["methods"])
    files = summary["made"]["mine"]["checkpoints"]["1"]
    assert files == checkpoint_hashes(str(place / "tuned1")) and "adapter_model.safetensors" in files
    assert str(place) not in (results / "summary.json").read_text(encoding="utf-8")
    assert "--methods all" in summary["command"]
    assert methods_table(results).count("\n") == 11
    assert pairs_table(results).splitlines()[2].startswith("| `mine` - `base` | ")
    straight, turned = (
        [[cell.strip() for cell in line[1:-1].split("|")] for line in table(results).splitlines()]
        for table in (pairs_table, pairs_by_data_set)
    )
    del straight[1], turned[1]
    assert turned == [list(column) for column in zip(*straight, strict=True)] and len(turned) == len(straight[0])
    assert "| open |" in bars_table(results)


def test_what_is_simulated_otherwise_than_trained_is_told(place, tmp_path, capsys):
    shutil.copytree(place / "tuned0", tmp_path / "told0")
    config = json.loads((tmp_path / "told0/config.json").read_text(encoding="utf-8"))
    trained = {"signal": "statistics", "shown_answers": 8, "choice_temperature": 2.0, "agents_per_step": 4}
    (tmp_path / "told0/config.json").write_text(json.dumps(config | {"simulation": trained}), encoding="utf-8")
    (tmp_path / "methods.yaml").write_text(
        """
methods:
  as-trained:
    checkpoint: "{checkpoints}/told{seed}"
    options: {signal: statistics, shown_answers: 8, choice_temperature: 2.0}
  otherwise: {checkpoint: "{checkpoints}/told{seed}", options: {signal: both, shown_answers: 8}}
""",
        encoding="utf-8",
    )
    changes = {"method_list": tmp_path / "methods.yaml", "checkpoints": str(tmp_path), "dry_run": True}
    run(place, "as-trained,otherwise", output=tmp_path / "dry", **changes)
    assert capsys.readouterr().err.splitlines() == [
        "otherwise: trained with signal statistics, simulated with both",
        "otherwise: trained with choice_temperature 2.0, simulated with 1.0",
    ]


def test_a_sampled_method_pools_rollouts(place, tmp_path):
    sampled = {"data_sets": ("threads",), "limit": 1, "rollouts": tmp_path / "rollouts", "output": tmp_path / "out"}
    run(place, "base,base+sampled,carry", **sampled)
    [folder] = (tmp_path / "rollouts/base+sampled/seed0").iterdir()
    assert len(list((folder / "rollouts").iterdir())) == 16
    [row] = rows(tmp_path / "out/results.csv", method="base+sampled")
    [exact] = rows(tmp_path / "out/results.csv", method="base")
    assert (row["readout"], exact["readout"]) == ("sampled", "exact")
    assert 0.3 < float(row["kl"]) / float(exact["kl"]) < 3
    with pytest.raises(InputError, match="`methods` must not ask for 'carry\\+sampled'"):
        run(place, "carry+sampled", **sampled)


def test_real_texts_are_replayed_through_an_annotator(place, tmp_path):
    """Its row is what its errors cost; readings are kept without the texts, and read once."""
    listed = "methods: {carry: {forecaster: carry}, replay-llm: {annotator: llm}, replay-rule: {annotator: rule}}\n"
    (tmp_path / "methods.yaml").write_text(listed + "pairs: [[replay-llm, carry]]\n", encoding="utf-8")
    changes = {"method_list": tmp_path / "methods.yaml", "rollouts": tmp_path / "rollouts"}
    run(place, output=tmp_path / "none", simulate=False, **changes)
    [row] = rows(tmp_path / "none/methods.csv", method="replay-llm", dataset="threads/stance")
    assert row["status"] == "missing: not annotated"
    run(place, output=tmp_path / "out", **changes)
    [row] = rows(tmp_path / "out/methods.csv", method="replay-llm", dataset="threads/stance")
    assert row["status"] == COMPLETE and float(row["kl"]) > 0
    [survey] = rows(tmp_path / "out/methods.csv", method="replay-llm", dataset="poll/stance")
    [rule] = rows(tmp_path / "out/methods.csv", method="replay-rule", dataset="threads/stance")
    assert "people wrote nothing" in survey["status"] and "the rule reads behaviour alone" in rule["status"]
    quality = json.loads((tmp_path / "out/annotators.json").read_text(encoding="utf-8"))
    [told] = quality["rows"]
    assert told["annotator"] == "llm" and told["n_texts"] == 4 * 8 and 0 <= told["macro_f1"]["value"] <= 1
    table = annotators_table(tmp_path / "out").splitlines()
    cells = table[2][2:-2].split(" | ")
    assert len(table) == 3 and cells[:4] == ["llm", "threads", "32", str(told["n_failed"])]
    assert cells[4].startswith(f"{told['macro_f1']['value']:.3f} [") and cells[7].startswith(
        f"{float(row['kl']):.3f} ["
    )
    [kept] = (tmp_path / "rollouts/replay-llm").glob("threads-*/annotations.json")
    assert "word" not in kept.read_text(encoding="utf-8")
    before = kept.stat().st_mtime_ns
    run(place, output=tmp_path / "again", simulate=False, **changes)
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "again/pairs.csv").read_bytes() == (tmp_path / "out/pairs.csv").read_bytes()
    # In a report it is a yardstick: no method that could be the best.
    files = ComparisonFiles.load(tmp_path / "out")
    assert (files.names, files.replays) == (["carry"], ["replay-llm", "replay-rule"])
    with pytest.raises(InputError, match="is not simulated, and no action can be drawn"):
        run(place, "replay-llm+sampled", output=tmp_path / "out", **changes)


@pytest.mark.parametrize("special", [{}, {"limit": 1}])
def test_the_results_are_a_page_too_and_it_shows_no_texts(place, tmp_path, capsys, special):
    run(place, "carry,base", output=tmp_path / "out", report=True, simulate=False, **special)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "base" in page and "data:image" in page and "word 1" not in page
    told = capsys.readouterr().out
    assert f"Report: {tmp_path / 'out/report.html'} (mf-llm report {tmp_path / 'out'} --events" in told


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (InputError("`page` must fit."), "no report: `page` must fit."),
        (ModuleNotFoundError("gone", name="jinja2"), "no report: jinja2 is not installed: pip install 'mf-llm["),
    ],
)
def test_results_stay_where_no_page_can_be_made(place, tmp_path, capsys, monkeypatch, error, why):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr("mf_llm.reporting.page.write_report", broken)
    run(place, "carry", output=tmp_path / "out", report=True)
    assert capsys.readouterr().err.startswith(why)
    assert (tmp_path / "out/results.csv").is_file() and not (tmp_path / "out/report.html").exists()


def test_a_quick_trial_is_a_small_part_of_the_same(place, tmp_path, capsys):
    more = "quick: {methods: [carry, base, mine], options: {signal_max_tokens: 2}, "
    more += "data_sets: {poll: {max_people_per_step: 3}}}"
    (tmp_path / "methods.yaml").write_text(TABLE + more + "\n", encoding="utf-8")
    changes = {"method_list": tmp_path / "methods.yaml", "rollouts": tmp_path / "rollouts", "quick": True}
    run(place, output=tmp_path / "out", **changes)
    told = capsys.readouterr().out
    assert told.count("1 of 1 events to simulate") == 4 and "mine, seed 1" not in told
    found = rows(tmp_path / "out/results.csv")
    assert {row["method"] for row in found} == {"carry", "base", "mine"}
    assert {(row["dataset"], row["event"], row["n_windows"]) for row in found} == {
        ("threads", "test-0", "1"), ("poll", "poll", "1"),
    }  # fmt: skip
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert summary["limit"] == 1 and "--quick" in summary["command"] and summary["missing"] == []
    [poll] = (tmp_path / "rollouts/base/seed0").glob("poll-*/run.json")
    config = json.loads(poll.read_text(encoding="utf-8"))["config"]
    assert (config["max_people_per_step"], config["signal_max_tokens"]) == (3, 2)


def test_processes_share_the_events(place, tmp_path, monkeypatch, capsys):
    """Each takes its part; together they make what one makes."""
    import accelerate

    class Process:
        def __init__(self, index):
            self.process_index, self.num_processes, self.is_main_process = index, 2, index == 0

        def wait_for_everyone(self):
            pass

    for index in (1, 0):
        monkeypatch.setattr(accelerate, "PartialState", lambda index=index: Process(index))
        run(place, "base", data_sets=("threads",), rollouts=tmp_path / "rollouts", output=tmp_path / "out")
        done = sorted(path.parent.name for path in (tmp_path / "rollouts").rglob("rollout.json"))
        assert done == [f"test-{number}-seed0" for number in ((1, 3) if index else range(4))]
    [ours] = rows(tmp_path / "out/results.csv", method="base", event="test-3")
    [whole] = rows(place / "results/results.csv", method="base", event="test-3")
    assert ours["kl"] == whole["kl"]


def test_bars_say_what_holds_what_is_missed_and_what_is_open(place):
    table = table_of(place)
    assert [(bar.holds, bar.stated) for bar in plain_bars(table)] == [(None, True)] * 3 + [(None, False)]
    assert "state+calibrated: not asked for" in plain_bars(table)[0].note
    bars = {bar.name: bar for bar in anchored_bars(table)}
    over_zero = bars["G(mf-tuned+anchored over anchored-zero), mean of 2 data sets"]
    gain = table.gain("mf-tuned+anchored", "anchored-zero", ALL).interval()
    assert over_zero.holds == (gain.low > 0)
    assert over_zero.missed_by == (None if gain.low > 0 else pytest.approx(-gain.low))
    assert bars["G(mf-tuned+anchored over sft+anchored), poll/stance"].holds is None
    # A method is never above itself.
    for label in table.data_sets:
        table.cells["sft+anchored", label] = table.cells["mf-tuned+anchored", label]
    bars = {bar.name: bar for bar in anchored_bars(table)}
    itself = bars["G(mf-tuned+anchored over sft+anchored), poll/stance"]
    assert (itself.value.value, itself.holds, itself.missed_by) == (0.0, False, 0.0)


def test_fewer_training_seeds_than_the_protocol_asks_for_decide_nothing(place, monkeypatch):
    table = table_of(place)
    n_seeds = table.n_seeds("mf-tuned+anchored")
    assert n_seeds < SEEDS == 3 and table.n_seeds("nobody") == 0
    undecided = find_bars(table)["anchored"]
    assert {bar["holds"] for bar in undecided} == {bar["missed_by"] for bar in undecided} == {None}
    monkeypatch.setattr("mf_llm.benchmark.bars.SEEDS", n_seeds)
    decided = find_bars(table)["anchored"]
    assert {True, False} & {bar["holds"] for bar in decided}
    for before, after in zip(undecided, decided, strict=True):
        assert before["value"] == after["value"] and before["name"] == after["name"]
        assert before["note"].startswith(f"needs 3 training seeds, got {n_seeds}") == (after["holds"] is not None)


def test_the_bars_are_about_shares_alone_where_nothing_written_was_compared(place):
    table, name = table_of(place), "mf-statistics+anchored"
    cells = {}
    for label in table.data_sets:
        cell = table.cells["mf-tuned+anchored", label]
        cells[name, label] = replace(cell, scores=replace(cell.scores, method=name)) if cell.scores else cell
    both = MethodTable(table.cells | cells, table.training, table.resampling)
    assert find_bars(both) == find_bars(table)
    others = {key: cell for key, cell in both.cells.items() if key[0] not in ("mf-tuned", "mf-tuned+anchored")}
    found = find_bars(MethodTable(others, table.training, table.resampling))
    assert list(found) == ["anchored"]
    same = [bar | {"name": bar["name"].replace("mf-tuned", "mf-statistics")} for bar in find_bars(table)["anchored"]]
    assert [bar["name"] for bar in found["anchored"]] == [bar["name"] for bar in same]
    assert [bar["value"] for bar in found["anchored"]] == [bar["value"] for bar in same]


def test_the_reference_bars_take_skill_the_worst_data_set_and_variety(place):
    table, tuned = table_of(place), "mf-tuned+anchored"
    rows = {row["dataset"]: row for row in table.kl_rows() if (row["method"], row["training_seed"]) == (tuned, "mean")}
    here = [rows[name] for name in table.data_sets]
    for skill, holds in ((0.06, True), (0.04, False)):
        overall = {tuned: {"S": {"value": skill, "low": None, "high": None}}}
        pooled, loss, varied = reference_bars(table, overall)
        assert (pooled.value.value, pooled.holds) == (skill, holds)
        assert pooled.missed_by == (None if holds else pytest.approx(0.01))
    worst = min(here, key=lambda row: row["gain"])
    assert loss.value.value == -worst["gain"] and loss.value.high == -worst["gain_low"]
    assert loss.holds == (worst["gain"] >= -0.02) and loss.note == f"in {worst['dataset']}"
    ratio = sum(row["entropy_ratio"] for row in here) / len(here)
    assert varied.value.value == pytest.approx(ratio) and varied.holds == (0.8 <= ratio <= 1.2)
    # Without its runs on one data set nothing is said of the others.
    del table.cells[tuned, table.data_sets[0]]
    assert [bar.holds for bar in reference_bars(table, overall)] == [None] * 3
    assert len(find_bars(table, overall)["anchored"]) == len(anchored_bars(table)) + 3


def test_the_ratio_bar_takes_the_best_baseline(place):
    table = table_of(place)
    for name in BASELINES:
        for label in table.data_sets:
            table.cells[name, label] = table.cells["base" if name == "state" else "mine", label]
            table.cells[f"{name}+calibrated", label] = table.cells[name, label]
    kl = {name: table.kl(name, ALL).value for name in ("state", "recent")}
    for tuned in ("carry", "base"):
        ratio = plain_bars(table, tuned=tuned, sft="base")[0]
        value = table.kl(tuned, ALL).value / min(kl.values())
        assert ratio.value.value == pytest.approx(value)
        assert ratio.holds == (value <= 0.53)
        assert (ratio.missed_by is None) == ratio.holds
        assert ratio.note.startswith(f"the best is {min(kl, key=kl.get)}+calibrated")
        assert ("worse than uniform shares" in ratio.note) == (min(kl.values()) > table.kl("uniform", ALL).value)
        # The hardest: fine-tuning without a mean field is one of those to beat.
        hardest = plain_bars(table, tuned=tuned, sft="carry")[3]
        assert hardest.name.startswith(f"{tuned} / best language model without a mean field")
        assert hardest.value.value == pytest.approx(
            table.kl(tuned, ALL).value / min(*kl.values(), table.kl("carry", ALL).value)
        )
    # And so is the ablation that sees nothing of the others, where it was compared.
    table = MethodTable(
        table.cells | {("mf-no-signal", label): table.cells["carry", label] for label in table.data_sets},
        table.training,
        table.resampling,
    )
    assert plain_bars(table, tuned="base", sft="base")[3].value.value == pytest.approx(
        table.kl("base", ALL).value / min(*kl.values(), table.kl("carry", ALL).value)
    )


def test_a_baseline_worse_than_uniform_shares_is_told(place):
    names = [f"{name}{suffix}" for name in BASELINES for suffix in ("", "+calibrated")]
    for baseline, yardstick, told in (
        ("base", "base", False),
        ("carry", "uniform", True),  # the labels of these events go round: equal shares are near them
        ("uniform", "carry", False),
    ):
        table = table_of(place)
        for label in table.data_sets:
            cell, flat = table.cells[baseline, label], table.cells[yardstick, label]
            table.cells |= {(name, label): cell for name in names} | {("uniform", label): flat}
        note = plain_bars(table, tuned="base", sft="base")[0].note
        assert ("worse than uniform shares" in note) == told


def test_a_missing_checkpoint_is_named_and_the_others_are_made(place, tmp_path, capsys):
    (tmp_path / "tuned0").symlink_to(place / "tuned0")
    changes = {"checkpoints": str(tmp_path), "rollouts": tmp_path / "rollouts", "output": tmp_path / "out"}
    run(place, "mine,base", limit=1, **changes)
    captured = capsys.readouterr()
    assert "base, seed 0, threads: finished in" in captured.out
    assert captured.err.count("not made: mine, seed 1,") == 2 and "which is not there" in captured.err
    # What was said once is not said again, and the half that is there is no mean.
    assert "missing:" not in captured.err
    [row] = rows(tmp_path / "out/methods.csv", method="mine", dataset=ALL)
    assert row["kl"] == "" and "seed 1: `checkpoint` must be" in row["status"]


def test_other_settings_are_another_folder(place, tmp_path):
    (tmp_path / "methods.yaml").write_text(TABLE.replace("agents_per_step: 8", "agents_per_step: 4"), encoding="utf-8")
    first = benchmark(place, "base").jobs()[0]
    entries = load_method_list(tmp_path / "methods.yaml")
    known = {"rollouts": place / "rollouts", "checkpoints": str(place), "base": str(place / "base")}
    other = Benchmark(benchmark(place).event_sets, entries.select(["base"]), entries, **known).jobs()[0]
    assert first.folder != other.folder and first.folder.parent == other.folder.parent
    assert not first.unfinished_events() and len(other.unfinished_events()) == len(other.events)
    # So are other weights.
    shutil.copytree(place / "tuned0", tmp_path / "tuned0")
    tuned = benchmark(place, "mine").jobs()[0]
    assert benchmark(place, "mine", checkpoints=str(tmp_path)).jobs()[0].folder == tuned.folder
    weights = tmp_path / "tuned0/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert benchmark(place, "mine", checkpoints=str(tmp_path)).jobs()[0].folder != tuned.folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("forecaster: carry}", "forecaster: tomorrow}", "must be one of uniform, prior, carry"),
        ("[mine, base]", "[mine, bass]", "`pairs` must be one of .* got 'bass'"),
        ("seeds: [0, 1], ", "seeds: [0, 0], ", "must be different whole numbers"),
        ("seeds: [0, 1], ", "seeds: [0, 1000], ", "must be different whole numbers below 1000"),
        ("roles: [mean_field]", "roles: [field]", "must be one of policy, mean_field, got 'field'"),
        ("tuned{seed}", "tuned0", "must hold {seed} where there are several training seeds"),
        ("base: {", "base: {sed: 1, ", "method 'base' must have no keys but"),
        (
            "carry: {forecaster",
            "carry: {roles: [policy], forecaster",
            "must be a forecaster, an annotator or a simulation",
        ),
        ("agents_per_step", "agents_per_stop", r"options of `options` must have no keys but .* got agents_per_stop"),
        ("methods:", "methods: [", "line 8: must be valid YAML"),
        ("base: {", "tuned: {", "must not be named like a group"),
    ],
)
def test_mistakes_in_the_list_are_named(place, tmp_path, old, new, message):
    assert old in TABLE
    (tmp_path / "methods.yaml").write_text(TABLE.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        run(place, method_list=tmp_path / "methods.yaml", rollouts=tmp_path / "rollouts", output=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "base,bass"}, "`--methods` must be different names out of uniform, carry, .* got 'bass'"),
        ({"methods": "base,base"}, "must be different names, got 'base' twice"),
        ({"methods": "base", "data_sets": ("rumours",)}, "`--data-sets` must be different names out of poll, threads"),
    ],
)
def test_mistakes_of_the_call_are_named(place, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(place, output=tmp_path, **changes)


def test_groups_of_methods(place):
    entries = load_method_list(place / "methods.yaml")
    assert [entry.name for entry in entries.select(["untuned", "tuned"])] == [
        "base", "base+anchored", "mine", "mf-tuned+anchored", "signal-only",
    ]  # fmt: skip
    assert entries.select(["base", "forecasters"])[0].name == "base"
    assert len(entries.select(["all", "untuned"])) == len(entries.methods)


def test_the_list_that_ships_is_whole():
    """It names methods and options that exist, and all that the bars ask for."""
    methods = load_method_list().methods
    assert {*BASELINES, *(f"{name}+calibrated" for name in BASELINES)} <= set(methods)
    assert {*ANCHORS, "mf-tuned", "sft", "mf-tuned+anchored", "mf-policy-only", "mf-signal-only"} <= set(methods)
    several = [entry for entry in methods.values() if entry.kind == "tuned" and "{seed}" in entry.checkpoint]
    assert len(several) > 8 and all(len(entry.seeds) >= 3 for entry in several)


@pytest.mark.parametrize(
    ("methods", "table", "more_than"),
    [
        ("benchmark", None, 3),
        (EXAMPLES / "two_cores_methods.yaml", EXAMPLES / "two_cores_training.yaml", 3),
        (EXAMPLES / "nine_data_sets_methods.yaml", EXAMPLES / "nine_data_sets_training.yaml", 2),
        (EXAMPLES / "nine_data_sets_robustness.yaml", EXAMPLES / "nine_data_sets_training.yaml", 1),
    ],
)
def test_every_checkpoint_of_a_list_is_made_by_its_training_table(methods, table, more_than):
    found, runs = load_method_list(methods), load_training_table(table)["runs"]
    tuned = {name: one for name, one in found.methods.items() if one.kind == "tuned" and "{seed}" in one.checkpoint}
    made = {Path(entry.checkpoint).name.removesuffix("-seed{seed}"): entry for entry in tuned.values()}
    assert len(made) > more_than and set(made) <= set(runs)
    for name, entry in made.items():
        anchored = [one.options.get("anchored", False) for one in tuned.values() if one.checkpoint == entry.checkpoint]
        assert runs[name].get("anchored", False) in anchored, name


@pytest.mark.parametrize("variants", ["robustness", EXAMPLES / "nine_data_sets_robustness.yaml"])
def test_the_list_of_variants_is_whole(variants):
    """Each differs from its method in one thing, and is paired with it."""
    found = load_method_list(variants)
    for name, entry in found.methods.items():
        base, _, variant = name.partition(".")
        if variant:
            assert (name, base) in found.pairs
            changed = {key for key, value in entry.options.items() if found.methods[base].options.get(key) != value}
            assert len(changed) == 1 and entry.checkpoint == found.methods[base].checkpoint
