"""What IB-Tune trains: which parameters change when, by how much, and that nothing beside the data decides it."""

import math

import pytest
import torch

pytest.importorskip("peft")

from datasets import Dataset
from made_trainer import (
    SETTINGS,
    Changes,
    adapters,
    backbone,
    changed,
    events,
    history,
    new_model,
    rows,
    trained,
    trainer_of,
    weights,
)

from mf_llm import InputError, MFLLMForSimulation
from mf_llm.training.lora import lora_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]
SCHEDULES = ("sequential", "alternate", "joint", "policy", "mean_field")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return backbone(tmp_path_factory.mktemp("tiny"))


def same(first, second, tolerance=1e-4):
    """Two logs hold the same values under the same names."""
    assert [entry.keys() for entry in first] == [entry.keys() for entry in second]
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


def close(first, second, tolerance=1e-4):
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < tolerance


# -- what changes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        *((schedule, {}) for schedule in SCHEDULES),
        ("joint", {"signal": "text", "anchored": True, "target": "action"}),
        ("sequential", {"signal": "text", "target": "action"}),
        ("policy", {"signal": "none", "anchored": True}),
        ("policy", {"signal": "statistics", "target": "action", "lambda_population": 0.0}),
        ("mean_field", {"signal": "text", "anchored": True}),
        ("joint", {"tied": False}),
        ("alternate", {"tied": False, "anchored": True}),
    ],
)
def test_every_parameter_that_is_trained_changes_and_no_other(base, tmp_path, schedule, settings):
    settings = dict(settings)
    model = new_model(base, tied=settings.pop("tied", True))
    before = weights(model)
    trainer = trained(base, tmp_path, model=model, schedule=schedule, **settings)
    moved = changed(before, weights(trainer.composite))
    roles = [schedule] if schedule in ("policy", "mean_field") else ["policy", "mean_field"]
    assert moved == set().union(*(adapters(model, role) for role in roles))
    assert len(moved) == 28 * len(roles)
    assert moved == {name for name, p in trainer.composite.named_parameters() if p.requires_grad}
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_adapters_of_one_role_are_enough_for_its_schedule(base, tmp_path):
    model = new_model(base, roles=("policy",))
    before = weights(model)
    trainer = trained(base, tmp_path, model=model, schedule="policy")
    assert changed(before, weights(trainer.composite)) == adapters(model) == adapters(model, "policy")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("sequential", [["mean_field"]] * 2 + [["policy"]] * 4),
        ("alternate", [["mean_field"], ["policy"]] * 3),
        ("joint", [["mean_field", "policy"]] * 6),
    ],
)
def test_neither_weight_decay_nor_momentum_moves_the_role_that_rests(base, tmp_path, schedule, expected):
    changes = Changes()
    trained(
        base,
        tmp_path,
        schedule=schedule,
        mean_field_share=1 / 3,
        max_steps=6,
        weight_decay=0.3,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=1,
        options={"callbacks": [changes]},
    )
    assert changes.steps == expected


@pytest.mark.parametrize(("share", "expected"), [(0.0, "policy"), (1.0, "mean_field")])
def test_a_phase_may_be_empty(base, tmp_path, share, expected):
    changes = Changes()
    trained(base, tmp_path, schedule="sequential", mean_field_share=share, options={"callbacks": [changes]})
    assert changes.steps == [[expected]] * 2


def test_each_phase_has_the_whole_learning_rate_schedule(base, tmp_path):
    trainer = trained(
        base,
        tmp_path,
        schedule="sequential",
        mean_field_share=0.4,
        max_steps=10,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        per_device_train_batch_size=1,
    )
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]

    def cosine(steps):
        return [0.0, *(0.01 * 0.5 * (1 + math.cos(math.pi * i / (steps - 1))) for i in range(steps - 1))]

    assert rates == pytest.approx([*cosine(4), *cosine(6)], abs=1e-9)


def test_other_schedules_have_one_learning_rate_schedule(base, tmp_path):
    trainer = trained(base, tmp_path, schedule="alternate", max_steps=4, lr_scheduler_type="linear")
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_the_mean_field_may_have_a_learning_rate_of_its_own(base, tmp_path):
    settings = {"schedule": "joint", "max_steps": 3, "lr_scheduler_type": "linear", "weight_decay": 0.1}
    both, model = trained(base, tmp_path, model=new_model(base), **settings), new_model(base)
    before = weights(model)
    trainer = trained(base, tmp_path, model=model, mean_field_learning_rate=0.0, **settings)
    assert changed(before, weights(model)) == adapters(model, "policy")
    # The policy's own steps are the same ones, on the signals of a mean field that stood still.
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry] == [
        entry["learning_rate"] for entry in both.state.log_history if "learning_rate" in entry
    ]
    slower = trained(base, tmp_path, model=new_model(base), mean_field_learning_rate=1e-3, **settings)
    assert sorted({group["initial_lr"] for group in slower.optimizer.param_groups if group["params"]}) == [1e-3, 1e-2]
    assert {group["weight_decay"] for group in slower.optimizer.param_groups if group["params"]} == {0.1}
    same = trained(base, tmp_path, model=new_model(base), mean_field_learning_rate=1e-2, **settings)
    assert not changed(weights(both.composite), weights(same.composite))


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "joint"},
        {"schedule": "sequential", "anchored": True, "target": "action"},
        {"schedule": "joint", "updates_per_draw": 2, "weight_decay": 0.1},
    ],
)
def test_accumulated_batches_equal_a_large_one(base, tmp_path, settings):
    data = rows(8)
    large, small = (
        trained(
            base,
            tmp_path,
            data=data,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            **settings,
        )
        for size in (4, 1)
    )
    same(history(large), history(small), 1e-3)
    close(weights(large.composite), weights(small.composite))
    assert large.state.num_input_tokens_seen == small.state.num_input_tokens_seen > 0


def test_signals_are_drawn_once_for_several_updates(base, tmp_path, monkeypatch):
    trainer = trainer_of(
        base, tmp_path, data=rows(8), max_steps=6, updates_per_draw=3,
        per_device_train_batch_size=1, gradient_accumulation_steps=2,
    )  # fmt: skip
    asked, seen = [], []
    draw, loss = trainer.preparer.sampler.draw, trainer.compute_loss

    def spy(transitions, count, turn):
        asked.append(([row["event_id"] for row in transitions], turn))
        return draw(transitions, count, turn)

    def spy_on_loss(model, inputs, *args, **kwargs):
        seen.append([row["event_id"] for row in inputs.transitions])
        return loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(trainer.preparer.sampler, "draw", spy)
    monkeypatch.setattr(trainer, "compute_loss", spy_on_loss)
    trainer.train()
    assert [turn for _, turn in asked] == [0, 0, 1, 1]
    assert [names for names, _ in asked for _ in range(1)] == [*seen[:2], *seen[6:8]]
    assert seen == seen[:2] * 3 + seen[6:8] * 3 and len({name for names in seen for name in names}) == 4
    ratios = [entry["ratio"] for entry in trainer.state.log_history if "ratio" in entry]
    assert [ratio == 1 for ratio in ratios] == [True, False, False] * 2


def test_another_train_call_draws_anew(base, tmp_path):
    trainer = trainer_of(base, tmp_path, data=rows(2), max_steps=1, updates_per_draw=2)
    trainer.train()
    first = trainer._drawn
    trainer.train()
    assert len(trainer._drawn) == 1 and trainer._drawn[0] is not first[0]


# -- simulated histories ----------------------------------------------------------------------------------------------


def test_simulated_histories_are_what_is_trained_on(base, tmp_path, monkeypatch):
    data = rows(4)
    options = {"events": {"d": events(4)}}
    trainer = trainer_of(
        base, tmp_path, data=data, options=options, simulated_history=0.5, schedule="policy", max_texts=1, max_steps=8
    )
    seen, prepare = [], trainer.preparer.prepare

    def spy(model, transitions, roles, turn):
        assert not model.training
        seen.extend((row["event_id"], row["warm_up"]) for row in transitions)
        return prepare(model, transitions, roles, turn)

    monkeypatch.setattr(trainer.preparer, "prepare", spy)
    trainer.train()
    real = dict(zip(data["event_id"], data["warm_up"], strict=True))
    steps = [(end - real[event]) / SETTINGS.agents_per_step for event, end in seen]
    assert len(steps) == 16 and set(steps) == {0, 1, 2} and 0.2 < sum(step > 0 for step in steps) / 16 < 0.8


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_role_without_adapters_is_named(base, tmp_path):
    bare = MFLLMForSimulation.from_backbones(base, dtype="float32")
    with pytest.raises(InputError, match="adapters for the role 'mean_field', which schedule='joint' trains"):
        trainer_of(base, tmp_path, model=bare)
    with pytest.raises(InputError, match="adapters for the role 'mean_field'"):
        trainer_of(base, tmp_path, model=new_model(base, roles=("policy",)))


def test_adapters_are_added_once(base, tmp_path):
    bare = MFLLMForSimulation.from_backbones(base, dtype="float32")
    options = {"peft_config": lora_config(bare, r=2)}
    first = trainer_of(base, tmp_path, model=bare, options=options)
    assert len(adapters(first.composite)) == 56 and type(first.model) is MFLLMForSimulation
    with pytest.raises(InputError, match="`peft_config` must be None for a model that has adapters"):
        trainer_of(base, tmp_path, model=first.composite, options=options)
    again = MFLLMForSimulation.from_backbones(base, dtype="float32")
    torch.manual_seed(77)
    second = trainer_of(base, tmp_path, model=again, options=options)
    assert not changed(weights(first.composite), weights(second.composite))  # drawn with the seed of the arguments


def test_simulated_histories_need_events(base, tmp_path):
    with pytest.raises(InputError, match="`events` must be given with simulated_history > 0"):
        trainer_of(base, tmp_path, simulated_history=0.1)


def test_without_a_history_there_is_nothing_to_summarise(base, tmp_path):
    told = list(rows(2))
    untold = Dataset.from_list([row | {"history": [], "warm_up": 0} for row in told], features=rows(2).features)
    with pytest.raises(InputError, match="transitions with a history to train the mean field"):
        trained(base, tmp_path, data=untold, schedule="mean_field")
    trainer = trained(base, tmp_path, data=untold, schedule="joint")
    assert "rate" not in trainer.state.log_history[0] and "policy_nll" in trainer.state.log_history[0]
