"""The scripts that measure training: the IB curve and the cost of a policy step, each end to end with a tiny model."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

pytest.importorskip("peft")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

import benchmark_policy_step  # noqa: E402
import learning_curve  # noqa: E402
import run_ib_curve  # noqa: E402
from ib_curve_plot import trailing_means  # noqa: E402
from ib_curve_results import point_rows  # noqa: E402

from mf_llm.models.tiny import save_tiny_backbone  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]

STANCES = ("support", "deny", "query")


def event(event_id, split, n=40):
    turns = [
        {
            "time": i,
            "state": {"party": ("left", "right")[i % 2]},
            "action": f"says {i}",
            "labels": {"stance": STANCES[(i * i) % 3]},
        }
        for i in range(n)
    ]
    record = {"event_id": event_id, "topic": f"Topic {event_id}.", "split": split, "turns": turns}
    return record | {"dimensions": {"stance": list(STANCES)}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "threads.jsonl"
    events = [event("a", "train"), event("b", "train"), event("c", "validation"), event("d", "validation")]
    path.write_text("".join(json.dumps(one) + "\n" for one in events), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_backbone(tmp_path_factory.mktemp("tiny") / "qwen2", "qwen2")


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


# -- IB curve ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve(data, tiny, tmp_path_factory):
    """Arguments of a small curve, and its finished run."""
    folder = tmp_path_factory.mktemp("curve")
    arguments = ["--data", str(data), "--model", str(tiny), "--betas", "4", "64", "--transitions", "4"]
    arguments += ["--validation-transitions", "4", "--num-signals", "2", "--signal-max-tokens", "6"]
    arguments += ["--transitions-per-step", "2", "--learning-rate", "0.01", "--evaluation-batch", "3"]
    arguments += ["--bootstrap", "50", "--runs", str(folder / "runs"), "--results", str(folder / "results")]
    assert run_ib_curve.main([*arguments, "--only", "64"]) == 0
    assert not (folder / "results").exists()  # the other points are missing
    assert run_ib_curve.main(arguments) == 0
    return arguments, folder


def test_ib_curve_writes_points_curves_and_pictures(curve):
    _, folder = curve
    names = {"ib_curve.csv", "ib_curve.json", "ib_curve.png", "learning_curve.csv", "learning_curve.png"}
    assert {path.name for path in (folder / "results").iterdir()} == names | {"transitions.csv"}
    points = {row["point"]: row for row in rows_of(folder / "results" / "ib_curve.csv")}
    assert list(points) == ["none", "prior", "untuned", "beta4", "beta64"]
    assert all(row["transitions"] == "4" and row["events"] == "2" for row in points.values())
    assert float(points["none"]["rate"]) == 0
    assert float(points["prior"]["rate"]) == pytest.approx(0, abs=1e-4)
    assert abs(float(points["untuned"]["rate"])) > 1e-3
    assert all(float(row["relevance"]) < 0 for row in points.values())
    assert float(points["untuned"]["over_untuned"]) == 0
    assert points["beta4"]["rate"] != points["untuned"]["rate"]
    low, high = (float(points["beta4"][f"relevance_{end}"]) for end in ("low", "high"))
    assert low < float(points["beta4"]["relevance"]) < high
    log = rows_of(folder / "results" / "learning_curve.csv")
    assert [(row["point"], row["step"]) for row in log] == [(p, s) for p in ("beta4", "beta64") for s in "12"]
    # Nothing is learned yet in the first step, and the same signals are drawn: only beta differs.
    assert log[0]["rate"] == log[2]["rate"] and log[0]["relevance"] == log[2]["relevance"]
    assert log[0]["reward"] != log[2]["reward"]
    record = json.loads((folder / "results" / "ib_curve.json").read_text(encoding="utf-8"))
    assert record["settings"]["num_signals"] == 2 and len(record["settings"]["data_hash"]) == 64
    assert record["versions"]["beta4"]["torch"] and record["settings"]["model"] == "qwen2"


def test_ib_curve_measures_what_the_trainer_logs(curve, data, tiny):
    """Rate and relevance before any training are those of the first optimiser step on the same transitions."""
    arguments, folder = curve
    args = run_ib_curve._arguments(arguments)
    train = run_ib_curve.transitions_of(run_ib_curve.load_event_sets(str(data)), "train", 4, 0)
    job = run_ib_curve.Job("untuned", folder / "other")
    trainer = run_ib_curve._trainer(job, args, train, "")
    evaluated = trainer.evaluate(trainer.train_dataset.select(range(2)))
    import ib_curve_evaluation

    trainer.model.eval()
    rows = ib_curve_evaluation.judge(trainer, train[:2])
    assert np.mean([row["rate"] for row in rows]) == pytest.approx(evaluated["eval_rate"], abs=1e-4)
    assert np.mean([row["relevance"] for row in rows]) == pytest.approx(evaluated["eval_relevance"], abs=1e-5)
    assert np.mean([row["tokens"] for row in rows]) == pytest.approx(evaluated["eval_signal_tokens"])


def test_ib_curve_skips_what_is_finished_and_refuses_other_settings(curve, capsys):
    arguments, folder = curve
    before = (folder / "results" / "ib_curve.csv").read_bytes()
    assert run_ib_curve.main(arguments) == 0
    assert capsys.readouterr().out.count(": done") == 5
    assert run_ib_curve.main([*arguments, "--score"]) == 0
    assert (folder / "results" / "ib_curve.csv").read_bytes() == before
    capsys.readouterr()
    assert run_ib_curve.main([*arguments, "--seed", "1"]) == 2
    assert "seed = 0" in capsys.readouterr().err
    assert run_ib_curve.main([*arguments, "--transitions", "400"]) == 2
    assert "`--transitions` must be at most" in capsys.readouterr().err
    assert run_ib_curve.main([*arguments, "--only", "5"]) == 2


class Killed(Exception):
    """In the place of a signal."""


def test_ib_curve_goes_on_after_a_kill_in_training_and_in_evaluation(curve, tmp_path, monkeypatch):
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer

    arguments, folder = curve
    again = [*arguments, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--only", "64"]
    whole_loss, calls = IBTuneTrainer.compute_loss, []

    def dies_in_the_second_step(self, *args, **kwargs):
        calls.append(self.state.global_step)
        if self.state.global_step == 1:
            raise Killed
        return whole_loss(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(IBTuneTrainer, "compute_loss", dies_in_the_second_step)
        run_ib_curve.main(again)
    run = tmp_path / "runs" / "beta64"
    assert calls == [0, 1] and (run / "checkpoint-1").exists() and not (run / "training.json").exists()
    # A part of a checkpoint, as a killed process leaves it, is not gone on with.
    (run / "checkpoint-2").mkdir()
    assert run_ib_curve.last_checkpoint(run) == str(run / "checkpoint-1")

    import ib_curve_evaluation

    whole_judge, judged = ib_curve_evaluation.judge, []

    def dies_in_the_second_batch(trainer, rows):
        judged.append(len(rows))
        if len(judged) == 2:
            raise Killed
        return whole_judge(trainer, rows)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ib_curve_evaluation, "judge", dies_in_the_second_batch)
        run_ib_curve.main(again)
    assert judged == [3, 1] and len(json.loads((run / "evaluation.json").read_text())["transitions"]) == 3
    assert run_ib_curve.main(again) == 0
    for name in ("training.json", "evaluation.json"):
        ours, uninterrupted = (json.loads((one / name).read_text()) for one in (run, folder / "runs" / "beta64"))
        assert _rounded(ours) == _rounded(uninterrupted)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return pytest.approx(value, rel=1e-3, abs=1e-4) if isinstance(value, float) else value


def test_points_are_compared_pair_by_pair_and_events_are_resampled():
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.normal(0, 10, 10), 2)  # how hard an event is to predict, the same for all its transitions

    def point(beta, shift):
        names = [{"data_set": "d", "event_id": str(i // 2), "draw": i % 2, "warm_up": 8} for i in range(20)]
        values = [{"rate": [1.0, 3.0], "relevance": [hard[i] + shift], "tokens": [4]} for i in range(20)]
        return {"beta": beta, "transitions": [a | b for a, b in zip(names, values, strict=True)]}

    rows = point_rows({"prior": point(None, 0.0), "beta4": point(4.0, 0.5)}, seed=0, n_bootstrap=400)
    tuned = rows[1]
    assert tuned["events"] == 10 and tuned["transitions"] == 20 and tuned["rate"] == 2.0 and tuned["signals"] == 2
    assert tuned["over_prior"] == pytest.approx(0.5) and tuned["over_none"] is None
    # The same shift everywhere: no doubt about the difference, much about the mean.
    assert tuned["over_prior_low"] is None or tuned["over_prior_high"] - tuned["over_prior_low"] < 1e-9
    spread = tuned["relevance_high"] - tuned["relevance_low"]
    assert spread == pytest.approx(2 * 1.96 * hard.std() / np.sqrt(10), rel=0.25)


def test_trailing_means():
    assert trailing_means(np.array([1.0, 2.0, 6.0])).tolist() == [1.0, 1.5, 3.0]


# -- cost of a policy step --------------------------------------------------------------------------------------------


STEP_SPEED, WHOLE_SPEED = "tokens per second of the step", "tokens per second, drawing included"


@pytest.fixture(scope="module")
def benchmark(tiny, data, tmp_path_factory):
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("benchmark")
    arguments = ["--model", str(tiny), "--events", str(data), "--output", str(folder), "--transitions-per-step", "2"]
    arguments += ["--repeats", "1", "--signal-max-tokens", "4", "--dtype", "float32"]
    arguments += ["--methods", "IB-Tune anchored, statistics alone"]
    assert benchmark_policy_step.main(arguments) == 0
    return folder


def test_benchmark_measures_every_method(benchmark):
    rows = rows_of(benchmark / "policy_step.csv")
    turns = ["IB-Tune", "TRL SFT", "TRL SFT, lean head", "IB-Tune anchored, statistics alone"]
    assert [row["method"] for row in rows] == turns
    numbers = [{k: float(v) for k, v in row.items() if k != "method"} for row in rows]
    ours, sft, lean, anchored = numbers[:4]
    assert lean["tokens_per_step"] == sft["tokens_per_step"]
    assert ours["draw"] > 0 and ours["drawn_tokens_per_step"] > 0
    assert sft["draw"] == sft["base"] == anchored["draw"] == 0 and anchored["base"] > 0
    # As many tokens in a step, up to half a row and what its lengths vary.
    assert sft["tokens_per_step"] == pytest.approx(ours["tokens_per_step"], rel=0.25)
    for row in numbers:
        parts = ("draw", "base", "rest_of_preparation", "forward_backward_update")
        assert sum(row[part] for part in parts) == pytest.approx(row["seconds_per_step"], rel=1e-3)
        assert row["peak_mib"] == pytest.approx(row["loaded_mib"] + row["rise_mib"], rel=1e-3)
        alone = row["tokens_per_step"] / (row["seconds_per_step"] - row["draw"])
        assert row["tokens_per_second_after_drawing"] == pytest.approx(alone, rel=1e-3)
        assert row["tokens_per_second"] > 0 and 0 <= row["padding"] < 1
    record = json.loads((benchmark / "policy_step.json").read_text(encoding="utf-8"))
    assert record["machine"]["adapter_parameters"] > 0 and record["versions"]["trl"] and record["data_hash"]
    assert record["settings"]["model"] == "qwen2" and record["settings"]["events"] == "threads.jsonl"
    assert {(one["bar"], one["against"]) for one in record["bars"]} == {
        (bar, method) for bar in ("peak memory", STEP_SPEED, WHOLE_SPEED) for method in turns[1:3]
    }


def test_benchmark_judges_the_bars_by_medians_of_paired_ratios():
    def row(method, repeat, speed, peak):
        values = dict.fromkeys(benchmark_policy_step.COLUMNS, 1.0)
        values |= {"tokens_per_second": speed, "tokens_per_second_after_drawing": 2 * speed, "peak_mib": peak}
        return values | {"method": method, "repeat": repeat}

    sft = [row("TRL SFT", 0, 100, 1000), row("TRL SFT", 1, 50, 1000), row("TRL SFT", 2, 100, 1000)]
    lean = [row("TRL SFT, lean head", repeat, 300, 2000) for repeat in range(3)]
    ours = [row("IB-Tune", 0, 90, 1200), row("IB-Tune", 1, 45, 1100), row("IB-Tune", 2, 10, 1200)]
    found = benchmark_policy_step.bars(benchmark_policy_step.summarise([*sft, *lean, *ours]))
    found = {(one["bar"], one["against"]): one for one in found}
    speed, memory = found[WHOLE_SPEED, "TRL SFT"], found["peak memory", "TRL SFT"]
    assert speed["median"] == pytest.approx(0.9) and speed["low"] == pytest.approx(0.1) and speed["met"]
    assert memory["median"] == pytest.approx(1.2) and not memory["met"]
    assert not found[WHOLE_SPEED, "TRL SFT, lean head"]["met"]
    assert found[STEP_SPEED, "TRL SFT"]["median"] == pytest.approx(0.9)
    assert found["peak memory", "TRL SFT, lean head"]["met"]


def test_benchmark_takes_turns_and_prints_both_side_by_side(data, tmp_path, monkeypatch, capsys):
    sizes = []

    def made_up(settings):
        sizes.append((settings["method"], settings["rows"]))
        step = {"seconds": 2.0, "cpu_seconds": 4.0, "prepare": 1.0, "draw": 0.5, "base": 0.25, "tokens": 100}
        step |= {"padded": 125, "people": 4, "drawn_tokens": 6}
        same = {"adapter_parameters": 8, "dtype": "float32", "adapter_dtype": "float32", "device": "cpu", "threads": 1}
        return {"steps": [step, step], "peak": 3 * 2**20, "loaded": 2**20, **same}

    monkeypatch.setattr(benchmark_policy_step, "_run", made_up)
    monkeypatch.setattr(benchmark_policy_step, "_matching_rows", lambda tokens, settings: round(tokens / 10))
    arguments = ["--events", str(data), "--output", str(tmp_path), "--repeats", "2", "--methods", "TRL SFT"]
    assert benchmark_policy_step.main([*arguments, "--transitions-per-step", "3"]) == 0
    assert sizes == [("ib-tune", 3), ("sft", 10), ("sft-lean", 10)] * 2
    printed = capsys.readouterr().out
    assert "1.00 [1.00, 1.00]" in printed and "TRL SFT, lean head" in printed and printed.count(": met") == 6
    row = rows_of(tmp_path / "policy_step.csv")[0]
    assert float(row["tokens_per_second_after_drawing"]) == pytest.approx(200 / 3, rel=1e-4)
    assert row["tokens_per_second"] == "50" and row["tokens_per_cpu_second"] == "25" and row["padding"] == "0.2"
    assert row["rest_of_preparation"] == "0.25" and row["forward_backward_update"] == "1" and row["rise_mib"] == "2"


def test_lean_sft_computes_the_loss_of_sft(tiny, data, tmp_path):
    pytest.importorskip("trl")
    import policy_step_child
    import torch

    common = {"rows": 4, "n_transitions": 2, "steps": 1, "events": str(data), "model": str(tiny), "dtype": "float32"}
    losses, gradients = [], []
    for method in ("sft", "sft-lean"):
        settings = policy_step_child.Settings(method=method, **common)
        meter = policy_step_child.Meter(cuda=False, steps=[policy_step_child.Step()])
        trainer = policy_step_child.sft_trainer(settings, meter, str(tmp_path))
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert float(gradients[0].abs().max()) > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_benchmark_says_what_went_wrong(data, tmp_path, capsys):
    arguments = ["--model", str(tmp_path), "--events", str(data), "--output", str(tmp_path / "out")]
    assert benchmark_policy_step.main(arguments) == 2
    assert "failed" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert benchmark_policy_step.main([*arguments, "--methods", "other"]) == 2
    assert "`--methods` must be some of" in capsys.readouterr().err


# -- the learning curve of a run --------------------------------------------------------------------------------------


def test_the_learning_curve_of_a_run_is_kept_without_what_the_clock_says(tmp_path, capsys, monkeypatch):
    run, output = tmp_path / "run", tmp_path / "kept"
    run.mkdir()
    names = ["step", "epoch", "rate", "policy_nll", "eval_policy_nll", "eval_gain", "eval_runtime", "train_loss"]
    lines = ["8,0.5,,1.5,1.7,-0.2,9.5,", "0,0,,,2.5,-3.25,9.5,", "1,0.1,12.5,,,,,", "10,1,,,,,,3.5"]
    (run / "training_log.csv").write_text("\n".join([",".join(names), *lines]) + "\n", encoding="utf-8")
    (run / "README.md").write_text("Trained with --events /somewhere/private/covid.jsonl.\n", encoding="utf-8")
    drawn = {}
    draw = learning_curve._draw
    monkeypatch.setattr(
        learning_curve,
        "_draw",
        lambda axes, rows, name, colour: (draw(axes, rows, name, colour), drawn.setdefault(name, axes)),
    )
    assert learning_curve.main([str(run), str(output)]) == 0
    rows = rows_of(output / "learning_curve.csv")
    assert list(rows[0]) == ["step", "epoch", "rate", "policy_nll", "eval_policy_nll", "eval_gain"]
    assert [row["step"] for row in rows] == ["0", "1", "8", "10"]
    assert [row["eval_gain"] for row in rows] == ["-3.25", "", "-0.2", ""]
    assert "private" not in (output / "model_card.md").read_text() and (output / "learning_curve.png").stat().st_size
    assert set(drawn) == {"rate", "relevance", "policy_nll", "gain"}  # nobody measured the KL of the population
    gain = drawn["gain"].lines[0]
    assert gain.get_xydata().tolist() == [[0, -3.25], [8, -0.2]]
    assert learning_curve.main([str(tmp_path / "nothing"), str(output)]) == 2
    assert "`RUN` must hold training_log.csv" in capsys.readouterr().err
