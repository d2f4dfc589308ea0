"""The estimator of the bottleneck's gradient against closed forms, on a model that can be enumerated (method, 3)."""

import pytest
import torch
from scipy.stats import norm
from toy_bottleneck import END, Toy

from mf_llm.training.losses import leave_one_out, mean_field_loss
from mf_llm.training.token_tree import TokenTree, pack_trees

TOY = Toy(cap=3)  # 15 signals, 225 pairs
SMALL = Toy(cap=2)  # 7 signals, 343 triples
BETA = 1.7


def situation(toy=TOY, seed=0):
    """q, r and a relevance."""
    return toy.table(seed), toy.table(100 + seed), toy.relevance(200 + seed, scale=3.0)


# -- estimators -------------------------------------------------------------------------------------------------------


def ours(beta=BETA, **options):
    return lambda log_q, log_r, relevance, old: mean_field_loss(log_q, log_r, relevance, beta=beta, **options).loss


def with_ratios(beta=BETA, max_ratio=1e9):
    return lambda log_q, log_r, relevance, old: (
        mean_field_loss(log_q, log_r, relevance, beta=beta, old_log_q=old, max_ratio=max_ratio).loss
    )


def published(beta=BETA):
    """The loss of the published code (method, section 3).

    The rate is ``log q - log r`` of q's own samples, differentiated as it stands; the relevance is computed by a
    frozen model on a text that was made without gradient, so that it is a constant here. What is left of the gradient
    is the mean of ``grad log q(m)`` over ``m ~ q``, whose expectation is 0.
    """
    return lambda log_q, log_r, relevance, old: (log_q - log_r).sum(-1).mean() - beta * relevance.mean()


def score_function(advantage):
    """Minus the mean of ``advantage * log q``, token by token; `advantage` of (per-token rate, relevance) is fixed."""

    def loss(log_q, log_r, relevance, old):
        return -(advantage((log_q - log_r).detach(), relevance) * log_q).sum(-1).mean()

    return loss


def whole_rate(beta=BETA):
    """As ours, but every token is rewarded with the rate of the whole signal."""
    return score_function(lambda rate, relevance: leave_one_out(beta * relevance - rate.sum(-1))[..., None])


def rate_to_go(rate):
    return rate.flip(-1).cumsum(-1).flip(-1)


WRONG = {
    "published": published(),
    "the baseline holds the signal's own reward": score_function(
        lambda rate, relevance: (
            (BETA * relevance[..., None] - rate_to_go(rate))
            - (BETA * relevance[..., None] - rate_to_go(rate)).mean(1, keepdim=True)
        )
    ),
    "the rate of a token is left out": score_function(
        lambda rate, relevance: leave_one_out(BETA * relevance[..., None] - (rate_to_go(rate) - rate))
    ),
    "the rate up to a token": score_function(
        lambda rate, relevance: leave_one_out(BETA * relevance[..., None] - rate.cumsum(-1))
    ),
    "the rate per token": score_function(
        lambda rate, relevance: leave_one_out(
            BETA * relevance[..., None] - rate_to_go(rate) / (rate != 0).sum(-1, keepdim=True)
        )
    ),
    "no prior": lambda log_q, log_r, relevance, old: (
        mean_field_loss(log_q, torch.zeros_like(log_r), relevance, beta=BETA).loss
    ),
}


# -- the criterion ----------------------------------------------------------------------------------------------------


def agrees_exactly(loss, toy=TOY, seed=0, beta=BETA, **options):
    """Whether the expectation over all tuples of signals is the analytic gradient."""
    q, r, relevance = situation(toy, seed)
    found = toy.expected_gradient(loss, q, r, relevance, **options)
    return torch.allclose(found, toy.gradient(q, r, relevance, beta), rtol=1e-9, atol=1e-12)


def agrees_in_draws(loss, seed=0, transitions=100_000, count=2):
    """Whether all components are within simultaneous 99.9 % intervals (normal, Bonferroni) around the mean of draws.

    The widest interval is asserted to be a small part of the gradient, or agreement would mean little.
    """
    q, r, relevance = situation(seed=seed)
    expected = TOY.gradient(q, r, relevance, BETA)
    mean, error = TOY.sampled_gradients(loss, q, r, relevance, transitions=transitions, count=count, seed=9)
    z = norm.ppf(1 - 0.001 / (2 * len(expected)))
    assert z * error.max() < 0.05 * expected.norm()
    return bool(((mean - expected).abs() <= z * error).all())


def test_the_toy_is_a_distribution_with_the_gradient_of_finite_differences():
    q, r, relevance = situation()
    assert len(TOY.signals) == len(set(TOY.signals)) == 15 and len(TOY.contexts) == 7
    assert float(TOY.probabilities(q).detach().sum()) == pytest.approx(1.0, abs=1e-12)
    assert TOY.rate(r, r).item() == 0 and TOY.rate(q, r).item() > 0.1
    assert torch.autograd.gradcheck(lambda table: TOY.objective(table, r, relevance, BETA), q)
    best = TOY.table_of(TOY.best(r, relevance, BETA))
    torch.testing.assert_close(TOY.probabilities(best), TOY.best(r, relevance, BETA))
    assert TOY.gradient(best, r, relevance, BETA).norm() < 1e-12
    assert TOY.objective(best, r, relevance, BETA) < TOY.objective(q, r, relevance, BETA) - 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_expected_gradient_is_the_analytic_one(seed):
    assert agrees_exactly(ours(), seed=seed)


@pytest.mark.parametrize("count", [2, 3])
def test_it_is_for_every_number_of_signals(count):
    assert agrees_exactly(ours(), toy=SMALL, count=count)


@pytest.mark.parametrize("count", [2, 4])
def test_the_mean_of_many_draws_is_the_analytic_gradient(count):
    assert agrees_in_draws(ours(), transitions=200_000 // count, count=count)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_estimators_fail_both_tests(name):
    assert not agrees_exactly(WRONG[name])
    assert not agrees_in_draws(WRONG[name])


# -- beta and prior ---------------------------------------------------------------------------------------------------


def test_the_prior_changes_the_gradient_by_the_analytic_difference():
    q, r, relevance = situation(SMALL)
    other = SMALL.table(77)
    found = [SMALL.expected_gradient(ours(), q, prior, relevance) for prior in (r, other)]
    expected = [SMALL.gradient(q, prior, relevance, BETA) for prior in (r, other)]
    torch.testing.assert_close(found[1] - found[0], expected[1] - expected[0], rtol=1e-9, atol=1e-12)
    assert (found[1] - found[0]).norm() > 0.1 * found[0].norm()


def test_beta_changes_the_gradient_by_the_analytic_difference():
    q, r, relevance = situation(SMALL)
    found = [SMALL.expected_gradient(ours(beta), q, r, relevance) for beta in (0.0, 1.0, 5.0)]
    # -grad E_q[relevance], the analytic derivative in beta.
    slope = SMALL.gradient(q, r, relevance, 1.0) - SMALL.gradient(q, r, relevance, 0.0)
    torch.testing.assert_close(found[1] - found[0], slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[2] - found[0], 5 * slope, rtol=1e-9, atol=1e-12)
    assert slope.norm() > 0.05


def test_the_published_gradient_knows_neither_prior_nor_beta():
    q, r, relevance = situation()
    p, gradients = TOY.tuple_gradients(published(), q, r, relevance)
    assert (p @ gradients).norm() < 1e-12 and gradients.norm(dim=-1).max() > 0.1
    for changed in ((published(50.0), q, r, relevance), (published(), q, TOY.table(77), relevance)):
        assert torch.equal(TOY.tuple_gradients(*changed)[1], gradients)
    assert TOY.gradient(q, r, relevance, BETA).norm() > 0.1


# -- training ---------------------------------------------------------------------------------------------------------


def train(loss, prior, relevance, *, steps=400, transitions=32, count=4, seed=0):
    """Fits q with Adam to draws from q as it is at each step; returns the table."""
    table = TOY.table(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([table], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    log_r = TOY.log_probs(prior.detach())
    for _ in range(steps):
        log_q = TOY.log_probs(table)
        p = log_q.detach().sum(-1).exp()
        drawn = torch.multinomial(p, transitions * count, replacement=True, generator=generator)
        drawn = drawn.view(transitions, count)
        optimizer.zero_grad()
        loss(log_q[drawn], log_r[drawn], relevance[drawn], log_q[drawn].detach()).backward()
        optimizer.step()
        schedule.step()
    return table


def test_beta_zero_drives_the_rate_to_zero():
    q, r, relevance = situation()
    assert TOY.rate(q, r).item() > 0.5
    trained = train(ours(0.0), r, relevance)
    assert 0 <= TOY.rate(trained, r).item() < 1e-3
    assert (TOY.probabilities(trained) - TOY.probabilities(r)).abs().max() < 0.01


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_training_ends_at_the_known_optimum(beta):
    _, r, relevance = situation()
    best = TOY.best(r, relevance, beta)
    assert (best - TOY.probabilities(r)).abs().sum() / 2 > 0.05  # not where beta 0 ends
    found = TOY.probabilities(train(ours(beta), r, relevance))
    assert (found - best).abs().sum() / 2 < 0.03  # total variation


def test_a_large_beta_finds_the_most_informative_signal():
    _, r, relevance = situation()
    winner = int(relevance.argmax())
    assert TOY.probabilities(r)[winner].item() < 0.3
    trained = train(ours(64.0), r, relevance)
    assert TOY.probabilities(trained)[winner].item() > 0.95


def test_with_the_published_loss_beta_and_the_prior_change_nothing():
    _, r, relevance = situation()
    trained = train(published(0.0), r, relevance, steps=50)
    assert torch.equal(train(published(64.0), r, relevance, steps=50), trained)
    assert torch.equal(train(published(0.0), TOY.table(77), relevance, steps=50), trained)
    assert not torch.equal(
        train(ours(0.0), TOY.table(77), relevance, steps=50), train(ours(0.0), r, relevance, steps=50)
    )


# -- reward-to-go and importance ratios -------------------------------------------------------------------------------


def moments(loss, q, r, relevance):
    """The mean of an estimator over all pairs of signals, and its variance summed over the components."""
    p, gradients = TOY.tuple_gradients(loss, q, r, relevance)
    mean = p @ gradients
    return mean, float(p @ (gradients - mean).square().sum(-1))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_reward_to_go_has_the_same_expectation_and_less_variance(beta):
    ratios = []
    for seed in range(5):
        q, r, relevance = situation(seed=seed)
        (mean, variance), (of_whole, variance_of_whole) = (
            moments(loss, q, r, relevance) for loss in (ours(beta), whole_rate(beta))
        )
        torch.testing.assert_close(mean, of_whole, rtol=1e-9, atol=1e-12)
        ratios.append(variance / variance_of_whole)
    assert sum(ratios) / len(ratios) < 0.95
    if beta == 0:
        assert max(ratios) < 1


def test_where_the_rate_pays_for_the_relevance_reward_to_go_is_the_noisier_one():
    """The limit of the above: at the optimum all signals have the same reward, and the whole one has no variance."""
    _, r, relevance = situation()
    best = TOY.table_of(TOY.best(r, relevance, BETA))
    (mean, variance), (of_whole, variance_of_whole) = (
        moments(loss, best, r, relevance) for loss in (ours(), whole_rate())
    )
    assert mean.norm() < 1e-12 and of_whole.norm() < 1e-12
    assert variance_of_whole < 1e-20 < 1e-3 < variance


def test_signals_of_an_older_model_are_weighted():
    """Whatever the baseline is, its term is 0 in expectation: signal k is independent of the others in q_old, too."""
    older = TOY.table(55)
    assert agrees_exactly(with_ratios(), drawn_from=older)
    assert not agrees_exactly(ours(), drawn_from=older)
    assert not agrees_exactly(with_ratios(max_ratio=2.0), drawn_from=older)  # cut ratios are biased, as documented
    assert agrees_exactly(with_ratios(max_ratio=1.0))  # nothing is cut where the model is the same


def test_ratios_are_cut_at_their_bound_alone():
    q, r, relevance = situation()
    older = TOY.table(55)
    drawn = torch.arange(len(TOY.signals)).view(1, -1)
    old, log_r = TOY.log_probs(older).detach()[drawn], TOY.log_probs(r).detach()[drawn]

    def slopes(max_ratio):
        log_q = TOY.log_probs(q).detach()[drawn].requires_grad_()
        found = mean_field_loss(log_q, log_r, relevance[drawn], beta=BETA, old_log_q=old, max_ratio=max_ratio)
        return torch.autograd.grad(found.loss, log_q)[0], found.parts["ratio"]

    ratios = (TOY.probabilities(q) / TOY.probabilities(older)).detach()
    assert (ratios > 2).any() and (ratios < 1).any() and ((ratios > 1) & (ratios < 2)).any()
    free, mean = slopes(1e9)
    cut, cut_mean = slopes(2.0)
    assert mean == pytest.approx(float(ratios.mean())) and cut_mean == pytest.approx(float(ratios.clamp(max=2).mean()))
    factor = (2 / ratios).clamp(max=1)
    torch.testing.assert_close(cut, free * factor[None, :, None], rtol=1e-12, atol=1e-12)


# -- from token trees to the gradient ---------------------------------------------------------------------------------

PROMPT, LONG_PROMPT = [7, 8, 9], [7, 8, 9, 10, 11, 12]


def logits_of(table, packed):
    """The toy as a language model: each token's logits follow from what its mask lets it see, and from nothing else.

    Where it sees no whole prompt (padding) or more words than fit, the logits are NaN.
    """
    rows, width = packed.input_ids.shape
    logits = table.new_full((rows, width, table.shape[1]), float("nan"))
    for row in range(rows):
        for column in range(width):
            if packed.attention_mask.dim() == 4:
                seen = packed.attention_mask[row, 0, column].nonzero().flatten()
            else:
                seen = packed.attention_mask[row, : column + 1].nonzero().flatten()
            positions = packed.position_ids[row, seen].tolist()
            ids = [int(packed.input_ids[row, i]) for _, i in sorted(zip(positions, seen.tolist(), strict=True))]
            words = tuple(token for token in ids if token < 3)
            whole = [token for token in ids if token >= 3] in (PROMPT, LONG_PROMPT) and sorted(positions) == list(
                range(len(ids))
            )
            if whole and words in TOY.contexts:
                logits[row, column] = table[TOY.contexts.index(words)]
    return logits[tuple(packed.places.T)]


@pytest.mark.parametrize("shared", [True, False])
def test_the_log_probability_of_a_signal_is_the_sum_over_its_tokens_and_its_end(shared):
    """Rows are padded on the left, signals on the right; at the length cap the end is forced and scores nothing."""
    table = TOY.table(3)
    signals = [[(1, 2, 1), (END,)], [(2, END), (1, 1, END)]]
    trees = []
    for prompt, branches in zip((PROMPT, LONG_PROMPT), signals, strict=True):
        trees.append(TokenTree(prompt))
        for signal in branches:
            trees[-1].add(signal, scored=True)
    packed = pack_trees(trees, shared=shared)
    assert (packed.position_ids[0, :3] == 0).all()  # padding on the left of the shorter row
    found = packed.log_probs(logits_of(table, packed)).view(2, 2, 3)
    p = torch.softmax(table.detach(), dim=-1)
    row = TOY.contexts.index

    def by_hand(*steps):
        return torch.tensor([float(p[row(words), token].log()) for words, token in steps] + [0.0] * (3 - len(steps)))

    torch.testing.assert_close(found[0, 0].detach(), by_hand(((), 1), ((1,), 2), ((1, 2), 1)))  # at the cap: no end
    torch.testing.assert_close(found[0, 1].detach(), by_hand(((), END)))
    torch.testing.assert_close(found[1, 0].detach(), by_hand(((), 2), ((2,), END)))
    torch.testing.assert_close(found[1, 1].detach(), by_hand(((), 1), ((1,), 1), ((1, 1), END)))


@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_through_token_trees_is_that_of_the_table(shared):
    q, r, relevance = situation()
    drawn = torch.tensor([[0, 14, 7, 3], [2, 2, 9, 5], [1, 0, 13, 6]])
    trees = []
    for prompt, row in zip((PROMPT, LONG_PROMPT, PROMPT), drawn, strict=True):
        trees.append(TokenTree(prompt))
        for s in row:
            trees[-1].add(TOY.signals[s], scored=True)
    packed = pack_trees(trees, shared=shared)
    log_q, log_r = (packed.log_probs(logits_of(table, packed)).view(3, 4, 3) for table in (q, r))
    torch.testing.assert_close(log_q, TOY.log_probs(q)[drawn].float())
    through_trees = torch.autograd.grad(mean_field_loss(log_q, log_r, relevance[drawn], beta=BETA).loss, q)[0]
    direct = mean_field_loss(TOY.log_probs(q)[drawn], TOY.log_probs(r)[drawn], relevance[drawn], beta=BETA)
    torch.testing.assert_close(through_trees, torch.autograd.grad(direct.loss, q)[0], rtol=1e-5, atol=1e-6)
