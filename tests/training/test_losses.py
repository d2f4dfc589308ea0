"""The losses as pure functions, against formulas by hand, scipy, the readout of simulations and TRL."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from toy_bottleneck import Toy

from mf_llm.errors import InputError
from mf_llm.models.tiny import tiny_backbone, tiny_tokenizer
from mf_llm.simulation.readout import anchored_probabilities, normalise
from mf_llm.training.losses import (
    anchored_log_probs,
    label_log_likelihood,
    leave_one_out,
    mean_field_loss,
    option_log_probs,
    perturbation,
    perturbation_penalty,
    population_kl,
)
from mf_llm.training.token_tree import TokenTree, pack_trees


def numbers(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


# -- baselines --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(2, 6), st.sampled_from([(), (3,)]), st.integers(0, 1000), st.floats(0.01, 1000))
def test_leave_one_out_is_each_value_less_the_mean_of_the_others(batch, count, rest, seed, scale):
    values = numbers(batch, count, *rest, seed=seed, scale=scale)
    found = leave_one_out(values)
    for b in range(batch):
        for k in range(count):
            others = torch.stack([values[b, j] for j in range(count) if j != k])
            torch.testing.assert_close(found[b, k], values[b, k] - others.mean(0), rtol=1e-9, atol=1e-9 * scale)
    torch.testing.assert_close(found.sum(1), torch.zeros_like(found.sum(1)), rtol=0, atol=1e-11 * scale)
    moved = leave_one_out(values + numbers(batch, 1, *rest, seed=seed + 1))  # what all signals share has no influence
    torch.testing.assert_close(moved, found, rtol=1e-9, atol=1e-9 * max(scale, 1))


def test_one_signal_has_no_baseline():
    with pytest.raises(InputError, match="`num_signals` must be at least 2, got 1"):
        leave_one_out(torch.zeros(3, 1))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_advantages_are_those_of_trl(tmp_path):
    """TRL's RLOO with a KL penalty: the reward of a completion less ``b (log q - log r)``, against its siblings.

    That is the reward here, divided by beta = 1 / b, with the whole rate; and the log-probabilities are TRL's own.
    """
    trl, peft = pytest.importorskip("trl"), pytest.importorskip("peft")
    from datasets import Dataset

    backbone, tokenizer = tiny_backbone("qwen2"), tiny_tokenizer("qwen2")
    ends = list(range(0, len(tokenizer), 5))  # many, so that some completions end before the length bound
    backbone.generation_config.eos_token_id = ends
    rewards, chance = [], random.Random(0)

    def reward(prompts, completions, **columns):
        rewards.extend(chance.random() for _ in completions)
        return rewards

    b, temperature = 0.5, 0.9
    args = trl.RLOOConfig(
        output_dir=str(tmp_path),
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=6,
        beta=b,
        temperature=temperature,
        generation_kwargs={"eos_token_id": ends},
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    prompts = ["A rumour."] * 4 + ["A longer rumour about the bridge."] * 4
    rows = [{"prompt": prompt} for prompt in prompts]
    trainer = trl.RLOOTrainer(
        model=backbone,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]),
    )
    model = trainer.model
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(model.named_parameters())):
            if "lora_B" in name:
                parameter.copy_(numbers(*parameter.shape, seed=i, scale=0.3))
    found = trainer._generate_and_score_completions(rows)

    trees, lengths = [], found["completion_mask"].sum(1).tolist()
    for i in range(0, 8, 4):
        trees.append(TokenTree(found["prompt_ids"][i][found["prompt_mask"][i].bool()].tolist()))
        for k in range(i, i + 4):
            trees[-1].add(found["completion_ids"][k, : lengths[k]].tolist(), scored=True)
    assert min(lengths) < max(lengths) == 6
    packed = pack_trees(trees, shared=False)
    inputs = {key.removeprefix("policy_"): value for key, value in packed.model_inputs("policy", model.device).items()}
    places = tuple(inputs.pop("logit_places").T)
    with torch.no_grad():
        log_q = packed.log_probs(model(**inputs).logits[places], temperature).view(2, 4, -1)
        with model.disable_adapter():
            log_r = packed.log_probs(model(**inputs).logits[places], temperature).view(2, 4, -1)
    torch.testing.assert_close(log_q.sum(-1).flatten(), found["old_logps"], rtol=1e-5, atol=1e-4)
    assert (log_q - log_r).abs().sum() > 0.1
    # The slope of the loss in log q of a signal's first token is its advantage, as the rate to go is the whole rate.
    log_q.requires_grad_()
    relevance = torch.tensor(rewards).view(2, 4)
    loss = mean_field_loss(log_q, log_r, relevance, beta=1 / b).loss
    advantages = -8 * torch.autograd.grad(loss, log_q)[0][..., 0]
    torch.testing.assert_close(b * advantages.flatten(), found["advantages"], rtol=1e-4, atol=1e-4)


# -- the mean field's loss --------------------------------------------------------------------------------------------


def test_parts_of_the_mean_field_loss_are_those_by_hand():
    log_q, log_r = -numbers(2, 3, 4).abs(), -numbers(2, 3, 4, seed=1).abs()
    log_q[0, 1, 2:] = log_r[0, 1, 2:] = 0  # a shorter signal
    relevance = -numbers(2, 3, seed=2).abs()
    parts = mean_field_loss(log_q, log_r, relevance, beta=3.0).parts
    rate = (log_q - log_r).sum(-1)
    reward = (3 * relevance - rate).numpy()
    expected = {
        "rate": float(rate.mean()),
        "relevance": float(relevance.mean()),
        "reward": reward.mean(),
        "reward_std": reward.std(axis=1, ddof=1).mean(),
        "ratio": 1.0,
    }
    assert parts == pytest.approx(expected)


def test_gradients_reach_log_q_alone():
    log_q, log_r, relevance, old = (numbers(2, 3, 4, seed=i).requires_grad_() for i in range(4))
    mean_field_loss(log_q, log_r, relevance.sum(-1), beta=2.0, old_log_q=old, max_ratio=50.0).loss.backward()
    assert log_q.grad is not None and log_q.grad.abs().min() > 0
    assert log_r.grad is None and relevance.grad is None and old.grad is None


def test_padding_behind_a_signal_changes_nothing():
    toy = Toy(cap=3)
    q, r, relevance = toy.table(0), toy.table(1), toy.relevance(2)
    drawn = torch.tensor([[0, 3, 9, 14]])

    def gradient(pad):
        log_q, log_r = (torch.nn.functional.pad(toy.log_probs(table)[drawn], (0, pad)) for table in (q, r))
        return torch.autograd.grad(mean_field_loss(log_q, log_r, relevance[drawn], beta=2.0).loss, q)[0]

    torch.testing.assert_close(gradient(0), gradient(5), rtol=1e-12, atol=1e-12)


def test_signals_used_at_once_or_with_their_own_log_probabilities_are_the_same():
    log_q, log_r, relevance = -numbers(2, 3, 4).abs(), -numbers(2, 3, 4, seed=1).abs(), numbers(2, 3, seed=2)
    fresh = mean_field_loss(log_q, log_r, relevance, beta=2.0)
    again = mean_field_loss(log_q, log_r, relevance, beta=2.0, old_log_q=log_q.clone())
    assert again.loss == fresh.loss and again.parts == fresh.parts


# -- the policy's losses ----------------------------------------------------------------------------------------------


def test_options_are_normalised_as_in_simulations():
    scores = numbers(5, 3, scale=30.0)
    np.testing.assert_allclose(option_log_probs(scores).exp().numpy(), normalise(scores.numpy()), atol=1e-12)


def test_the_anchored_readout_is_that_of_simulations():
    carry, tuned, base = np.array([0.2, 0.3, 0.5]), numbers(40, 3, scale=3.0), numbers(40, 3, seed=1, scale=3.0)
    found = anchored_log_probs(torch.tensor(carry), tuned, base)
    f = (tuned - base) - (tuned - base).mean(-1, keepdim=True)
    assert (f.abs() > 2).any() and (f.abs() < 2).all(-1).any()
    np.testing.assert_allclose(
        found.exp().numpy(), anchored_probabilities(carry, tuned.numpy(), base.numpy()), atol=1e-12
    )
    at_first = anchored_log_probs(torch.tensor(carry), base, base)
    np.testing.assert_allclose(at_first.exp().numpy(), np.tile(carry, (40, 1)), atol=1e-12)


def test_beyond_the_clip_there_is_no_gradient():
    carry, base = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)

    def slope(tuned):
        tuned = torch.tensor([tuned], dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(anchored_log_probs(carry, tuned, base)[0, 1], tuned)[0][0]

    # Both outer options beyond +-2: their place no longer matters, and the middle one cannot move without them.
    assert slope([1.9, 0.0, -1.9]).abs().min() > 0.04
    p = anchored_log_probs(carry, torch.tensor([[4.0, 0.0, -4.0]], dtype=torch.float64), base).exp()[0, 1]
    # The centre follows every option: a third of the middle option's own slope is lost to it, and given to the others.
    expected = (1 - p) * torch.tensor([-1 / 3, 2 / 3, -1 / 3], dtype=torch.float64)
    torch.testing.assert_close(slope([4.0, 0.0, -4.0]), expected)
    two = torch.tensor([[9.0, 0.0]], dtype=torch.float64, requires_grad=True)  # f = +-4.5
    anchored_log_probs(carry[:2], two, base[:, :2])[0, 0].backward()
    assert (two.grad == 0).all()


def test_the_penalty_on_f_is_its_weighted_mean_square_and_reaches_beyond_the_clip():
    tuned, base = numbers(4, 3, scale=3.0).requires_grad_(), numbers(4, 3, seed=1, scale=3.0)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=torch.float64)
    f = perturbation(tuned, base)
    shift = (tuned - base).detach().numpy()
    by_hand = shift - shift.mean(-1, keepdims=True)
    np.testing.assert_allclose(f.detach().numpy(), by_hand, atol=1e-12)
    penalty = perturbation_penalty(f, weights)
    expected = ((by_hand[0] ** 2).mean() + 2 * (by_hand[2] ** 2).mean() + (by_hand[3] ** 2).mean()) / 4
    assert penalty.item() == pytest.approx(expected, abs=1e-12)
    penalty.backward()  # of the mean square of centred values: the values themselves, centring changes nothing more
    share = weights.numpy() / 4
    np.testing.assert_allclose(tuned.grad.numpy(), share[:, None] * 2 * by_hand / 3, atol=1e-12)
    assert (np.abs(by_hand) > 2).any()


def test_label_likelihood_is_a_weighted_mean_over_people():
    log_p = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=torch.float64))
    counts = torch.tensor([[2.0, 0.0, 0.5], [0.0, 1.5, 0.0]], dtype=torch.float64)
    expected = (2 * math.log(0.5) + 0.5 * math.log(0.25) + 1.5 * math.log(0.2)) / 4
    assert float(label_log_likelihood(log_p, counts)) == pytest.approx(expected, abs=1e-12)
    assert float(label_log_likelihood(log_p, 7 * counts)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("target", [[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.6, 0.4, 0.0]])
def test_population_kl_is_that_of_scipy(target):
    log_p = torch.log_softmax(numbers(4, 3), dim=-1).requires_grad_()
    weights = torch.tensor([1.0, 2.5, 0.0, 0.5], dtype=torch.float64)
    q = (weights / weights.sum()) @ log_p.detach().exp()
    found = population_kl(torch.tensor(target, dtype=torch.float64), log_p, weights)
    assert found.item() == pytest.approx(entropy(target, q.numpy()), abs=1e-12)
    assert torch.autograd.grad(found, log_p)[0].isfinite().all()


def test_population_kl_is_zero_where_the_shares_are_right_and_its_gradient_leads_there():
    target = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert float(population_kl(target, target.log().expand(2, 3), weights)) == pytest.approx(0.0, abs=1e-12)
    scores = numbers(2, 3).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        population_kl(target, option_log_probs(scores), weights).backward()
        optimizer.step()
    p = option_log_probs(scores).exp().detach()
    torch.testing.assert_close((weights[:, None] * p).sum(0) / 4, target, rtol=0, atol=1e-3)
    assert (p[0] - p[1]).abs().max() > 0.05  # of the shares, not of every profile
