"""What is trained is what is simulated: policy trees of transitions against rollouts of the same people."""

import json

import numpy as np
import pytest
import torch
from made_transitions import build, made_event, one
from scipy.stats import entropy
from small_events import FAMILIES, STANCES, adapted_model, model_of, processor_of, run, small_event

from mf_llm.models.attention_windows import takes_trees
from mf_llm.models.processing_mf_llm import PromptLimits
from mf_llm.simulation.keyed_draws import permutation, stream_key
from mf_llm.training.data_collator import DataCollatorForIBTune
from mf_llm.training.policy_scores import policy_loss, policy_scores, score_trees
from mf_llm.training.prompt_trees import policy_tree, signal_tree
from mf_llm.training.transitions import answer_of

LIMITS = PromptLimits(max_prompt_tokens=600)


def collator_for(model, processor):
    shared = {role: takes_trees(model.backbone(role)) for role in ("policy", "mean_field")}
    return DataCollatorForIBTune(processor, limits=LIMITS, shared=shared)


def node_log_probs(model, processor, trees):
    """``[N]`` log-probabilities of the scored nodes of each tree, by a path of the trainer."""
    values = score_trees(
        model, "policy", [one.tree for one in trees], collator_for(model, processor), batch_tokens=900
    )
    return [value.sum(-1) for value in values]


def simulated_and_transition(model, processor, event, action, **settings):
    """The rollout of the 6 people after 8 turns of warm-up, their transition, and its tree under the same signal."""
    rollout = run(
        model, processor, event, action=action, signal="statistics", agents_per_step=6, option_orders=1, **settings
    )
    row = one(event, action=action, agents_per_step=6, warm_ups=(8,))
    assert row["kind"] == action and row["warm_up"] == 8 and len(row["people"]) == len(rollout.simulated()) == 6
    signal = rollout.steps[-1].signal
    order = permutation(3, stream_key(0, event.event_id, "option order"))
    return rollout, row, policy_tree(processor, row, signal, order=order, limits=LIMITS)


def expected_of(rollout, event):
    """Mean log-likelihood of the labels and KL of the population, from the probabilities of a rollout."""
    rows = sorted(rollout.simulated(), key=lambda row: row.turn)
    turns = [event.turns[row.turn] for row in rows]
    weights = np.array([turn.weight for turn in turns])
    labels = [STANCES.index(turn.labels["stance"]) for turn in turns]
    p = np.array([row.probabilities for row in rows])
    likelihood = (weights * np.log(p[np.arange(len(rows)), labels])).sum() / weights.sum()
    shares = np.bincount(labels, weights=weights, minlength=3)
    return p, likelihood, entropy(shares, weights @ p)


# -- against simulations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "temperature"), [("choice", 1.0), ("label_text", 1.0), ("choice", 1.7)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_readout_is_that_of_a_rollout(family, action, temperature):
    model, processor, event = adapted_model(family), processor_of(family), small_event(14, split="train")
    settings = {"choice_temperature": temperature}
    rollout, row, tree = simulated_and_transition(model, processor, event, action, **settings)
    (values,) = node_log_probs(model, processor, [tree])
    p, likelihood, divergence = expected_of(rollout, event)
    assert len(np.unique(p.round(6), axis=0)) == 6  # six different people
    found = torch.softmax(values[torch.from_numpy(tree.option_rows)] / temperature, dim=-1)
    np.testing.assert_allclose(found.numpy(), p, rtol=0, atol=1e-5)
    scores = policy_scores(tree, row, values, temperature=temperature)
    assert float(scores.label) == float(scores.log_likelihood) == pytest.approx(likelihood, rel=1e-4)
    assert float(scores.population_kl) == pytest.approx(divergence, rel=1e-4)
    assert scores.text is None and scores.perturbation is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_anchored_readout_is_that_of_a_rollout(family):
    """Tuned and base are read with adapters on and off; the anchor of the row is that of the simulation."""
    model, processor, event = adapted_model(family, scale=0.1), processor_of(family), small_event(14, split="train")
    rollout, row, tree = simulated_and_transition(model, processor, event, "choice", anchored=True)
    (tuned,) = node_log_probs(model, processor, [tree])
    with model.adapters_disabled("policy"):
        (base,) = node_log_probs(model, processor, [tree])
    assert (tuned - base).abs().max() > 0.05
    _, likelihood, divergence = expected_of(rollout, event)
    scores = policy_scores(tree, row, tuned, base)
    assert float(scores.label) == pytest.approx(likelihood, rel=1e-4)
    assert float(scores.population_kl) == pytest.approx(divergence, rel=1e-3, abs=1e-6)
    f = (tuned - base)[torch.from_numpy(tree.option_rows)].double().numpy()
    square = ((f - f.mean(-1, keepdims=True)) ** 2).mean(-1)
    assert float(scores.perturbation) == pytest.approx(np.average(square, weights=tree.weights), rel=1e-4)
    loss = policy_loss([scores, scores], lambda_population=3.0, lambda_perturbation=0.7)
    terms = -float(scores.log_likelihood), 3.0 * float(scores.population_kl), 0.7 * float(scores.perturbation)
    assert float(loss.loss) == pytest.approx(sum(terms), rel=1e-6) and terms[2] > 1e-4
    assert loss.parts["perturbation"] == pytest.approx(float(scores.perturbation))
    at_first = policy_scores(tree, row, base, base)  # nothing is tuned yet: the anchor itself
    carry, counts = np.array(row["carry"]), np.array(row["target_counts"])
    assert float(at_first.label) == pytest.approx(counts @ np.log(carry) / counts.sum(), rel=1e-5)
    assert float(at_first.perturbation) == 0
    assert float(at_first.population_kl) == pytest.approx(entropy(counts, carry), rel=1e-4)


def test_people_with_the_same_profile_are_one_branch_with_their_weights():
    event = made_event(waves=(20, 30))
    row = one(event, max_people=30, max_states=3, transitions_per_survey=1)
    tree = policy_tree(processor_of("llama"), row, None, limits=LIMITS)
    assert len(row["people"]) == 30 and tree.option_rows.shape == tree.counts.shape == (3, 3)
    assert len(tree.tree.score_rows) == 9
    by_state = {}
    for person in row["people"]:
        by_state.setdefault(person["state"], np.zeros(3))[person["label"]] += person["weight"]
    np.testing.assert_allclose(tree.counts, list(by_state.values()))
    np.testing.assert_allclose(tree.weights, [counts.sum() for counts in by_state.values()])
    assert len(set(tree.weights)) > 1
    # The loss is that over 30 people one by one.
    model = model_of("llama")
    (values,) = node_log_probs(model, processor_of("llama"), [tree])
    log_p = torch.log_softmax(values[torch.from_numpy(tree.option_rows)], dim=-1).numpy().astype(float)
    profile = {state: i for i, state in enumerate(by_state)}
    each = [(p["weight"], log_p[profile[p["state"]], p["label"]]) for p in row["people"]]
    by_hand = sum(w * value for w, value in each) / sum(w for w, _ in each)
    scores = policy_scores(tree, row, values)
    assert float(scores.label) == pytest.approx(by_hand, rel=1e-5)
    shares, weights = np.array(row["target_counts"]), tree.weights
    assert float(scores.population_kl) == pytest.approx(entropy(shares, weights @ np.exp(log_p)), rel=1e-4)


# -- texts ------------------------------------------------------------------------------------------------------------


def text_by_hand(model, processor, row, person, signal, order, label):
    """Log-probability of a person's text behind their option, from one plain row."""
    answer = answer_of(row)
    prompt = processor.policy_prefix(row["topic"], signal, answer, order=order, limits=LIMITS)
    prompt += processor.person_segment(json.loads(person["state"]), answer, limits=LIMITS)
    if label:
        prompt += processor.option_ids(answer)[person["label"]]
    text = processor.text_ids(person["action"], limits=LIMITS)
    with torch.no_grad():
        logits = model(policy_input_ids=torch.tensor([prompt + text])).policy_logits[0]
    log_p = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return float(log_p[torch.arange(len(text)), text].sum())


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_the_whole_action_is_the_label_and_then_the_text(family):
    model, processor, event = adapted_model(family), processor_of(family), small_event(14, split="train")
    row = one(event, action="label_text", agents_per_step=6, warm_ups=(8,))
    order, signal = [2, 0, 1], "Most deny it."
    label, whole, few = (
        policy_tree(processor, row, signal, order=order, limits=LIMITS, **options)
        for options in ({}, {"target": "action"}, {"target": "action", "max_texts": 2})
    )
    values = node_log_probs(model, processor, [label, whole, few])
    scores = [policy_scores(t, row, value) for t, value in zip((label, whole, few), values, strict=True)]
    texts = [text_by_hand(model, processor, row, person, signal, order, label=True) for person in row["people"]]
    weights = np.array([person["weight"] for person in row["people"]])
    assert len(set(weights)) > 1
    assert float(scores[1].text) == pytest.approx(weights @ texts / weights.sum(), rel=1e-5)
    assert float(scores[2].text) == pytest.approx(weights[:2] @ texts[:2] / weights[:2].sum(), rel=1e-5)
    for one_of in scores:
        assert float(one_of.label) == pytest.approx(float(scores[0].label), rel=1e-5)
        assert float(one_of.population_kl) == pytest.approx(float(scores[0].population_kl), rel=1e-4)
    for one_of in scores[1:]:
        assert float(one_of.log_likelihood) == pytest.approx(float(one_of.label + one_of.text), rel=1e-6)


def test_people_who_write_nothing_count_with_no_text():
    """The label of a silent option is the whole action: 0 nats for the text, in a mean over everybody."""
    model, processor, event = adapted_model("qwen2"), processor_of("qwen2"), small_event(14, split="train")
    row = one(event, action="label_text", agents_per_step=6, warm_ups=(8,)) | {"silent": ["deny"]}
    labels = [person["label"] for person in row["people"]]
    assert 0 < labels.count(1) < 6
    tree = policy_tree(processor, row, None, target="action", limits=LIMITS)
    (values,) = node_log_probs(model, processor, [tree])
    weights = np.array([person["weight"] for person in row["people"]])
    texts = [
        0.0 if person["label"] == 1 else text_by_hand(model, processor, row, person, None, None, label=True)
        for person in row["people"]
    ]
    assert len(tree.text_rows) == 6 - labels.count(1)
    assert float(policy_scores(tree, row, values).text) == pytest.approx(weights @ texts / weights.sum(), rel=1e-5)
    nobody = policy_tree(processor, row | {"silent": list(STANCES)}, None, target="action", limits=LIMITS)
    (values,) = node_log_probs(model, processor, [nobody])
    scores = policy_scores(nobody, row, values)
    assert scores.text is None and float(scores.log_likelihood) == float(scores.label)


def test_free_text_has_no_label_and_no_population():
    model, processor = adapted_model("llama"), processor_of("llama")
    row = one(small_event(15, split="train"), action="text", agents_per_step=4, warm_ups=(8,))
    assert row["kind"] == "text" and row["options"] == []
    tree = policy_tree(processor, row, "Most deny it.", target="action", limits=LIMITS)
    assert tree.option_rows.size == 0
    (values,) = node_log_probs(model, processor, [tree])
    scores = policy_scores(tree, row, values)
    texts = [text_by_hand(model, processor, row, p, "Most deny it.", None, label=False) for p in row["people"]]
    weights = np.array([p["weight"] for p in row["people"]])
    assert (
        float(scores.log_likelihood) == float(scores.text) == pytest.approx(weights @ texts / weights.sum(), rel=1e-5)
    )
    assert scores.label is None and scores.population_kl is None


# -- batches and gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_scores_do_not_depend_on_the_batch(family):
    model, processor = adapted_model(family), processor_of(family)
    rows = build(*[made_event(f"e{i}", n=30 + i) for i in range(3)], agents_per_step=5)
    trees = [policy_tree(processor, row, "Most deny it.", limits=LIMITS).tree for row in rows]
    trees.append(signal_tree(processor.mean_field_prior_prompt("A rumour."), [[20, 30], [40]]))
    collator = collator_for(model, processor)
    together, apart = (score_trees(model, "policy", trees, collator, batch_tokens=n) for n in (100_000, 1))
    assert len(together) == len(apart) == 4
    for tree, one_of, other in zip(trees, together, apart, strict=True):
        assert len(one_of) == len(other) == len(tree.score_rows)
        torch.testing.assert_close(one_of.sum(-1), other.sum(-1), rtol=0, atol=2e-5)
        assert not one_of.requires_grad


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_prior_is_scored_at_the_temperature_of_the_draws(temperature):
    model, processor = model_of("llama"), processor_of("llama")
    prompt, signals = processor.mean_field_prior_prompt("A rumour."), [[20, 30, 41], [40]]
    (found,) = score_trees(
        model,
        "mean_field",
        [signal_tree(prompt, signals)],
        collator_for(model, processor),
        batch_tokens=4096,
        temperature=temperature,
    )
    expected = torch.zeros(2, 3)
    for k, ids in enumerate(signals):
        with torch.no_grad():
            logits = model(mean_field_input_ids=torch.tensor([prompt + ids])).mean_field_logits[0]
        log_p = torch.log_softmax(logits / temperature, dim=-1)[len(prompt) - 1 : -1]
        expected[k, : len(ids)] = log_p[torch.arange(len(ids)), ids]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradients_of_the_scores_reach_the_log_probabilities():
    processor, row = (
        processor_of("qwen2"),
        one(small_event(14, split="train"), action="label_text", agents_per_step=6, warm_ups=(8,)),
    )
    tree = policy_tree(processor, row, None, target="action", limits=LIMITS)
    values = torch.linspace(-9, -2, len(tree.tree.score_rows)).requires_grad_()
    base = values.detach() + torch.sin(torch.arange(len(values)))
    for base_log_probs in (None, base):
        scores = policy_scores(tree, row, values, base_log_probs)
        for part, rows in ((scores.label, tree.option_rows), (scores.population_kl, tree.option_rows)):
            (slope,) = torch.autograd.grad(part, values, retain_graph=True)
            assert (slope[torch.from_numpy(rows)].abs().max(-1).values > 0).all() and (
                slope[tree.text_rows] == 0
            ).all()
        (slope,) = torch.autograd.grad(scores.text, values)
        expected = torch.tensor(tree.text_weights / tree.text_total, dtype=torch.float32)
        torch.testing.assert_close(slope[tree.text_rows], expected)


def test_beyond_the_clip_the_anchored_readout_has_no_gradient():
    """Two options far apart: both are cut, and the loss cannot be lowered any further by them."""
    processor = processor_of("qwen2")
    row = one(small_event(14, split="train"), action="choice", agents_per_step=6, warm_ups=(8,))
    row |= {"options": ["support", "deny"], "carry": [0.4, 0.6], "target_counts": [3.0, 3.0]}
    row["people"] = [person | {"label": person["label"] % 2} for person in row["people"]]
    tree = policy_tree(processor, row, None, limits=LIMITS)
    base = torch.zeros(len(tree.tree.score_rows))
    for difference, flat in ((3.9, False), (4.1, True)):  # f = +-1.95 and +-2.05
        values = base.clone()
        values[torch.from_numpy(tree.option_rows[:, 0])] = difference
        values.requires_grad_()
        scores = policy_scores(tree, row, values, base)
        (slope,) = torch.autograd.grad(scores.label + scores.population_kl, values)
        assert bool((slope == 0).all()) is flat
