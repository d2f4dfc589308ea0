"""The speed benchmark: all methods do the same work, and what is reported is what was measured."""

import csv
import json
import mmap
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from small_events import model_of

from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.speed import speed_case
from mf_llm.speed.ceilings import measure_ceilings
from mf_llm.speed.peak_memory import peak_memory
from mf_llm.speed.speed_case import METHODS, SpeedCase, token_ids
from mf_llm.speed.speed_methods import option_scores, sampled_answers
from mf_llm.speed.speed_run import run

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import benchmark_speed  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def case_of(readout, method, **changes):
    return SpeedCase(**{"readout": readout, "method": method, "prefix": 30, "people": 40, "measured": 20} | changes)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_all_methods_read_the_same_likelihoods(family):
    backbone = model_of(family).backbone("policy")
    tokens = token_ids(case_of("exact", "mf_llm"), 480)
    scores = [option_scores(method, backbone, *tokens) for method in METHODS["exact"]]
    assert scores[0].shape == (20, speed_case.N_OPTIONS)
    assert all(one == pytest.approx(scores[0], abs=1e-4) for one in scores[1:])


def test_all_methods_draw_from_the_same_distribution():
    model = model_of("llama")
    backbone, config = model.backbone("policy"), model.generation_config_of("policy")
    config.do_sample, config.temperature, config.top_p, config.top_k = True, 0.8, 0.85, 0
    prefix, people, _ = token_ids(case_of("sampled", "mf_llm", measured=1), 480)
    torch.manual_seed(0)
    counts = []
    for method in ("reference", "mf_llm"):
        answers = sampled_answers(method, backbone, prefix, people * 600, config)
        assert {len(answer) for answer in answers} == {speed_case.NEW_TOKENS}
        counts.append(np.bincount([answer[0] for answer in answers], minlength=480))
    seen = np.array(counts)[:, np.sum(counts, axis=0) >= 10]
    assert seen.shape[1] > 3
    assert stats.chi2_contingency(seen).pvalue > 1e-3


@pytest.mark.parametrize(("readout", "method"), [(r, m) for r, methods in METHODS.items() for m in methods])
def test_what_went_through_the_model_is_counted(readout, method, tmp_path):
    folder = save_tiny_backbone(tmp_path, "llama")
    case = case_of(readout, method)
    report = run({"model": str(folder), "dtype": "float32", "threads": 0, "cases": [asdict(case)]})
    (result,) = report["results"]
    person, new, options = speed_case.PERSON_TOKENS, speed_case.NEW_TOKENS, speed_case.N_OPTIONS
    tail = speed_case.OPTION_TOKENS
    whole = {
        ("sampled", "reference"): 20 * (30 + person),
        ("sampled", "mf_llm"): 30 + 20 * person,
        ("exact", "reference"): 20 * options * (30 + person + tail),
        ("exact", "one pass per person"): 1 + 20 * (29 + person + options * (tail - 1)),
        ("exact", "mf_llm"): 30 + 20 * (person + options * (tail - 1)),
    }
    if method == "continuous batching":  # pads, and shares blocks: no fixed number
        assert result["decode_tokens"] is None and result["prefill_tokens"] > 0
    else:
        assert result["prefill_tokens"] == whole[readout, method]
        assert result["decode_tokens"] == (20 * (new - 1) if readout == "sampled" else 0)
        assert 0 < result["prefill_seconds"] + result["decode_seconds"] < result["seconds"]
    assert result["compute_share"] > 0 and result["bandwidth_share"] > 0
    assert report["dtype"] == "float32" and report["ceilings"]["flops"] > 0


def touch_memory():
    """64 MiB of the system itself: what an allocator hands out may have been held all the time."""
    with mmap.mmap(-1, 2**26) as memory:
        for _ in range(64):
            memory.write(b"x" * 2**20)


def test_the_peak_is_that_of_the_work():
    device = torch.device("cpu")
    before = peak_memory(lambda: None, device)
    if before is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert peak_memory(touch_memory, device) >= before + 2**25
    assert peak_memory(lambda: None, device) < before + 2**25
    assert measure_ceilings(device, torch.float32, repeats=1).bandwidth > 0


def test_the_script_writes_a_table_a_record_and_a_figure(tmp_path):
    folder = save_tiny_backbone(tmp_path / "model", "llama")
    command = ["examples/benchmark_speed.py", "--output", tmp_path / "out", "--model", folder, "--dtype", "float32"]
    command += ["--readouts", "exact", "--prefixes", "20", "40", "--people", "8", "50", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out/speed.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2 and {row["measured"] for row in rows} == {"4", "8", "16", "50"}
    for row in rows:
        assert float(row["people_per_second"]) == pytest.approx(int(row["measured"]) / float(row["seconds"]), rel=1e-4)
    record = json.loads((tmp_path / "out/speed.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("python examples/benchmark_speed.py --output")
    assert "exact, one pass per person" in done.stdout and "x 1.0" in done.stdout
    assert (tmp_path / "out/speed.png").read_bytes().startswith(b"\x89PNG")


def test_only_some_prefixes_come_again_and_some_people_are_asked():
    args = benchmark_speed.SpeedArguments("out", prefixes=[600, 50], people=[16, 256], measured=40)
    args.repeated_prefixes = [600]
    turns = [benchmark_speed.cases(args, "exact", "mf_llm", turn) for turn in range(2)]
    assert [(case.prefix, case.people, case.measured) for case in turns[0]] == [
        (50, 16, 16), (50, 256, 40), (600, 16, 16), (600, 256, 40)
    ]  # fmt: skip
    assert turns[1] == turns[0][2:]
    assert {case.measured for case in benchmark_speed.cases(args, "exact", "reference")} == {4}
    args.measured, args.repeated_prefixes = 0, None
    assert [case.measured for case in benchmark_speed.cases(args, "sampled", "mf_llm", 1)] == [16, 256] * 2


def test_what_was_asked_for_stands_beside_what_was_found():
    def record(readout, method, rate, peak):
        case = {"readout": readout, "method": method, "prefix": 600, "people": 256}
        return case | {"people_per_second": rate, "peak_bytes": peak}

    records = [
        *(record("sampled", "reference", 0.5, 2000), record("sampled", "mf_llm", 4.0, 1000)),
        *(record("exact", "reference", 0.25, None), record("exact", "mf_llm", 6.0, None)),
    ]
    likelihoods = {benchmark_speed.place(one): None for one in records}
    likelihoods["exact", "reference", 600, 256] = np.log([[0.5, 0.5]])
    likelihoods["exact", "mf_llm", 600, 256] = np.log([[0.5, 0.5], [0.9, 0.1]])
    sampled, exact = benchmark_speed.bars(records, likelihoods)
    assert (sampled["times"], sampled["at_least"], sampled["memory"], sampled["difference"]) == (8.0, 4.0, 0.5, None)
    assert (exact["times"], exact["at_least"], exact["memory"]) == (24.0, 20.0, None)
    assert exact["difference"] == pytest.approx(0)
    likelihoods["exact", "mf_llm", 600, 256] = np.log([[0.6, 0.4]])
    assert benchmark_speed.bars(records, likelihoods)[1]["difference"] == pytest.approx(0.1)


def test_a_run_keeps_the_likelihoods_of_the_same_people(tmp_path):
    folder = save_tiny_backbone(tmp_path, "llama")
    found = []
    for method, measured in (("mf_llm", 20), ("reference", 4)):
        case = asdict(case_of("exact", method, measured=measured))
        settings = {"model": str(folder), "dtype": "float32", "threads": 0, "batch_tokens": 200, "cases": [case]}
        report = run(settings)
        assert report["batch_tokens"] == 200
        found.append(np.array(report["results"][0]["likelihoods"]))
    assert found[0].shape == (4, speed_case.N_OPTIONS)
    assert found[0] == pytest.approx(found[1], abs=1e-4)
