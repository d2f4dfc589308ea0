"""Checkpoints of IB-Tune: a run that was cut off goes on as if it had not been; what is saved is what was trained."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")

from made_trainer import (
    adapters,
    backbone,
    changed,
    child_environment,
    events,
    history,
    new_model,
    rows,
    trained,
    trainer_of,
    weights,
)
from small_events import model_of, processor_of, run

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor
from mf_llm.training.card_data import CardData, TrainingSummary, base_models_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return backbone(tmp_path_factory.mktemp("tiny"))


def logits(model):
    """Those of both roles, of a batch with padding."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 400, (2, 9), generator=generator)
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
    inputs = {f"{role}_{name}": value for role in ("policy", "mean_field") for name, value in
              (("input_ids", ids), ("attention_mask", mask))}  # fmt: skip
    with torch.no_grad():
        output = model.eval()(**inputs)
    return output.policy_logits[:, 3:], output.mean_field_logits[:, 3:]


def equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# -- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "settings"),
    [
        (3, {"schedule": "joint", "weight_decay": 0.1, "lr_scheduler_type": "linear"}),  # within the second epoch
        (3, {"schedule": "joint", "updates_per_draw": 3}),
        (2, {"schedule": "sequential", "updates_per_draw": 2, "per_device_train_batch_size": 1,
             "gradient_accumulation_steps": 2}),
        (1, {"schedule": "sequential", "lr_scheduler_type": "cosine"}),  # within the phase of the mean field
        (5, {"schedule": "sequential", "lr_scheduler_type": "cosine", "warmup_steps": 1}),  # within the policy's
        (3, {"schedule": "alternate", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}),
        (2, {"schedule": "joint", "simulated_history": 0.7, "simulated_steps": 1, "anchored": True}),
        (2, {"schedule": "policy", "simulated_history": 0.7, "simulated_steps": 1, "target": "action"}),
    ],
)  # fmt: skip
def test_a_run_that_is_resumed_is_the_run(base, tmp_path, at, settings):
    common = {
        "data": rows(5),
        "options": {"events": {"d": events(5)}},
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": at,
        "max_texts": 1,  # people who write in a simulated history
        **settings,
    }
    whole = trained(base, tmp_path, model=new_model(base, dropout=0.1), **common)
    (tmp_path / "signals-0.jsonl").unlink(missing_ok=True)  # what is drawn again is the same
    start = MFLLMForSimulation.from_pretrained(tmp_path / f"checkpoint-{at}")
    again = trained(
        base, tmp_path, model=new_model(base, dropout=0.1), resume=str(tmp_path / f"checkpoint-{at}"), **common
    )
    assert history(again) == history(whole) and len(history(whole)) == 7
    assert not changed(weights(whole.composite), weights(again.composite))
    assert not equal(logits(start), logits(again.composite))  # it went on from there
    assert again.state.num_input_tokens_seen == whole.state.num_input_tokens_seen


def test_tokens_are_counted_whatever_is_logged(base, tmp_path):
    settings = {"max_steps": 4, "schedule": "policy", "signal": "statistics"}
    expected = trained(base, tmp_path, logging_steps=1, **settings).state.num_input_tokens_seen
    rarely = trained(base, tmp_path, logging_steps=3, save_strategy="steps", save_steps=2, **settings)
    again = trained(base, tmp_path, logging_steps=3, resume=str(tmp_path / "checkpoint-2"), **settings)
    seldom = trained(base, tmp_path, logging_steps=10, **settings)
    assert {one.state.num_input_tokens_seen for one in (rarely, again, seldom)} == {expected}


def test_a_killed_run_goes_on(base, tmp_path):
    settings = {"schedule": "sequential", "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "seed": 3}
    settings |= {"updates_per_draw": 2, "mean_field_share": 1 / 3}
    case = {"folder": str(tmp_path / "case"), "base": base, "rows": {"n": 8}, "die_at": 4, "config": settings}
    (tmp_path / "cases.json").write_text(json.dumps([case]))
    command = [sys.executable, str(HERE / "distributed_training.py"), str(tmp_path / "cases.json")]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    folder = tmp_path / "case/run"
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {path.name for path in folder.iterdir()} == {"checkpoint-2", "checkpoint-4", "signals-0.jsonl"}
    whole = trained(base, tmp_path / "whole", data=rows(8), **settings)
    again = trained(base, folder, data=rows(8), resume=True, **settings)
    assert history(again) == history(whole)
    assert not changed(weights(whole.composite), weights(again.composite))


def test_a_checkpoint_within_a_draw_cannot_be_asked_for(base, tmp_path):
    with pytest.raises(InputError, match=r"`save_steps` must be a multiple of updates_per_draw \(2\), got 3"):
        trainer_of(base, tmp_path, save_strategy="steps", save_steps=3, updates_per_draw=2)


def test_a_checkpoint_of_other_adapters_is_refused(base, tmp_path):
    trained(base, tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    with pytest.raises(InputError, match="must be of the shape the model's have"):
        trained(base, tmp_path, model=new_model(base, r=2), resume=str(tmp_path / "checkpoint-1"))


def test_the_best_checkpoint_is_loaded_at_the_end(base, tmp_path):
    trainer = trained(
        base,
        tmp_path,
        evaluated=rows(2, split="validation"),
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_policy_nll",
        greater_is_better=False,
    )
    values = {e["step"]: e["eval_policy_nll"] for e in trainer.state.log_history if "eval_policy_nll" in e}
    best = min(values, key=values.__getitem__)
    assert len(values) == 4 and trainer.state.best_global_step == best != 4
    loaded = MFLLMForSimulation.from_pretrained(tmp_path / f"checkpoint-{best}")
    assert equal(logits(trainer.composite), logits(loaded))


# -- what is saved ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["joint", "policy"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_loaded_is_what_was_trained(base, tmp_path, tied, schedule):
    trainer = trained(base, tmp_path, model=new_model(base, tied=tied), schedule=schedule)
    trainer.save_model()
    loaded = MFLLMForSimulation.from_pretrained(tmp_path)
    expected = logits(trainer.composite)
    assert equal(logits(loaded), expected) and loaded.config.tie_backbones is tied
    assert not equal(expected, logits(new_model(base, tied=tied)))
    merged = logits(loaded.merge())
    for one, other in zip(merged, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    loaded.save_pretrained(tmp_path / "merged")
    assert equal(logits(MFLLMForSimulation.from_pretrained(tmp_path / "merged")), merged)


def test_the_folder_is_a_checkpoint_and_nothing_else(base, tmp_path):
    trainer = trained(base, tmp_path, save_strategy="steps", save_steps=2)
    trainer.save_model()
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    checkpoint = {name.removeprefix("checkpoint-2/") for name in files if name.startswith("checkpoint-2/")}
    saved = {name for name in files if not name.startswith("checkpoint-2/")}
    tokenizers = {name for name in saved if "_tokenizer/" in name}
    assert saved - tokenizers == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "mean_field_generation_config.json",
        "model_checksums.json",
        "policy_generation_config.json",
        "processor_checksums.json",
        "processor_config.json",
    }
    assert {name.split("/")[0] for name in tokenizers} == {"policy_tokenizer", "mean_field_tokenizer"}
    assert checkpoint - saved == {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert not list(tmp_path.rglob("training_args.bin"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert "use_cache" not in config and config["policy_base"] == base
    assert type(MFLLMProcessor.from_pretrained(tmp_path)) is MFLLMProcessor


def test_rollouts_draw_signals_as_training_did(base, tmp_path):
    trainer = trained(base, tmp_path, signal_temperature=0.7, signal_max_tokens=6)
    trainer.save_model()
    loaded = MFLLMForSimulation.from_pretrained(tmp_path).generation_config_of("mean_field")
    assert (loaded.do_sample, loaded.temperature, loaded.max_new_tokens) == (True, 0.7, 6)
    assert loaded.top_k in (0, None) and loaded.top_p in (1.0, None) and loaded.repetition_penalty in (1.0, None)
    untrained = MFLLMForSimulation.from_backbones(base, dtype="float32")
    policy = MFLLMForSimulation.from_pretrained(tmp_path).generation_config_of("policy")
    assert policy.to_dict() == untrained.generation_config_of("policy").to_dict()


def test_without_a_text_the_sampler_stays_as_it_was(base, tmp_path):
    model = new_model(base, roles=("policy",))
    before = model.generation_config_of("mean_field").to_dict()
    trainer_of(base, tmp_path, model=model, schedule="policy", signal="statistics")
    assert model.generation_config_of("mean_field").to_dict() == before


def test_what_was_trained_can_be_trained_further_and_simulated(base, tmp_path):
    trainer = trained(base, tmp_path / "first")
    trainer.save_model()
    loaded = MFLLMForSimulation.from_pretrained(tmp_path / "first", is_trainable=True)
    before = weights(loaded)
    further = trained(base, tmp_path / "second", model=loaded)
    assert changed(before, weights(further.composite)) == adapters(loaded)
    (event,) = events(1)
    rollout = run(loaded.eval(), MFLLMProcessor.from_pretrained(tmp_path / "first"), event, signal="both")
    untuned = run(model_of("qwen2"), processor_of("qwen2"), event, signal="both")
    assert len(rollout.actions) == len(untuned.actions) and rollout.steps != untuned.steps


# -- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_tells_how_it_was_trained(base, tmp_path):
    model = new_model(base)
    known = TrainingSummary(hyper_parameters={"horizon": "next"}, command="python train_ib_tune.py")
    card = CardData(name="tester/tuned", summary="A test.", base_models=base_models_of(model.config), training=known)
    trainer = trained(
        base, tmp_path, model=model, options={"card": card}, save_strategy="steps", save_steps=1, logging_steps=5
    )
    assert not (tmp_path / "README.md").exists()
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    tokens = trainer.state.num_input_tokens_seen
    assert tokens > 0 and f"{tokens:,}" in text and "2 optimiser steps" in text
    values = {
        "beta": 8,
        "schedule": "joint",
        "num_signals": 2,
        "signal_max_tokens": 5,
        "lora_r": 4,
        "horizon": "next",
    }
    for name, value in values.items():
        assert f"| {name} | {value} |" in text
    assert "    python train_ib_tune.py" in text
    assert str(tmp_path.parent) not in text
    assert "1 optimiser step" in (tmp_path / "checkpoint-1/README.md").read_text()


def test_no_card_is_written_unasked(base, tmp_path):
    trainer = trained(base, tmp_path)
    trainer.save_model()
    trainer.create_model_card()
    assert not list(tmp_path.rglob("README.md"))
