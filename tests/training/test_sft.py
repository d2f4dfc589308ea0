"""The trainer of the supervised baseline changes the policy alone, resumes, and saves what a simulation loads."""

import pytest
import torch
from made_rows import crowd, rows_of_lengths

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor
from mf_llm.models.tiny import save_tiny_backbone

pytest.importorskip("peft")
pytest.importorskip("trl")

from trl import SFTConfig

from mf_llm.training.card_data import CardData, TrainingSummary, base_models_of
from mf_llm.training.lora import add_adapters, lora_config
from mf_llm.training.sft import PolicySFTTrainer, count_tokens, sft_rows

pytestmark = [
    # SFTConfig and peft use the old names themselves.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {family: str(save_tiny_backbone(root / family, family)) for family in ("llama", "gemma3", "gpt2")}


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch):
    monkeypatch.setenv("CI", "true")  # else TRL reports each trainer to its makers


@pytest.fixture(params=["llama", "gemma3", "gpt2"])
def family(request):
    return request.param


@pytest.fixture
def processor(folders, family):
    return MFLLMProcessor.from_backbones(folders[family])


@pytest.fixture
def llama(folders):
    return MFLLMProcessor.from_backbones(folders["llama"])


def new_model(folder, dtype="float32"):
    return MFLLMForSimulation.from_backbones(folder, dtype=dtype)


def settings(folder, **changes):
    options = {
        "output_dir": str(folder),
        "max_length": None,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    return SFTConfig(**(options | changes))


def trainer_of(model, processor, folder, *, rows=None, roles=("policy",), card=None, eval_dataset=None, **changes):
    return PolicySFTTrainer(
        model,
        settings(folder, **changes),
        processing_class=processor,
        train_dataset=rows if rows is not None else sft_rows([crowd()], processor),
        eval_dataset=eval_dataset,
        peft_config=lora_config(model, r=4, roles=roles) if roles else None,
        card=card,
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def both_logits(model):
    ids = torch.arange(9, 60)[None]
    with torch.no_grad():
        output = model(policy_input_ids=ids, mean_field_input_ids=ids)
    return output.policy_logits, output.mean_field_logits


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_training_changes_every_policy_adapter_and_nothing_else(folders, family, processor, tmp_path):
    model = new_model(folders[family])
    untrained = both_logits(model)
    configs = [model.generation_config_of(role).to_dict() for role in ("policy", "mean_field")]
    written = model.config.policy_config.to_dict()
    tokens = processor.policy_tokenizer.special_tokens_map
    trainer = trainer_of(model, processor, tmp_path)
    before = {name: value.clone() for name, value in trainer.composite.state_dict().items()}
    trainer.train()
    after = trainer.composite.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in after if "lora_" in name}
    assert changed and all(name.startswith("policy.") for name in changed)

    model = trainer.trained_model()
    trained = both_logits(model)
    assert not torch.equal(trained[0], untrained[0]) and torch.equal(trained[1], untrained[1])
    trainer.save_model(tmp_path / "saved")
    loaded = MFLLMForSimulation.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(both_logits(loaded), trained, strict=True))
    assert loaded.has_adapters("policy") and not loaded.has_adapters("mean_field")
    # Neither TRL nor transformers left anything behind that would change a simulation.
    assert [loaded.generation_config_of(role).to_dict() for role in ("policy", "mean_field")] == configs
    assert loaded.config.policy_config.to_dict() == written
    assert processor.policy_tokenizer.special_tokens_map == tokens
    stored = MFLLMProcessor.from_pretrained(tmp_path / "saved")
    assert stored.policy_tokenizer.special_tokens_map == tokens
    assert sft_rows([crowd()], stored).to_list() == sft_rows([crowd()], processor).to_list()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixed_precision_leaves_no_trace(folders, llama, tmp_path, dtype):
    trainer = trainer_of(new_model(folders["llama"], dtype), llama, tmp_path, bf16=True)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    model = trainer.trained_model()
    loaded = MFLLMForSimulation.from_pretrained(tmp_path / "saved", dtype=getattr(torch, dtype))
    assert loaded.dtype == model.dtype == getattr(torch, dtype)
    logits = both_logits(model)
    assert logits[0].dtype == loaded.dtype
    assert all(torch.equal(a, b) for a, b in zip(both_logits(loaded), logits, strict=True))


def test_the_loss_is_that_of_the_answers_alone_and_tokens_are_counted(folders, llama, tmp_path):
    model = new_model(folders["llama"])
    rows = sft_rows([crowd(), crowd(draw=1)], llama, target="action")
    with torch.no_grad():
        total, count = 0.0, 0
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
            log_p = torch.log_softmax(model(policy_input_ids=ids).policy_logits[0, :-1], dim=-1)
            total -= float(log_p.gather(1, ids[0, 1:, None])[:, 0][labels != -100].sum())
            count += int((labels != -100).sum())
    trainer = trainer_of(model, llama, tmp_path, rows=rows, per_device_train_batch_size=len(rows), max_steps=1)
    trainer.train()
    assert losses(trainer) == [pytest.approx(total / count, rel=1e-4)]
    assert trainer.state.num_input_tokens_seen == count_tokens(rows)
    assert trainer.state.log_history[0]["num_tokens"] == count_tokens(rows)


def test_accumulated_and_recomputed_batches_train_the_same(folders, llama, tmp_path):
    curves = []
    for changes in (
        {},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"gradient_checkpointing": True},
    ):
        trainer = trainer_of(new_model(folders["llama"]), llama, tmp_path, **changes)
        trainer.train()
        curves.append(losses(trainer))
    assert len(curves[0]) == 3
    assert curves[1] == pytest.approx(curves[0], rel=1e-4) and curves[2] == pytest.approx(curves[0], rel=1e-5)


def test_a_run_that_is_resumed_has_the_same_curve(folders, llama, tmp_path):
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(new_model(folders["llama"]), llama, tmp_path / "whole", **options)
    whole.train()
    again = trainer_of(new_model(folders["llama"]), llama, tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert len(losses(whole)) == 6 and losses(again) == losses(whole)
    assert again.state.num_input_tokens_seen == whole.state.num_input_tokens_seen
    one, other = both_logits(whole.trained_model()), both_logits(again.trained_model())
    assert torch.equal(one[0], other[0])
    # A checkpoint is a checkpoint of the composite.
    assert MFLLMForSimulation.from_pretrained(tmp_path / "whole/checkpoint-2").has_adapters("policy")


def test_the_best_checkpoint_is_loaded_at_the_end(folders, llama, tmp_path):
    trainer = trainer_of(
        new_model(folders["llama"]),
        llama,
        tmp_path,
        eval_dataset=sft_rows([crowd(event_id="unseen")], llama),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that the best is not the last
    )
    trainer.train()
    values = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    best = max(values, key=values.__getitem__)
    assert best != max(values)
    loaded = MFLLMForSimulation.from_pretrained(tmp_path / f"checkpoint-{best}")
    assert torch.equal(both_logits(trainer.trained_model())[0], both_logits(loaded)[0])


def test_a_card_is_written_beside_each_checkpoint(folders, llama, tmp_path):
    model = new_model(folders["llama"])
    card = CardData(
        name="tester/baseline",
        summary="A test.",
        base_models=base_models_of(model.config),
        training=TrainingSummary(hyper_parameters={"target": "label"}, command="python train_sft.py"),
    )
    trainer = trainer_of(model, llama, tmp_path, card=card, save_strategy="steps", save_steps=2)
    trainer.train()
    text = (tmp_path / "checkpoint-2/README.md").read_text()
    assert "# baseline" in text and "2 optimiser steps" in text
    for row in ("| target | label |", "| lora_r | 4 |", "| learning_rate | 0.01 |", "    python train_sft.py"):
        assert row in text
    assert (tmp_path / "README.md").exists() and str(tmp_path.parent) not in text
    assert not list(tmp_path.rglob("training_args.bin"))


@pytest.mark.parametrize("roles", [("mean_field",), ("policy", "mean_field"), None])
def test_adapters_must_be_those_of_the_policy(folders, llama, tmp_path, roles):
    model = new_model(folders["llama"])
    with pytest.raises(InputError, match="adapters on the policy and none on the mean-field model"):
        trainer_of(model, llama, tmp_path, roles=roles)


def test_a_model_that_has_its_adapters_is_trained_further(folders, llama, tmp_path):
    model = new_model(folders["llama"])
    model = add_adapters(model, lora_config(model, r=2, roles=("policy",))).get_base_model()
    trainer = trainer_of(model, llama, tmp_path, roles=None)
    trainer.train()
    assert trainer.composite is model


def test_rows_that_would_lose_their_answer_are_refused(folders, llama, tmp_path):
    rows = sft_rows([crowd()], llama)
    longest = max(map(len, rows["input_ids"]))
    with pytest.raises(InputError, match=f"`max_length` must hold every row, got {longest - 1}"):
        trainer_of(new_model(folders["llama"]), llama, tmp_path, rows=rows, max_length=longest - 1)
    with pytest.raises(InputError, match="`eval_dataset`"):
        trainer_of(
            new_model(folders["llama"]),
            llama,
            tmp_path,
            rows=rows.select([0]),
            eval_dataset=rows_of_lengths(longest + 50),
            max_length=longest,
        )
    trainer_of(new_model(folders["llama"]), llama, tmp_path, rows=rows, max_length=longest)
