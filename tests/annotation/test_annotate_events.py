"""`run_annotate` from a file of events to quality.json, with models that take milliseconds."""

import csv
import json

import numpy as np
import pytest
from small_annotators import worded_event

from mf_llm.commands.annotate_events import AnnotateRequest, run_annotate
from mf_llm.errors import InputError
from mf_llm.models.tiny import save_tiny_backbone
from misbehaving_server import MisbehavingServer, Reply


@pytest.fixture
def events(tmp_path):
    """12 train, 4 validation and 5 test events of 20 texts, whose first letter is the category."""
    rng = np.random.default_rng(0)
    sizes = {"train": 12, "validation": 4, "test": 5}
    path = tmp_path / "letters.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for split, n in sizes.items():
            for e in range(n):
                labels = "".join(rng.choice(list("abc"), size=20, p=rng.dirichlet([3, 2, 1])))
                file.write(json.dumps(worded_event(labels, f"{split}{e}", split).to_dict()) + "\n")
    return path


def read_back(output):
    record = json.loads((output / "quality.json").read_text())
    with (output / "confusion.csv").open(newline="") as file:
        return record, list(csv.DictReader(file))


def test_a_language_model_is_judged(events, tmp_path, capsys):
    model = str(save_tiny_backbone(tmp_path / "tiny", "qwen2"))
    request = AnnotateRequest(
        events=str(events), annotator="llm", model=model, dtype="float32", output=tmp_path / "out", rate_texts=60
    )
    run_annotate(request)
    record, confusion = read_back(tmp_path / "out")
    found = record["data_sets"]["letters"]
    assert found["quality"]["n_texts"] == 100 and found["quality"]["n_events"] == 5
    assert found["quality"]["fingerprint"]["model"] == model
    assert found["replay"]["n_events"] == 5 and found["replay"]["kl"]["value"] > 0
    assert found["correction"]["before"]["value"] == pytest.approx(found["replay"]["kl"]["value"])
    assert np.allclose(np.sum(found["error_rates"]["rates"], axis=1), 1)
    assert sum(int(row["n"]) for row in confusion) == 100
    assert {row["dataset"] for row in confusion} == {"letters"}
    out = capsys.readouterr().out
    for words in ("macro F1", "calibration error", "Replay: annotation alone costs KL", "Correction (strength"):
        assert words in out


def test_a_server_is_asked_and_a_perfect_annotator_costs_nothing(events, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MF_LLM_API_KEY", "the-key")

    def reply(request, earlier):
        letter = request["messages"][-1]["content"].split("Text:\n")[1][0]
        return Reply(json.dumps({"category": letter}))

    with MisbehavingServer(reply) as server:
        request = AnnotateRequest(
            events=str(events), annotator="endpoint", model="m", base_url=server.url, output=tmp_path / "out", limit=3
        )
        summary = run_annotate(request)
        assert {name.lower(): v for name, v in server.requests[0][1].items()}["authorization"] == "Bearer the-key"
    found = summary["data_sets"]["letters"]
    assert found["quality"]["n_events"] == 3
    assert found["quality"]["macro_f1"]["value"] == 1
    assert found["replay"]["kl"]["value"] == pytest.approx(0, abs=3e-4)
    assert found["correction"]["helps"] is False
    written = "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "the-key" not in written + capsys.readouterr().out


def test_a_head_is_fitted_kept_and_used_again(events, tmp_path):
    backbone = str(save_tiny_backbone(tmp_path / "tiny", "qwen2"))
    options = {"backbone": backbone, "events": str(events), "annotator": "classifier", "with_topic": False}
    options["dtype"] = "float32"
    fitted = run_annotate(AnnotateRequest(output=tmp_path / "one", **options))["data_sets"]["letters"]
    assert (tmp_path / "one/letters/classifier_head.json").is_file()
    assert fitted["quality"]["macro_f1"]["value"] > 0.8
    again = run_annotate(AnnotateRequest(output=tmp_path / "two", model=str(tmp_path / "one/letters"), **options))
    again = again["data_sets"]["letters"]
    assert again["quality"]["confusion"] == fitted["quality"]["confusion"]
    assert again["quality"]["fingerprint"]["head"] == fitted["quality"]["fingerprint"]["head"]


def test_data_sets_that_cannot_be_judged_are_named(events, tmp_path, capsys):
    quiet = worded_event("ab", "quiet", "train").to_dict()
    (tmp_path / "only-train.jsonl").write_text(json.dumps(quiet) + "\n")
    with pytest.raises(InputError, match="only-train: no labelled text of dimension 'stance' in split test"):
        request = AnnotateRequest(events=str(tmp_path / "only-train.jsonl"), annotator="rule", output=tmp_path / "out")
        run_annotate(request)
    with pytest.raises(InputError, match="must have the categories share and comment"):
        run_annotate(AnnotateRequest(events=str(events), annotator="rule", output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"annotator": "oracle"}, "`--annotator` must be one of llm, classifier, rule, endpoint, got 'oracle'"),
        ({"annotator": "endpoint", "model": "m"}, "`--base-url` and `--model` must be given"),
        ({"annotator": "rule", "limit": 0}, "`--limit` must be at least 1"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_at_once(options, says):
    with pytest.raises(InputError, match=says):
        run_annotate(AnnotateRequest(events="nowhere", **options))
