"""What a run is said to cost is what it then does: steps, tokens with and without a gradient."""

import math

import pytest
import torch

pytest.importorskip("peft")

from made_trainer import backbone, history, new_model, rows, trainer_of, weights

from mf_llm.training import ib_tune_estimate
from mf_llm.training.ib_tune_estimate import estimate_training

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def counted(monkeypatch):
    """What the trainer reads in its steps: role and whether with a gradient -> tokens."""
    from mf_llm.training import policy_scores
    from mf_llm.training.ib_tune_trainer import IBTuneTrainer

    tokens = {"policy": 0, "mean_field": 0, ("policy", "free"): 0, ("mean_field", "free"): 0}
    compute_loss, score_trees = IBTuneTrainer.compute_loss, policy_scores.score_trees

    def counting_loss(self, model, inputs, *args, **kwargs):
        if inputs.policy is not None:
            tokens["policy"] += inputs.policy[1].n_tokens
        if inputs.mean_field is not None:
            tokens["mean_field"] += inputs.mean_field.n_tokens
        return compute_loss(self, model, inputs, *args, **kwargs)

    def counting_scores(model, role, trees, collator, **kwargs):
        tokens[role, "free"] += sum(collator.pack(role, [tree]).n_tokens for tree in trees)
        return score_trees(model, role, trees, collator, **kwargs)

    monkeypatch.setattr(IBTuneTrainer, "compute_loss", counting_loss)
    monkeypatch.setattr("mf_llm.training.batch_preparation.score_trees", counting_scores)
    return tokens


CASES = [
    {"schedule": "sequential", "num_train_epochs": 3, "mean_field_share": 0.4},
    {"schedule": "alternate", "anchored": True, "num_train_epochs": 1.5},
    {"schedule": "joint", "updates_per_draw": 2, "num_train_epochs": 1},
    {"schedule": "joint", "gradient_accumulation_steps": 2, "num_train_epochs": 2, "target": "action"},
    {"schedule": "mean_field", "max_steps": 3, "anchored": True},
    {"schedule": "policy", "signal": "statistics", "max_steps": 3, "anchored": True},
    {"schedule": "policy", "signal": "none", "max_steps": 2},
]


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: f"{changes['schedule']}-{len(changes)}")
def test_steps_and_tokens_are_those_of_the_run(base, tmp_path, counted, changes):
    trainer = trainer_of(base, tmp_path, data=rows(6), **({"max_steps": -1} | changes))
    found = estimate_training(trainer)
    assert not any(counted.values()) and trainer.preparer.sampler.tokens_drawn == 0
    assert found.seconds > 0 and found.measured_in > 0
    trainer.train()
    tokens = found.tokens
    assert found.steps == trainer.state.global_step == trainer.state.max_steps
    roles = [trainer.roles_of(step) for step in range(found.steps)]
    assert found.role_steps == {role: sum(role in some for some in roles) for role in ("mean_field", "policy")}
    assert found.transitions == found.sampled == 6 and found.batch == 2 * trainer.args.gradient_accumulation_steps
    # Exact but for signals, whose lengths differ, and for transitions that come once more or less than others.
    near = {"rel": 0.1}
    assert tokens["policy"] == pytest.approx(counted["policy"], **near)
    assert tokens["policy"] == pytest.approx(trainer.state.num_input_tokens_seen, **near)
    assert tokens["mean_field"] == pytest.approx(counted["mean_field"], **near)
    assert tokens["relevance"] + tokens["base"] == pytest.approx(counted["policy", "free"], **near)
    assert tokens["prior"] == pytest.approx(counted["mean_field", "free"], **near)
    assert tokens["drawn"] == pytest.approx(trainer.preparer.sampler.tokens_drawn, rel=0.15)
    assert (tokens["base"] > 0) == trainer.args.anchored
    assert (tokens["prompts"] > 0) == trainer.args.has_text


def test_a_keyed_sample_stands_for_many(base, tmp_path, monkeypatch):
    trainer = trainer_of(base, tmp_path, data=rows(12), max_steps=-1, num_train_epochs=1)
    whole = estimate_training(trainer)
    monkeypatch.setattr(ib_tune_estimate, "MAX_SAMPLED", 4)
    part = estimate_training(trainer)
    assert (part.transitions, part.sampled, part.steps) == (12, 4, whole.steps)
    for name, count in whole.tokens.items():
        assert part.tokens[name] == pytest.approx(count, rel=0.25)
    assert "(from 4 transitions)" in str(part) and "(from" not in str(whole)


def test_the_text_says_what_was_counted(base, tmp_path):
    trainer = trainer_of(base, tmp_path, data=rows(4), schedule="sequential", max_steps=6)
    found = estimate_training(trainer)
    first, second, third = str(found).splitlines()
    assert first == (
        "4 transitions, schedule sequential: 6 steps of 2 transitions, of which 3 train the mean field, 3 train the "
        "policy."
    )
    assert f"{found.tokens['policy']:,} policy" in second and f"{found.tokens['prior']:,} prior" in second
    assert f"{found.tokens['drawn']:,} drawn" in second and "base" not in second
    assert third.startswith("About ") and "without evaluations, as measured here in" in third


def test_time_is_tokens_times_what_was_measured(base, tmp_path, monkeypatch):
    """1 s for each token of a batch of signals, 10 s to read a batch of a role, 100 s with a gradient."""
    trainer = trainer_of(base, tmp_path, data=rows(2), schedule="joint", max_steps=5)
    whole_pass, decoding, decoded = ib_tune_estimate._pass, ib_tune_estimate._decoding, []

    def told_pass(*args, backward):
        assert whole_pass(*args, backward=backward) > 0
        return 100.0 if backward else 10.0

    def told_decoding(trainer, model, prompt, n):
        assert decoding(trainer, model, prompt, n) >= 0
        decoded.append(n)
        return 1.0

    monkeypatch.setattr(ib_tune_estimate, "_pass", told_pass)
    monkeypatch.setattr(ib_tune_estimate, "_decoding", told_decoding)
    monkeypatch.setattr(ib_tune_estimate, "ENOUGH_SECONDS", 1000.0)
    found = estimate_training(trainer)
    # A batch are both transitions: each step trains both roles on it, and the policy reads it under two signals. Of a
    # history of two steps the first gets one signal of 5 tokens, the second two.
    reading = 10 / (found.tokens["mean_field"] / 5)
    expected = 5 * (100 + 100 + 2 * 10 + 5 * (1 + 1)) + reading * (found.tokens["prior"] + found.tokens["prompts"])
    assert decoded == [2, 4] and found.seconds == pytest.approx(expected, rel=0.01)

    # With gradient checkpointing one transition is measured, and everything is read once more.
    trainer.args.gradient_checkpointing = True
    again = estimate_training(trainer)
    assert again.tokens == found.tokens and again.seconds > 1.5 * found.seconds


def test_nothing_is_left_behind(base, tmp_path):
    def trained(folder, estimate):
        model = new_model(base, spread=0.3)
        options = {"schedule": "sequential", "max_steps": 4, "num_train_epochs": 2}
        trainer = trainer_of(base, tmp_path / folder, model=model, data=rows(4), **options)
        before, state = weights(model), torch.get_rng_state()
        model.backbone("mean_field").eval()
        modes = {name: module.training for name, module in model.named_modules()}
        if estimate:
            assert math.isfinite(estimate_training(trainer).seconds)
        assert all(torch.equal(before[name], value) for name, value in weights(model).items())
        assert torch.equal(state, torch.get_rng_state())
        assert modes == {name: module.training for name, module in model.named_modules()}
        assert all(parameter.grad is None for parameter in model.parameters())
        trainer.train()
        return history(trainer)

    assert trained("a", True) == trained("b", False)
