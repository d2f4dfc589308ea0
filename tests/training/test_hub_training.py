"""From a training run to the Hub and back in a fresh cache, over HTTP on the loopback interface."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hub_server import HubServer, card_problems

pytest.importorskip("peft")
pytest.importorskip("trl")
pytest.importorskip("tensorboard")

HERE = Path(__file__).resolve().parent
TOKEN = "hf_OfNobodyAtAll0123456789"
CHECKPOINT = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "policy_generation_config.json",
    "mean_field_generation_config.json",
    "model_checksums.json",
}
PROCESSOR = {
    "processor_config.json",
    "processor_checksums.json",
    *(
        f"{role}_tokenizer/{name}"
        for role in ("policy", "mean_field")
        for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
    ),
}

PUSH = """
import sys
sys.path[:0] = {paths!r}
import torch
from datasets import Dataset
from made_transitions import build, made_event
from transformers import set_seed
from trl import SFTConfig
from mf_llm import IBTuneConfig, IBTuneTrainer, InputError, MFLLMForSimulation, MFLLMProcessor, lora_config
from mf_llm.models.tiny import save_tiny_backbone, tiny_backbone, tiny_tokenizer
from mf_llm.training.card_data import CardData, TrainingSummary, base_models_of
from mf_llm.training.sft import PolicySFTTrainer, sft_rows

rows = build(made_event("one"), made_event("two"))
ids = torch.arange(9, 60)[None]
common = dict(max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1, logging_steps=1, use_cpu=True,
              report_to=["tensorboard"], disable_tqdm=True, learning_rate=0.01, per_device_train_batch_size=2)

def model_on(base):
    return MFLLMForSimulation.from_backbones(base, dtype="float32")

def card_of(model, name):
    command = "train.py --events {folder}/events.jsonl --token {token}"
    training = TrainingSummary(hyper_parameters={{}}, command=command)
    return CardData(name=name, summary="A test.", base_models=base_models_of(model.config), training=training)

def ib_tune(base, name, **changes):
    args = IBTuneConfig(output_dir=name, schedule="joint", signal="both", anchored=True, num_signals=2,
                        signal_max_tokens=6, **common | changes)
    model, processor = model_on(base), MFLLMProcessor.from_backbones(base)
    return IBTuneTrainer(model, args, processing_class=processor, train_dataset=Dataset.from_list(rows),
                         peft_config=lora_config(model, r=2), card=card_of(model, name))

def logits(model):
    with torch.no_grad():
        output = model.eval()(ids, mean_field_input_ids=ids)
    return output.policy_logits, output.mean_field_logits

def refused(act, words):
    try:
        act()
    except InputError as error:
        assert words in str(error), error
        assert {folder!r} not in str(error), error
    else:
        raise AssertionError("not refused: " + words)

tiny_backbone("llama").push_to_hub("tester/tiny-base")
tiny_tokenizer("llama").push_to_hub("tester/tiny-base")

# 1. Every saved step is pushed, in the background, and the end.
trainer = ib_tune("tester/tiny-base", "run", push_to_hub=True, hub_model_id="tester/tuned", hub_token={token!r},
                  hub_strategy="every_save", hub_always_push=True)
trainer.train()
commit = trainer.push_to_hub()
assert commit.commit_url.startswith("http"), commit
expected = {{"tuned": logits(trainer.composite)}}

# 2. By hand, from a folder; pushed when the run is over, without having been announced.
model = MFLLMForSimulation.from_pretrained("run")
model.push_to_hub("tester/by-hand", private=True)
MFLLMProcessor.from_pretrained("run").push_to_hub("tester/by-hand")
expected["by-hand"] = logits(model)
trainer = ib_tune("tester/tiny-base", "late", max_steps=1)
trainer.train()
trainer.push_to_hub(private=True)
expected["late"] = logits(trainer.composite)

# 3. The supervised baseline.
model = model_on("tester/tiny-base")
processor = MFLLMProcessor.from_backbones("tester/tiny-base")
args = SFTConfig(output_dir="sft", max_length=None, bf16=False, gradient_checkpointing=False, **common)
trainer = PolicySFTTrainer(model, args, processing_class=processor, train_dataset=sft_rows(rows, processor),
                           peft_config=lora_config(model, r=2, roles=("policy",)), card=card_of(model, "sft"))
trainer.train()
trainer.push_to_hub()
expected["sft"] = logits(trainer.trained_model())

# 4. What cannot be pushed is said before it is trained.
strategies = dict(push_to_hub=True, hub_model_id="tester/refused")
refused(lambda: ib_tune("tester/tiny-base", "no", hub_strategy="checkpoint", **strategies), "`hub_strategy` must be")
local = str(save_tiny_backbone({folder!r} + "/tiny", "llama"))
refused(lambda: ib_tune(local, "no", **strategies), "`policy_base` must be an id of the Hub")
refused(ib_tune(local, "no").push_to_hub, "`policy_base` must be an id of the Hub")
torch.save(expected, "expected.pt")
"""

PULL = """
import sys
sys.path[:0] = {paths!r}
import torch
from transformers import AutoProcessor
from mf_llm import MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.loading import load_model_and_processor
from mf_llm.models.tiny import tiny_tokenizer
from small_events import small_event

ids = torch.arange(9, 60)[None]
trained = {{"signal": "both", "anchored": True, "signal_max_tokens": 6}}
for name, logits in torch.load({expected!r}).items():
    model = MFLLMForSimulation.from_pretrained("tester/" + name)
    assert model.has_adapters("policy") and model.has_adapters("mean_field") is (name != "sft")
    with torch.no_grad():
        output = model(ids, mean_field_input_ids=ids)
    assert torch.equal(output.policy_logits, logits[0]) and torch.equal(output.mean_field_logits, logits[1]), name
    for cls in (MFLLMProcessor, AutoProcessor):
        processor = cls.from_pretrained("tester/" + name)
        assert type(processor) is MFLLMProcessor
        for role in ("policy", "mean_field"):
            tokenizer, own = processor.tokenizer_of(role), tiny_tokenizer("llama")
            assert tokenizer.chat_template == own.chat_template
            assert tokenizer("What now? 12 日本").input_ids == own("What now? 12 日本").input_ids
    simulation = model.config.simulation
    assert simulation == {{"signal": "none"}} if name == "sft" else trained.items() <= simulation.items(), simulation
    assert model.generation_config_of("mean_field").max_new_tokens == (96 if name == "sft" else 6)

model, processor = load_model_and_processor("tester/tuned", dtype="float32")
rollout = model.simulate(small_event(14), processor, progress=False)
assert rollout.config["signal"] == "both" and rollout.config["anchored"] and not rollout.n_failed
assert rollout.versions["policy_base"] == "tester/tiny-base"
"""


def run(code: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def paths():
    return [str(HERE), str(HERE.parent / "simulation")]


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def environment(hub):
    kept = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    private = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | private | {"CI": "true", "OMP_NUM_THREADS": "1"}  # CI: else TRL reports each trainer to its makers


@pytest.fixture(scope="module")
def pushed(hub, environment, paths, tmp_path_factory):
    """The folder of the machine that trains; its runs are on the Hub."""
    folder = tmp_path_factory.mktemp("machine")
    code = PUSH.format(paths=paths, folder=str(folder), token=TOKEN)
    run(code, folder, environment | {"HF_HOME": str(folder / "home")})
    return folder


@pytest.mark.parametrize("name", ["tuned", "by-hand", "late", "sft"])
def test_a_repository_holds_the_checkpoint_and_nothing_else(hub, pushed, name):
    files = hub.repositories[f"tester/{name}"].files
    assert set(files) == CHECKPOINT | PROCESSOR
    for path, content in files.items():
        if not path.endswith(".safetensors"):
            text = content.decode()
            assert str(pushed) not in text and TOKEN not in text and str(Path.home()) not in text, path
    config = json.loads(files["config.json"])
    assert config["policy_base"] == config["mean_field_base"] == "tester/tiny-base"
    assert config["policy_revision"] == hub.repositories["tester/tiny-base"].sha
    # What a run leaves beside its checkpoint stays where it is.
    local = {path.relative_to(pushed / "run").parts[0] for path in (pushed / "run").rglob("*") if path.is_file()}
    assert {"runs", "checkpoint-2"} <= local and "training_args.bin" not in local


@pytest.mark.parametrize("name", ["tuned", "by-hand", "late", "sft"])
def test_cards_are_valid(hub, pushed, name):
    card = hub.repositories[f"tester/{name}"].files["README.md"].decode()
    assert card_problems(card) == ([], [])
    assert any(sent == card for sent in hub.cards)
    if name == "by-hand":  # of transformers' making
        return
    head = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])
    assert head["base_model"] in ("tester/tiny-base", ["tester/tiny-base"])
    assert head["base_model_relation"] == "adapter" and head["library_name"] == "mf_llm"
    assert "| signal | both |" in card or name == "sft"
    assert "train.py --events events.jsonl --token (removed)" in card
    assert f"{'1' if name == 'late' else '2'} optimiser steps" in card


def test_every_save_is_a_commit(hub, pushed):
    commits = hub.repositories["tester/tuned"].commits
    weights = [commit["adapter_model.safetensors"] for commit in commits]
    assert len(set(weights)) == 2, "a step was not pushed"
    assert all(set(commit) == CHECKPOINT | PROCESSOR for commit in commits)
    assert "1 optimiser steps" in commits[0]["README.md"].decode()
    assert [hub.repositories[f"tester/{name}"].private for name in ("tuned", "by-hand", "late")] == [False, True, True]


def test_what_is_refused_made_no_repository(hub, pushed):
    assert set(hub.repositories) == {f"tester/{name}" for name in ("tiny-base", "tuned", "by-hand", "late", "sft")}


def test_a_fresh_cache_gives_the_same_model_processor_and_simulation(environment, pushed, paths, tmp_path):
    run(
        PULL.format(paths=paths, expected=str(pushed / "expected.pt")),
        tmp_path,
        environment | {"HF_HOME": str(tmp_path)},
    )


def test_the_command_line_simulates_as_it_was_trained(environment, hub, pushed, tmp_path):
    command = [
        sys.executable,
        "-m",
        "mf_llm.cli",
        "simulate",
        "bridge-closure",
        "--dry-run",
        "--model",
        "tester/tuned",
    ]
    before = len(hub.requests)
    options = {"cwd": tmp_path, "env": environment | {"HF_HOME": str(tmp_path)}, "capture_output": True, "text": True}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("As tuned was trained: signal both, anchored yes, ") and "signal_max_tokens 6" in first
    # Nothing but the configuration was asked for, and nothing of it stays.
    assert not [path for path in hub.requests[before:] if "safetensors" in path or "tokenizer" in path]
    done = subprocess.run([*command, "--signal", "none", "--plain"], **options)
    assert done.stdout.startswith("As tuned was trained: ") and "signal both" not in done.stdout
    assert "anchored" not in done.stdout


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ("---\ntags: [a\n---\n", "cannot be read"),
        ("---\nlanguage: 3\n---\n", '"language" must be a string'),
        ("---\nbase_model: /home/ann/model\n---\n", '"base_model" with value'),
        ("---\nlicense: Apache 2.0 or so\n---\n", '"license" must be one of'),
    ],
)
def test_the_server_refuses_what_the_hub_refuses(card, problem):
    assert problem in card_problems(card)[0][0]
    assert card_problems("# Nothing\n")[1]
