"""What IB-Tune measures and computes: logged values by hand, evaluation, dropout, checkpointing, types."""

import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")

from made_trainer import adapters, backbone, changed, history, new_model, rows, trained, trainer_of, weights

from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.simulation.signals import shown_signal
from mf_llm.training.transitions import answer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return backbone(tmp_path_factory.mktemp("tiny"))


# -- what is logged ---------------------------------------------------------------------------------------------------


def log_probabilities(model, role, prompt, ids, temperature=1.0):
    """Of each of `ids` after `prompt`, from one row without padding, mask or cache."""
    row = torch.tensor([[*prompt, *ids]])
    logits = model.backbone(role)(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
    return torch.log_softmax(logits / temperature, dim=-1).gather(1, row[0, len(prompt) :, None])[:, 0].tolist()


def surrogate(log_q, log_r, relevance, beta):
    """Method, section 3: each token's reward is that of the whole signal less what it costs from this token on."""
    count, total = len(log_q), 0.0

    def reward(k, j):
        return beta * relevance[k] - (sum(log_q[k][j:]) - sum(log_r[k][j:]))

    for k, tokens in enumerate(log_q):
        for j, value in enumerate(tokens):
            others = [reward(other, j) for other in range(count) if other != k]
            total -= (reward(k, j) - sum(others) / len(others)) * value
    return total / count


def readout(trainer, row, signal, order):
    """Shares of the options for each person of a transition, and the log-likelihood of what each of them said."""
    answer, processor, limits = answer_of(row), trainer.processor, trainer.data_collator.limits
    prefix = processor.policy_prefix(row["topic"], signal, answer, order=order, limits=limits)
    shares, likelihoods, weights = [], [], []
    for person in row["people"]:
        prompt = [*prefix, *processor.person_segment(json.loads(person["state"]), answer, limits=limits)]
        scores = [
            sum(log_probabilities(trainer.composite, "policy", prompt, ids)) for ids in processor.option_ids(answer)
        ]
        log_p = torch.log_softmax(torch.tensor(scores, dtype=torch.float64), dim=0)
        shares.append(log_p.exp() * person["weight"])
        likelihoods.append(log_p[person["label"]] * person["weight"])
        weights.append(person["weight"])
    return torch.stack(shares).sum(0) / sum(weights), float(sum(likelihoods) / sum(weights))


@torch.no_grad()
def test_what_is_logged_is_what_one_gets_by_hand(base, tmp_path):
    data, beta, temperature = rows(1), 8.0, 0.7
    model = new_model(base, spread=0.3)
    trainer = trainer_of(
        base, tmp_path, model=model, data=data, num_signals=3, signal_temperature=temperature, max_steps=1,
        per_device_train_batch_size=1, lambda_population=0.5, learning_rate=0.0,
    )  # fmt: skip
    (row,) = trainer.data_collator(data)["transitions"]
    model.eval()
    (drawn,) = trainer.preparer.sampler.draw([row], 3, turn=0)
    name = (3, row["data_set"], row["event_id"], row["draw"], 0)
    order = permutation(len(row["options"]), stream_key(*name, "option order"))
    told = [f"{row['statistics']}\n{text}" if text else row["statistics"] for text in drawn.texts]
    assert [shown_signal("both", row["statistics"], text) for text in drawn.texts] == told
    read = [readout(trainer, row, signal, order) for signal in told]
    prior = trainer.processor.mean_field_prior_prompt(row["topic"], limits=trainer.data_collator.limits)
    log_q = [log_probabilities(model, "mean_field", drawn.prompt, ids, temperature) for ids in drawn.ids]
    with model.adapters_disabled("mean_field"):
        log_r = [log_probabilities(model, "mean_field", prior, ids, temperature) for ids in drawn.ids]
    rates = [sum(q) - sum(r) for q, r in zip(log_q, log_r, strict=True)]
    rewards = [beta * value - rate for (_, value), rate in zip(read, rates, strict=True)]
    shares, likelihood = read[drawn.carried]
    target = torch.tensor(row["target_counts"], dtype=torch.float64)
    target /= target.sum()
    kl = float((torch.xlogy(target, target) - torch.xlogy(target, shares)).sum())
    with torch.enable_grad():
        trainer.train()
    logged = trainer.state.log_history[0]
    expected = {
        "rate": sum(rates) / 3,
        "relevance": sum(value for _, value in read) / 3,
        "reward": sum(rewards) / 3,
        "reward_std": float(torch.tensor(rewards).std()),
        "policy_nll": -likelihood,
        "label_nll": -likelihood,
        "population_kl": kl,
        "signal_tokens": sum(map(len, drawn.ids)) / 3,
        "ratio": 1.0,
        "loss": -likelihood + 0.5 * kl + surrogate(log_q, log_r, [value for _, value in read], beta),
    }
    assert {key: logged[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert len({round(value, 3) for value in rewards}) == 3
    tree = trainer.data_collator.policy_trees([row], [told[drawn.carried]], 0)[0].tree
    assert trainer.state.num_input_tokens_seen == len(tree)


# -- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["joint", "mean_field"])
def test_evaluation_is_deterministic_and_leaves_training_as_it_is(base, tmp_path, schedule):
    settings = {"schedule": schedule, "max_steps": 3, "data": rows(6)}
    evaluated = rows(3, split="validation")
    without = trained(base, tmp_path, model=new_model(base, dropout=0.2), **settings)
    trainer = trainer_of(
        base, tmp_path, model=new_model(base, dropout=0.2), evaluated=evaluated, eval_strategy="steps", eval_steps=1,
        **settings,
    )  # fmt: skip
    start = trainer.evaluate()
    again = trainer.evaluate()
    trainer.train()
    losses = [[entry for entry in history(one) if "loss" in entry] for one in (without, trainer)]
    assert losses[0] == losses[1]
    assert not changed(weights(without.composite), weights(trainer.composite))
    parts = {"eval_rate", "eval_relevance", "eval_reward", "eval_loss", "eval_signal_tokens"}
    parts |= {"eval_policy_nll", "eval_population_kl"} if schedule == "joint" else set()
    assert parts <= start.keys() and {name: start[name] for name in parts} == {name: again[name] for name in parts}
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) == 3
    if schedule == "joint":
        assert start["eval_loss"] == pytest.approx(start["eval_policy_nll"] + start["eval_population_kl"], rel=1e-5)
    else:
        assert start["eval_loss"] == pytest.approx(-start["eval_reward"], rel=1e-5)


# -- gradient checkpointing, types ------------------------------------------------------------------------------------


def checkpoint_layers(model):
    # The name of before transformers 5.22 and the one since.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def gradients(trainer):
    trainer.model.train()
    batch = trainer.data_collator(list(trainer.train_dataset)[:2])
    trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).backward()
    return {name: p.grad.clone() for name, p in trainer.composite.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_gradient_checkpointing_gives_the_same_gradients(tmp_path, family, monkeypatch):
    folder, found, calls = backbone(tmp_path, family), {}, []
    checkpoint = torch.utils.checkpoint.checkpoint
    for checkpointed in (False, True):
        trainer = trainer_of(folder, tmp_path)
        if checkpointed:

            def spy(function, *args, **kwargs):
                calls.append(kwargs)
                return checkpoint(function, *args, **kwargs)

            monkeypatch.setattr("transformers.modeling_utils.checkpoint", spy)
            checkpoint_layers(trainer.composite)
        found[checkpointed] = gradients(trainer)
    assert len(calls) == 4 and all(call["use_reentrant"] is False for call in calls)  # two layers of each role
    assert found[True].keys() == found[False].keys() == adapters(trainer.composite)
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_signals_are_scored_without_the_dropout_of_the_backbone(tmp_path, checkpointed):
    folder = backbone(tmp_path, "gpt2")
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text()) | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5)
    path.write_text(json.dumps(config))
    model = new_model(folder, dropout=0.5)
    assert model.policy.config.attn_pdrop == 0.5
    trainer = trainer_of(folder, tmp_path, model=model, signal_temperature=0.8)
    if checkpointed:
        checkpoint_layers(model)
    model.train()
    batch = trainer.data_collator(list(trainer.train_dataset)[:2])
    prepared = trainer._prepare_inputs(batch)
    trainer.compute_loss(model, prepared)
    noisy = trainer._sums["policy_nll"][-1]
    trainer.compute_loss(model, prepared)
    assert trainer._sums["policy_nll"][-1] != noisy  # the policy is trained with dropout
    model.eval()
    with torch.no_grad():
        output = model(**prepared.mean_field.model_inputs("mean_field", "cpu"))
    expected = prepared.mean_field.log_probs(output.mean_field_logits, 0.8).view(prepared.log_r.shape)
    torch.testing.assert_close(prepared.old_log_q, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_adapters_in_float32_on_a_base_in_bfloat16(base, tmp_path, checkpointed):
    model = new_model(base, dtype="bfloat16")
    before = weights(model)
    trainer = trained(base, tmp_path, model=model, gradient_checkpointing=checkpointed, max_steps=3)
    assert {value.dtype for name, value in before.items() if name not in adapters(model)} == {torch.bfloat16}
    assert {before[name].dtype for name in adapters(model)} == {torch.float32}
    assert changed(before, weights(trainer.composite)) == adapters(model)
    assert all(math.isfinite(entry["loss"]) for entry in history(trainer) if "loss" in entry)


def test_signals_are_drawn_in_the_precision_of_the_loss(base, tmp_path):
    trainer = trainer_of(base, tmp_path, bf16=True, max_steps=1)
    linear = trainer.composite.mean_field.model.layers[0].mlp.up_proj.base_layer
    seen = []
    linear.register_forward_hook(lambda module, args, output: seen.append((torch.is_grad_enabled(), output.dtype)))
    trainer.train()
    assert set(seen) == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert {p.dtype for p in trainer.composite.parameters()} == {torch.float32}
