"""Packed token trees against one plain row per branch: values, gradients, and what a batch costs."""

import random

import pytest
import torch
from small_events import FAMILIES, model_of, new_model

from mf_llm.errors import InputError
from mf_llm.models.attention_windows import sliding_window, takes_trees
from mf_llm.training.token_tree import TokenTree, in_batches, pack_trees


def random_ids(rng, length):
    return [rng.randrange(8, 400) for _ in range(length)]


def policy_like(rng, prefix, profiles=3, options=2):
    """Prompt -> profiles -> scored options -> below some of them a scored text, below some profiles one without."""
    tree = TokenTree(random_ids(rng, prefix))
    for i in range(profiles):
        profile = tree.add(random_ids(rng, 1 + 3 * i))
        for k in range(options):
            option = tree.add(random_ids(rng, 1 + (i + k) % 3), profile, scored=True)
            for _ in range((i + k) % 2 + (i == 2)):
                tree.add(random_ids(rng, rng.randint(1, 6)), option, scored=True)
        if i == 1:
            tree.add(random_ids(rng, 4), profile)  # nobody asks for its probability
    return tree


def signal_like(rng, prefix, lengths):
    tree = TokenTree(random_ids(rng, prefix))
    for length in lengths:
        tree.add(random_ids(rng, length), scored=True)
    return tree


def some_trees(seed=0):
    """Trees of several shapes; prompts shorter and longer than the windows of gemma3 (16) and mistral (32)."""
    rng = random.Random(seed)
    return [
        policy_like(rng, 5),
        signal_like(rng, 45, (7, 1, 12, 3)),
        policy_like(rng, 21, profiles=2, options=3),
        signal_like(rng, 1, (1,)),
        policy_like(rng, 40, profiles=1, options=1),
    ]


def is_shared(model):
    return takes_trees(model.backbone("policy"))


def row_by_row(model, tree, role="policy", temperature=1.0):
    """Log-probabilities of the scored nodes' tokens, each node read at the end of one plain row without padding."""
    result = []
    for node in tree.score_rows:
        path = [node]
        while tree.parents[path[0]] >= 0:
            path.insert(0, tree.parents[path[0]])
        ids = [token for n in path for token in tree.tokens[n]]
        logits = model(**{f"{role}_input_ids": torch.tensor([ids])})[f"{role}_logits"][0] / temperature
        log_p = torch.log_softmax(logits, dim=-1)
        start = len(ids) - len(tree.tokens[node])
        result.append(torch.stack([log_p[i - 1, ids[i]] for i in range(start, len(ids))]))
    return result


def packed_log_probs(model, trees, shared, role="policy", temperature=1.0, **changes):
    packed = pack_trees(trees, shared=shared)
    inputs = packed.model_inputs(role, "cpu") | changes
    return packed, packed.log_probs(model(**inputs)[f"{role}_logits"], temperature)


def padded(rows, width):
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])


# -- tensors ----------------------------------------------------------------------------------------------------------


def test_the_tensors_of_a_small_batch():
    tree = TokenTree([5, 6, 7])
    assert tree.add([8, 9], scored=True) == 1 and tree.add([8, 4, 2], scored=True) == 2
    small = TokenTree([3])
    small.add([4], scored=True)
    packed = pack_trees([small, tree])
    assert packed.input_ids.tolist() == [[0, 0, 0, 0, 0, 3], [5, 6, 7, 8, 8, 4]]
    assert packed.position_ids.tolist() == [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 3, 4]]
    assert packed.attention_mask.shape == (2, 1, 6, 6) and packed.attention_mask.dtype == torch.bool
    assert packed.attention_mask[0, 0].int().tolist() == torch.eye(6).int().tolist()
    assert packed.attention_mask[1, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 1],
    ]
    assert packed.places.tolist() == [[0, 5], [1, 2], [1, 3], [1, 4], [1, 5]]
    assert packed.place.tolist() == [0, 1, 2, 1, 3, 4]  # both branches begin behind the same token
    assert packed.token.tolist() == [4, 8, 9, 8, 4, 2]
    assert packed.node.tolist() == [0, 1, 1, 2, 2, 2] and packed.offset.tolist() == [0, 0, 1, 0, 1, 2]
    assert packed.shape == (3, 3) and packed.n_tokens == len(tree) + len(small) == 7


def test_short_trees_share_a_row_and_do_not_see_each_other():
    long, middle, short = TokenTree([5, 6, 7, 8, 9]), TokenTree([1, 2]), TokenTree([3, 4])
    for tree, branch in ((long, [1]), (middle, [6, 7]), (short, [8])):
        tree.add(branch, scored=True)
    packed = pack_trees([short, long, middle])
    # The trees keep their places in the order they were given; the row with the first of them comes first.
    assert packed.input_ids.tolist() == [[3, 4, 1, 2, 6], [5, 6, 7, 8, 9]]
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert packed.attention_mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert packed.token.tolist() == [8, 1, 6, 7] and packed.node.tolist() == [0, 1, 2, 2]
    assert packed.places[packed.place].tolist() == [[0, 1], [1, 4], [0, 3], [0, 4]]
    assert packed.n_tokens == 10
    assert in_batches([short, long, middle], 10) == [[1, 2, 0]] and in_batches([short, long, middle], 9) == [
        [1],
        [2, 0],
    ]


def test_the_tensors_of_one_path_a_row():
    tree = TokenTree([5, 6, 7])
    inner = tree.add([8, 9], scored=True)
    tree.add([1], inner, scored=True)
    tree.add([2, 3], inner, scored=True)
    assert tree.paths() == [[0, 1, 2], [0, 1, 3]] and tree.longest_path() == 6 and len(tree) == 6
    packed = pack_trees([tree], shared=False)
    assert packed.input_ids.tolist() == [[0, 5, 6, 7, 8, 9], [5, 6, 7, 8, 9, 2]]
    assert packed.attention_mask.tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert packed.position_ids.tolist() == [[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    # The option stands in both rows and is scored in one of them.
    places = packed.places[packed.place].tolist()
    assert [(*place, token) for place, token in zip(places, packed.token.tolist(), strict=True)] == [
        (0, 3, 8),
        (0, 4, 9),
        (0, 5, 1),
        (1, 4, 2),
        (1, 5, 3),
    ]
    assert packed.shape == (3, 2) and packed.n_tokens == 11


@pytest.mark.parametrize("shared", [True, False])
def test_every_scored_token_is_placed_once(shared):
    trees = some_trees()
    packed = pack_trees(trees, shared=shared)
    places = list(zip(packed.node.tolist(), packed.offset.tolist(), strict=True))
    nodes = [(tree, node) for tree in trees for node in tree.score_rows]
    expected = [(n, j) for n, (tree, node) in enumerate(nodes) for j in range(len(tree.tokens[node]))]
    assert sorted(places) == expected and len(set(places)) == len(places)
    tokens = dict(zip(places, packed.token.tolist(), strict=True))
    assert tokens == {(n, j): nodes[n][0].tokens[nodes[n][1]][j] for n, j in expected}
    widths = [len(tree) for tree in trees] if shared else [tree.longest_path() for tree in trees]
    assert packed.input_ids.shape[1] == max(widths)
    assert shared is False or packed.n_tokens == sum(map(len, trees))


# -- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_log_probabilities_are_those_of_plain_rows(family):
    model, trees = model_of(family), some_trees()
    with torch.no_grad():
        packed, found = packed_log_probs(model, trees, is_shared(model))
        rows = [row for tree in trees for row in row_by_row(model, tree)]
    assert found.dtype == torch.float32 and found.shape == packed.shape == (len(rows), 12)
    torch.testing.assert_close(found, padded(rows, 12), rtol=0, atol=1e-5)


def test_the_trees_of_a_batch_do_not_know_of_each_other():
    model, trees = model_of("qwen3"), some_trees()
    with torch.no_grad():
        together = packed_log_probs(model, trees, True)[1].split([len(tree.score_rows) for tree in trees])
        for tree, values in zip(trees, together, strict=True):
            alone = packed_log_probs(model, [tree], True)[1]
            torch.testing.assert_close(values[:, : alone.shape[1]], alone, rtol=0, atol=1e-5)
            assert (values[:, alone.shape[1] :] == 0).all()


@pytest.mark.parametrize("shared", [True, False])
def test_both_ways_of_packing_are_the_same_without_a_window(shared):
    model, trees = model_of("llama"), some_trees(seed=1)
    with torch.no_grad():
        rows = [row for tree in trees for row in row_by_row(model, tree, "mean_field", temperature=0.7)]
        found = packed_log_probs(model, trees, shared, "mean_field", temperature=0.7)[1]
    torch.testing.assert_close(found, padded(rows, found.shape[1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("family", "window"), [("gemma3", 16), ("mistral", 32)])
def test_a_tree_longer_than_a_sliding_window(family, window, shared):
    """In a shared row a window counts positions: the branches in between take none of its room."""
    model = model_of(family)
    assert takes_trees(model.backbone("policy")) and sliding_window(model.backbone("policy")) == window
    trees = [signal_like(random.Random(3), 50, (30, 30, 30)), signal_like(random.Random(4), window - 2, (2, 9))]
    with torch.no_grad():
        rows = padded([row for tree in trees for row in row_by_row(model, tree)], 30)
        torch.testing.assert_close(packed_log_probs(model, trees, shared)[1], rows, rtol=0, atol=2e-5)


def test_without_the_window_a_long_tree_is_another(monkeypatch):
    model, tree = model_of("mistral"), signal_like(random.Random(3), 50, (30, 30, 30))
    with torch.no_grad():
        rows = padded(row_by_row(model, tree), 30)
        monkeypatch.setattr("mf_llm.models.attention_windows.sliding_window", lambda backbone: None)
        assert (packed_log_probs(model, [tree], True)[1] - rows).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("kinds", "takes"),
    [
        (None, True),
        (["full_attention"], True),
        (["sliding_attention", "full_attention"], True),
        (["chunked_attention", "full_attention"], False),
        (["linear_attention", "full_attention"], False),
    ],
)
def test_layers_that_count_slots_or_carry_a_state_take_no_trees(monkeypatch, kinds, takes):
    backbone = new_model("qwen3").backbone("policy")
    monkeypatch.setattr(backbone.config, "layer_types", kinds)
    assert takes_trees(backbone) == takes


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_packed_gradients_are_the_sum_over_plain_rows(family):
    trees = some_trees()[:3]
    gradients = []
    for packs in (True, False):
        model = new_model(family)
        if packs:
            values = packed_log_probs(model, trees, is_shared(model))[1].sum(-1)
        else:
            values = torch.stack([row.sum() for tree in trees for row in row_by_row(model, tree)])
        weights = torch.linspace(-1.0, 2.0, len(values))
        (weights * values).sum().backward()
        gradients.append({name: p.grad for name, p in model.policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 15
    for name, value in gradients[0].items():
        scale = float(gradients[1][name].abs().max())
        assert scale > 0
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("shared", [True, False])
def test_only_the_places_that_are_scored_have_logits_and_they_suffice(shared):
    model, rng = model_of("qwen2"), random.Random(0)
    trees = [signal_like(rng, 30, (4, 5)), signal_like(rng, 20, (6, 2))]
    packed, found = packed_log_probs(model, trees, shared)
    assert len(packed.places) == len(set(map(tuple, packed.places.tolist())))
    assert len(packed.places) == len(packed.token) - (2 if shared else 0)  # a tree's branches begin behind one token
    inputs = packed.model_inputs("policy", "cpu")
    scored = model(**inputs).policy_logits
    assert scored.shape[0] == len(packed.places)
    all_of_them = model(**inputs | {"policy_logit_places": None}).policy_logits
    row, column = packed.places.T
    torch.testing.assert_close(all_of_them[row, column], scored, rtol=0, atol=1e-6)
    torch.testing.assert_close(packed.log_probs(scored), found, rtol=0, atol=1e-6)
    # The hook is gone again.
    assert model(**inputs | {"policy_logit_places": None}).policy_logits.shape == all_of_them.shape


def test_trees_without_scores_need_no_logits():
    tree = TokenTree([1, 2, 3])
    tree.add([4, 5])
    packed = pack_trees([tree])
    assert packed.places.shape == (0, 2) and packed.shape == (0, 1)
    assert packed.log_probs(torch.zeros(0, 9)).shape == (0, 1)


# -- batches and errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch_tokens", [1, 90, 200, 400, 10_000])
def test_batches_hold_every_tree_once_within_the_bound(shared, batch_tokens):
    trees = some_trees() + some_trees(seed=1) + some_trees(seed=2)
    batches = in_batches(trees, batch_tokens, shared=shared)
    assert sorted(i for batch in batches for i in batch) == list(range(15))
    for batch in batches:
        assert (
            len(batch) == 1 or pack_trees([trees[i] for i in batch], shared=shared).input_ids.numel() <= batch_tokens
        )
    assert {1: len(batches) == 15, 10_000: len(batches) == 1}.get(batch_tokens, len(batches) > 1)
    first = [pack_trees([trees[batch[0]]], shared=shared).input_ids.shape[1] for batch in batches]
    assert first == sorted(first, reverse=True)


def test_no_trees_are_no_batches():
    assert in_batches([], 100) == []


def test_empty_prompts_and_branches_are_refused():
    with pytest.raises(InputError, match="`prefix` must hold at least one token"):
        TokenTree([])
    with pytest.raises(InputError, match="`tokens` must hold at least one token"):
        TokenTree([1]).add([])
