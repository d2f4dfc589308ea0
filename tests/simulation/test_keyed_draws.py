"""Keyed randomness: right distributions, and numbers that depend on their key alone."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import TopPLogitsWarper

from mf_llm.simulation.keyed_draws import draw_categories, keyed_sample, permutation, stream_key, uniform_number
from mf_llm.simulation.sampling import KeyedGumbel, TopP, gumbel_noise, noisy_scores

KEYS = [stream_key("seed", 0, "event", i) for i in range(20_000)]


def signed(keys):
    return torch.tensor([key - (1 << 64) if key >= 1 << 63 else key for key in keys])


def test_keys_tell_their_parts_apart():
    parts = [("a", "bc"), ("ab", "c"), ("abc",), ("abc", ""), ("", "abc"), (1,), ("1",), (1, 1), (11,), ("1", 1), ()]
    keys = [stream_key(*one) for one in parts]
    assert len(set(keys)) == len(parts)
    assert all(0 <= key < 2**64 for key in keys)
    assert stream_key(0, "event", 3, 4, "label") == stream_key(0, "event", 3, 4, "label")


def test_a_key_is_the_same_on_every_machine():
    assert stream_key(0, "event", 3, "label") == 14175513195252288383


@given(st.lists(st.tuples(st.integers(0, 50), st.text("abé…", max_size=3), st.integers(0, 50)), unique=True))
def test_keys_of_different_people_differ(people):
    assert len({stream_key(*person) for person in people}) == len(people)


def test_uniform_numbers_are_uniform_and_independent_of_each_other():
    numbers = np.array([[uniform_number(key, counter) for counter in (0, 1)] for key in KEYS[:5000]])
    assert stats.kstest(numbers[:, 0], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.05
    assert uniform_number(KEYS[0]) == uniform_number(KEYS[0], 0)


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_a_uniform_number_is_never_0_or_1(byte, monkeypatch):
    class Extreme:
        def __init__(self, *args, **kwargs):
            pass

        def digest(self):
            return bytes([byte]) * 8

    monkeypatch.setattr(hashlib, "blake2b", Extreme)
    assert 0.0 < uniform_number(5) < 1.0
    # The last category is impossible, and so is the first: neither may be drawn.
    assert draw_categories(np.array([[0.0, 0.5, 0.5, 0.0]]), [5]).tolist() == [1 if byte == 0 else 2]


def test_draws_of_categories_follow_their_probabilities():
    p = np.array([0.05, 0.5, 0.0, 0.25, 0.2])
    counts = np.bincount(draw_categories(np.tile(p, (len(KEYS), 1)), KEYS), minlength=5)
    assert counts[2] == 0
    assert stats.chisquare(counts[p > 0], p[p > 0] * len(KEYS)).pvalue > 1e-3


def test_a_draw_depends_on_its_key_alone():
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=50)
    together = draw_categories(p, KEYS[:50])
    assert [int(draw_categories(p[i : i + 1], [KEYS[i]])[0]) for i in range(50)] == together.tolist()
    order = np.random.default_rng(1).permutation(50)
    assert draw_categories(p[order], [KEYS[i] for i in order]).tolist() == together[order].tolist()
    assert draw_categories(p, KEYS[50:100]).tolist() != together.tolist()


def test_samples_are_without_replacement_sorted_and_keyed():
    for size in (1, 3, 9):
        sample = keyed_sample(10, size, KEYS[0])
        assert sample == sorted(set(sample)) and len(sample) == size and set(sample) <= set(range(10))
        assert sample == keyed_sample(10, size, KEYS[0])
    assert keyed_sample(10, 10, KEYS[0]) == keyed_sample(10, 99, KEYS[1]) == list(range(10))
    assert keyed_sample(0, 3, KEYS[0]) == []
    assert len({tuple(keyed_sample(30, 4, key)) for key in KEYS[:50]}) > 45


def test_without_weights_everybody_is_as_likely():
    counts = np.bincount([i for key in KEYS[:4000] for i in keyed_sample(6, 2, key)], minlength=6)
    assert np.abs(counts / 4000 - 1 / 3).max() < 0.04


def test_with_weights_a_draw_is_proportional_and_inclusion_grows():
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    first = np.bincount([keyed_sample(4, 1, key, weights)[0] for key in KEYS[:5000]], minlength=4)
    assert stats.chisquare(first, weights / 10 * 5000).pvalue > 1e-3
    both = np.bincount([i for key in KEYS[:5000] for i in keyed_sample(4, 2, key, weights)], minlength=4)
    assert (np.diff(both) > 0).all()
    assert all(keyed_sample(4, 2, key, np.array([0.0, 1.0, 0.0, 1.0])) == [1, 3] for key in KEYS[:200])
    assert [keyed_sample(4, 2, key, weights * 7) for key in KEYS[:50]] == [
        keyed_sample(4, 2, key, weights) for key in KEYS[:50]
    ]


def test_permutations_are_permutations_and_uniform():
    assert sorted(permutation(20, KEYS[0])) == list(range(20))
    assert permutation(20, KEYS[0]) == permutation(20, KEYS[0])
    orders, counts = np.unique([permutation(3, key) for key in KEYS[:6000]], axis=0, return_counts=True)
    assert len(orders) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


# -- Gumbel noise -----------------------------------------------------------------------------------------------------


def test_gumbel_noise_has_the_moments_and_the_shape_of_gumbel():
    noise = gumbel_noise(signed(KEYS[:500]), 3, 1000).double().numpy()
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.02)
    assert stats.kstest(noise[:, ::97].ravel(), stats.gumbel_r.cdf).pvalue > 1e-3


@pytest.mark.parametrize("axis", ["tokens", "keys", "counters"])
def test_neighbouring_noise_is_uncorrelated(axis):
    noise = {
        "tokens": gumbel_noise(signed(KEYS[:2000]), 0, 12).T,
        "keys": gumbel_noise(torch.arange(12), 0, 2000),
        "counters": torch.stack([gumbel_noise(signed(KEYS[:1]), c, 2000)[0] for c in range(12)]),
    }[axis]
    correlations = np.corrcoef(noise.double().numpy()) - np.eye(12)
    assert np.abs(correlations).max() < 0.1


def test_a_row_of_noise_depends_on_its_key_alone():
    keys = signed([*KEYS[:5], 0, 2**63, 2**64 - 1])
    noise = gumbel_noise(keys, 2, 50)
    assert noise.dtype == torch.float32 and noise.shape == (8, 50)
    assert all(torch.equal(gumbel_noise(keys[i : i + 1], 2, 50)[0], noise[i]) for i in range(8))
    assert torch.equal(gumbel_noise(keys.flip(0), 2, 50).flip(0), noise)
    # More candidates (a padded vocabulary) leave those in front as they are.
    assert torch.equal(gumbel_noise(keys, 2, 60)[:, :50], noise)
    assert not torch.equal(gumbel_noise(keys, 3, 50), noise)
    assert len({tuple(row) for row in noise.tolist()}) == 8


def test_the_noise_is_finite_at_its_extremes(monkeypatch):
    from mf_llm.simulation import sampling

    for bits in (0, -1, 1 << 41, -(1 << 62)):
        monkeypatch.setattr(sampling, "_mix", lambda x, bits=bits: torch.full_like(x, bits))
        assert torch.isfinite(gumbel_noise(torch.tensor([1]), 0, 3)).all()


def test_the_argmax_draws_from_the_distribution():
    p = torch.tensor([0.5, 0.2, 0.0, 0.3])
    processor = KeyedGumbel(KEYS, prompt_length=4)
    scores = processor(torch.zeros(len(KEYS), 6, dtype=torch.long), (p.log() * 1.0 + 5.0).expand(len(KEYS), -1))
    counts = np.bincount(scores.argmax(1).numpy(), minlength=4)
    assert counts[2] == 0
    assert stats.chisquare(counts[[0, 1, 3]], np.array([0.5, 0.2, 0.3]) * len(KEYS)).pvalue > 1e-3


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0, 30.0])
def test_candidates_that_are_left_out_could_not_have_won(spread):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(300, 5000, generator=generator) * spread
    scores[::3, 100:4000] = -torch.inf
    keys = signed(KEYS[:300])
    noisy = noisy_scores(scores, keys, 2)
    assert torch.equal(noisy.argmax(dim=1), (scores + gumbel_noise(keys, 2, 5000)).argmax(dim=1))
    assert torch.isfinite(noisy).sum() < torch.isfinite(scores).sum() or spread < 4


# -- top-p ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.85, 0.999])
def test_top_p_keeps_what_sorting_the_vocabulary_keeps(top_p):
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([0.01, 0.5, 2.0, 5.0, 20.0]).repeat(8)[:, None]  # from flat to certain
    scores = torch.randn(40, 3000, generator=generator) * spread
    assert torch.equal(TopP(top_p, candidates=64)(None, scores), TopPLogitsWarper(top_p)(None, scores))


def test_the_token_index_is_counted_from_the_prompt():
    scores = torch.zeros(2, 9)
    short = KeyedGumbel([7, 8], prompt_length=3)(torch.zeros(2, 5, dtype=torch.long), scores)
    long = KeyedGumbel([7, 8], prompt_length=10)(torch.zeros(2, 12, dtype=torch.long), scores)
    assert torch.equal(short, long)
