"""``mf-llm intervene`` from a run folder to results."""

import csv
import json
import sys

import pytest
import yaml

from mf_llm import Rollout, cli
from mf_llm.interventions import load_plan
from mf_llm.interventions.plan import plan_from_dict
from mf_llm.models.tiny import save_tiny_backbone
from stopped_journal import stop_journal

STANCES = ["support", "deny", "query"]
PLAN = {
    "target": {"category": "deny", "steps": [3, 5], "goal": "lower"},
    "candidates": [
        {"name": "news", "cost": 1, "interventions": [{"step": 3, "topic": "The mayor says that it is true."}]},
        {"name": "voices", "interventions": [{"step": 3, "actions": [{"text": "True!", "label": "support"}]}]},
        {"name": "summary", "interventions": [{"step": 3, "amend_signal": "Everybody believes it."}]},
        {"name": "weather", "placebo": True, "interventions": [{"step": 4, "topic": "It is cloudy."}]},
    ],
}


def call(*args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mf-llm", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return stopped.value.code or 0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder of one event: two warm-up steps and four simulated ones of four people, eight seeds."""
    folder = tmp_path_factory.mktemp("intervene")
    model = save_tiny_backbone(folder / "tiny-qwen2", "qwen2")
    turns = [
        {"action": f"word {i}", "labels": {"stance": STANCES[i % 3]}, "state": {"age": 20 + i}} for i in range(24)
    ]
    event = {"event_id": "bridge", "topic": "A bridge closes.", "turns": turns, "dimensions": {"stance": STANCES}}
    (folder / "events.jsonl").write_text(json.dumps(event))
    short = ["--max-new-tokens", 3, "--signal-max-tokens", 5, "--agents-per-step", 4, "--dtype", "float32"]
    where = ["--model", model, "--output", folder / "run", "--warm-up", 8, "--seeds", 8]
    assert call("simulate", folder / "events.jsonl", *where, *short) == 0
    return folder


def plan_file(path, record=PLAN):
    path.write_text(yaml.safe_dump(record))
    return path


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    """Every result, but for how long steps took."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "timings.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_branches_are_made_measured_and_ranked(made, tmp_path, capsys):
    plan, output = plan_file(tmp_path / "plan.yaml"), tmp_path / "out"
    assert call("intervene", made / "run", "--plan", plan, "--output", output) == 0
    out = capsys.readouterr().out
    assert "lower the share of deny in steps 3 to 5" in out
    ranking = table(output / "ranking.csv")
    assert {row["name"]: row["n_seeds"] for row in ranking}["weather"] == "8"
    assert sorted(row["n_seeds"] for row in ranking) == ["4", "8", "8", "8"]  # one was given up on half of the seeds
    assert ranking[-1]["name"] == "weather"
    # Effects are what stands in the rollouts.
    seeds = [row for row in table(output / "effects_by_seed.csv") if row["candidate"] == "weather"]
    for seed in (0, 7):
        parent = Rollout.load(made / "run" / "rollouts" / f"bridge-seed{seed}")
        branch = Rollout.load(output / "branches" / "weather" / "rollouts" / f"bridge-seed{seed}")
        assert branch.steps[:4] == parent.steps[:4]
        for step in range(2, 6):
            [row] = [
                row for row in seeds if (row["seed"], row["step"], row["category"]) == (str(seed), str(step), "deny")
            ]
            assert float(row["effect"]) == pytest.approx(
                branch.steps[step].shares[1] - parent.steps[step].shares[1], rel=1e-5
            )
    assert all(float(row["effect"]) == 0 for row in seeds if row["step"] in ("2", "3"))
    # One line reads the tables.
    pandas = pytest.importorskip("pandas")
    actions = pandas.read_parquet(output / "branches" / "weather" / "actions.parquet")
    assert sorted(actions["seed"].unique()) == list(range(8))
    assert json.loads((output / "intervene.json").read_text())["plan"] == load_plan(plan).to_dict() | {
        "target": PLAN["target"] | {"cost_weight": 0.0}
    }


def test_an_interrupted_command_goes_on_to_the_same_files(made, tmp_path):
    plan = plan_file(tmp_path / "plan.yaml")
    assert call("intervene", made / "run", "--plan", plan, "--output", tmp_path / "whole", "--no-plots") == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_journal(patch, 70, KeyboardInterrupt)
        assert call("intervene", made / "run", "--plan", plan, "--output", tmp_path / "cut", "--no-plots") == 130
    assert call("intervene", made / "run", "--plan", plan, "--output", tmp_path / "cut", "--no-plots") == 2
    assert call("intervene", made / "run", "--plan", plan, "--output", tmp_path / "cut", "--no-plots", "--resume") == 0
    ours, theirs = contents(tmp_path / "cut"), contents(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if ours[name] != theirs[name] and not name.endswith("report.html")]
    assert differing == []


def test_a_plan_without_a_target_shows_effects(made, tmp_path, capsys):
    plan = plan_file(tmp_path / "plan.yaml", {"interventions": PLAN["candidates"][0]["interventions"]})
    output = tmp_path / "out"
    assert call("intervene", made / "run", "--plan", plan, "--output", output, "--seeds", 2, "--no-plots") == 0
    assert "Effects at step 5, the last" in capsys.readouterr().out
    assert not (output / "ranking.csv").exists()
    assert {row["n_seeds"] for row in table(output / "effects.csv")} == {"2"}
    assert plan_from_dict(json.loads((output / "intervene.json").read_text())["plan"]) == load_plan(plan)


def test_a_dry_run_says_what_would_be_made(made, tmp_path, capsys):
    plan = plan_file(tmp_path / "plan.yaml")
    assert call("intervene", made / "run", "--plan", plan, "--output", tmp_path / "out", "--dry-run") == 0
    # 3 candidates on 4 seeds, 2 of them on 4 more, the placebo on 8.
    assert "4 candidates, 8 seeds of event 'bridge': 28 branches, in 2 rounds of up to 4, 8 seeds" in (
        capsys.readouterr().out
    )
    assert not (tmp_path / "out").exists()


def changed(place, value):
    record = json.loads(json.dumps(PLAN))
    at = record
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return record


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("target: [\n", "plan.yaml, line 2: must be valid YAML"),
        ("event: a\nevent: b\n", "plan.yaml, line 2: must be valid YAML, but 'event' stands twice"),
        ([], "plan.yaml: a plan must be a mapping"),
        ({"target": PLAN["target"]}, "must have `candidates` or `interventions`"),
        (changed(["event"], "no such"), "`event` must be one of the events in"),
        (changed(["target", "category"], "like"), "one of support, deny, query, got 'like'"),
        (changed(["target", "steps"], [3, 9]), "must be at simulated steps, 2 to 5, got 3 to 9"),
        (changed(["target", "steps"], [2, 2]), "must not lie before the first intervention"),
        (changed(["target", "goal"], "up"), "`goal` of the target must be one of raise, lower, got 'up'"),
        (changed(["candidates", 1, "name"], "news"), "`name` must differ among the candidates, got 'news' twice"),
        (changed(["candidates", 0, "cost"], -1), "candidate 1 (news): `cost` must be a number of at least 0, got -1"),
        (
            changed(["candidates", 0, "interventions", 0, "step"], 1),
            "candidate 'news': `step` must be a simulated step, 2 to 5, got 1",
        ),
        (changed(["candidates", 0, "interventions", 0, "topic"], 7), "candidate 1 (news): intervention 1: `topic`"),
        (changed(["candidates", 0, "interventions", 0, "topik"], "x"), "intervention 1: an intervention must have"),
        (
            changed(["candidates", 1, "interventions", 0, "actions", 0], {"label": "like"}),
            "`label` of an added action must be one of support, deny, query, got 'like'",
        ),
        (
            changed(["candidates", 1, "interventions", 0, "actions", 0], {"words": "x"}),
            "an added action must have text, label, who, times, got words",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(made, tmp_path, capsys, monkeypatch, record, says):
    plan = tmp_path / "plan.yaml"
    plan.write_text(record if isinstance(record, str) else yaml.safe_dump(record))
    monkeypatch.setattr("mf_llm.models.loading.load_model_and_processor", lambda *args, **named: 1 / 0)
    assert call("intervene", made / "run", "--plan", plan, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_plan_does_not_go_on_with_the_same_folder(made, tmp_path, capsys):
    common = ["--output", tmp_path / "out", "--seeds", 1, "--no-plots"]
    one = plan_file(tmp_path / "one.yaml", {"interventions": [{"step": 5, "topic": "News."}]})
    two = plan_file(tmp_path / "two.yaml", {"interventions": [{"step": 5, "topic": "Other news."}]})
    assert call("intervene", made / "run", "--plan", one, *common) == 0
    assert "One seed: effects without intervals" in capsys.readouterr().err
    assert call("intervene", made / "run", "--plan", two, *common, "--resume") == 2
    assert "was made with another plan" in capsys.readouterr().err
