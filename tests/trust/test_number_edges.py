"""Numbers at their edges: what is not a distribution is a counted failure, everything else is defined."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_events import FAMILIES, model_of, new_model, outcome, processor_of, run, small_event, with_turns

from mf_llm import Event, InputError, SimulationConfig, Turn, simulate
from mf_llm.models.prompts import AnswerFormat
from mf_llm.simulation.choosing import choice_distribution
from mf_llm.simulation.keyed_draws import draw_categories
from mf_llm.simulation.population import Population
from mf_llm.simulation.readout import anchored_probabilities, normalise
from mf_llm.simulation.sampling import noisy_scores

WEIGHTS = "weights of 0, of 1e12 and beyond, steps of one person, 1 and 200 options"
NOT_FINITE = "models whose weights or logits are no numbers"
TINY = "probabilities that underflow, ties, huge and tiny anchors"


def event_of(options, n: int = 12) -> Event:
    turns = [Turn(state={"age": 20 + i}, action="word", labels={"d": options[i % len(options)]}) for i in range(n)]
    return Event(event_id="edges", topic="A bridge.", turns=tuple(turns), dimensions={"d": tuple(options)})


@pytest.mark.trust("numbers", NOT_FINITE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_whose_weights_are_no_numbers_fails_in_every_row(family, tries):
    """In every readout and form of action; nothing is drawn, nothing is shared out evenly."""
    model, processor, event = new_model(family, tied=False), processor_of(family), small_event(14)
    with torch.no_grad():
        model.policy.get_output_embeddings().weight.fill_(math.nan)
    cases = [
        {"action": action, "readout": readout, "signal": signal}
        for action in ("choice", "label_text", "text")
        for readout in ("exact", "sampled")
        for signal in ("none", "text")
    ]
    for case in cases[:: tries.of(5, 1)]:
        tries.add()
        found = run(model, processor, event, **case)
        rows = found.simulated()
        assert [row.failure for row in rows] == ["non_finite_logits"] * 6
        assert all(row.label is None and row.probabilities is None and row.text == "" for row in rows)
        assert found.n_failed >= 6 and all(step.shares is None for step in found.steps if not step.real)
    assert np.isnan(choice_distribution(model, processor, "A bridge.", [{"age": 30}], ["for", "against"])).all()


@pytest.mark.trust("numbers", NOT_FINITE)
@pytest.mark.parametrize("readout", ["exact", "sampled"])
def test_a_population_of_failed_states_has_no_shares(readout):
    model = new_model("qwen2", tied=False)
    with torch.no_grad():
        model.policy.get_output_embeddings().weight.fill_(math.inf)
    found = populated(model, (5.0, 1.0), readout)
    assert all(row.failure == "non_finite_logits" for row in found.simulated())
    assert all(step.shares is None for step in found.steps if not step.real)


def populated(model, weights, readout="exact"):
    population = Population(tuple({"job": f"job {i}"} for i in range(len(weights))), weights)
    config = SimulationConfig(
        signal="statistics", action="choice", warm_up=8, agents_per_step=4, max_prompt_tokens=600, readout=readout
    )
    event = small_event(14)
    return simulate(model, processor_of("qwen2"), event, config, population=population, n_steps=2, progress=False)


@pytest.mark.trust("numbers", WEIGHTS)
@pytest.mark.parametrize("readout", ["exact", "sampled"])
def test_populations_of_any_size_are_counted_whole(readout, tries):
    for weights in ((1.0,), (1e12, 1.0), (1e12, 1e-9), (1e18 - 1e6, 1.0)):
        tries.add()
        found = populated(model_of("qwen2"), weights, readout)
        shares = found.steps[-1].shares
        assert math.isclose(sum(shares), 1.0) and min(shares) >= 0
    with pytest.raises(InputError, match="at most 1e"):
        Population(({"job": "a"},), (1e19,))
    with pytest.raises(InputError, match="at most 1e"):
        Population(({"job": "a"}, {"job": "b"}), (1e308, 1e308))
    for weight in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="positive numbers"):
            Population(({"job": "a"},), (weight,))
    with pytest.raises(InputError, match="at least one person"):
        populated(model_of("qwen2"), (1e-9,), readout)


@pytest.mark.trust("numbers", WEIGHTS)
def test_people_who_weigh_nothing_have_no_share_and_change_no_statistics(tries):
    """A step of such people alone has none at all."""
    model, processor = model_of("qwen2"), processor_of("qwen2")
    base = small_event(14)
    light = with_turns(base, at={9: {"weight": 0.0}})
    for settings_ in ({"action": "choice"}, {"action": "label_text", "readout": "sampled"}):
        tries.add()
        found = run(model, processor, light, signal="statistics", **settings_)
        row = next(row for row in found.simulated() if row.turn == 9)
        assert row.weight == 0.0 and row.failure is None
        nobody = run(model, processor, with_turns(base, at={i: {"weight": 0.0} for i in range(8, 14)}), **settings_)
        assert [step.shares for step in nobody.steps if not step.real] == [None, None]
        assert nobody.n_failed == run(model, processor, base, **settings_).n_failed


@pytest.mark.trust("numbers", WEIGHTS)
def test_shares_follow_weights_and_not_their_size(tries):
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(14)
    expected = run(model, processor, event, action="choice", signal="none").steps[-1].shares
    for scale in (2.0**-900, 2.0**40, 2.0**900):  # powers of two change no digit
        tries.add()
        scaled = with_turns(event, at={i: {"weight": turn.weight * scale} for i, turn in enumerate(event.turns)})
        found = run(model, processor, scaled, action="choice", signal="none").steps[-1].shares
        assert np.allclose(found, expected, rtol=1e-12)


@pytest.mark.trust("numbers", WEIGHTS)
def test_steps_of_one_person(tries):
    for action in ("choice", "label_text", "text"):
        tries.add()
        found = run(model_of("qwen2"), processor_of("qwen2"), small_event(11), agents_per_step=1, action=action)
        assert [step.n_people for step in found.steps] == [1] * 11 and len(found.simulated()) == 3


@pytest.mark.trust("numbers", WEIGHTS)
def test_one_option_and_two_hundred(tries):
    model, processor = model_of("qwen2"), processor_of("qwen2")
    assert choice_distribution(model, processor, "A bridge.", [{}, {"a": 1}], ["only"]).tolist() == [[1.0], [1.0]]
    with pytest.raises(InputError, match="at least 2 categories"):
        event_of(["only"])
    options = [f"option {i}" for i in range(200)]
    for readout in ("exact", "sampled"):
        tries.add()
        wide = {"action": "choice", "readout": readout, "signal": "none", "max_prompt_tokens": 4000}
        found = run(model, processor, event_of(options), **wide)
        assert len(found.steps[-1].shares) == 200 and math.isclose(sum(found.steps[-1].shares), 1.0)
    # Whatever the batch: in float32 it is a matter of rounding.
    one = choice_distribution_of(model, processor, options, batch_tokens=1)
    assert np.allclose(one, choice_distribution_of(model, processor, options, batch_tokens=10**6), atol=1e-6)
    with pytest.raises(InputError, match="`max_prompt_tokens` must leave room"):
        run(model, processor, event_of(options), action="choice", signal="none")


def choice_distribution_of(model, processor, options, **words):
    answer = AnswerFormat(kind="choice", dimension="d", options=tuple(options[:40]))
    from mf_llm.simulation.readout import encode_prefix, option_log_likelihoods

    prefix = encode_prefix(model.backbone("policy"), processor.policy_prefix("A bridge.", None, answer))
    segments = [processor.person_segment({"age": age}, answer) for age in (20, 30, 40)]
    return normalise(
        option_log_likelihoods(model.backbone("policy"), prefix, segments, processor.option_ids(answer), **words)
    )


@pytest.mark.trust("numbers", "options that repeat, are blank, or begin one another")
def test_options_that_are_none_are_refused(tries):
    model, processor = model_of("qwen2"), processor_of("qwen2")
    for options in ([], ["a", "a"], ["a", " a "], ["a", ""], ["a", "  "]):
        tries.add()
        with pytest.raises(InputError, match="`options` must be different texts, at least one"):
            choice_distribution(model, processor, "A bridge.", [{}], options)
    with pytest.raises(InputError, match="`orders` must be a whole number"):
        choice_distribution(model, processor, "A bridge.", [{}], ["a", "b"], orders=0)
    assert choice_distribution(model, processor, "A bridge.", [], ["a", "b"]).shape == (0, 2)
    with pytest.raises(InputError, match="must differ from the other categories"):
        event_of(["a", "a"])


@pytest.mark.trust("numbers", "options that repeat, are blank, or begin one another")
@pytest.mark.parametrize("family", FAMILIES)
def test_an_option_that_begins_another_counts_with_its_end(family, tries):
    """The closed form: the log-likelihood of each whole answer, end token included, in a pass of its own."""
    model, processor = model_of(family), processor_of(family)
    answer = AnswerFormat(kind="choice", dimension="d", options=("yes", "yes and no", "yes and", "no"))
    prompt = processor.policy_prefix("A bridge.", None, answer) + processor.person_segment({"age": 30}, answer)
    scores = []
    for option in processor.option_ids(answer):
        tries.add()
        ids = torch.tensor([prompt + option])
        with torch.no_grad():
            log_p = torch.log_softmax(model.backbone("policy")(input_ids=ids).logits[0].float(), dim=-1)
        places = range(len(prompt) - 1, len(prompt) + len(option) - 1)
        scores.append(sum(log_p[place, token].item() for place, token in zip(places, option, strict=True)))
    found = choice_distribution(model, processor, "A bridge.", [{"age": 30}], answer.options, dimension="d", orders=1)
    assert np.allclose(found, normalise(np.array([scores])), atol=1e-5)


@pytest.mark.trust("numbers", TINY)
def test_likelihoods_that_underflow(tries):
    inf = math.inf
    for scores, expected in (
        ([-1e5, -2e5], [1.0, 0.0]),
        ([-1e308, -1e308], [0.5, 0.5]),
        ([-inf, -3.0], [0.0, 1.0]),
        ([-800.0, 0.0], [0.0, 1.0]),
        ([-700.0, 0.0], [math.exp(-700), 1.0]),
        ([-inf, -inf], [math.nan, math.nan]),
        ([math.nan, 0.0], [math.nan, math.nan]),
        ([inf, 0.0], [math.nan, math.nan]),
    ):
        tries.add()
        assert np.array_equal(normalise(np.array([scores]))[0], expected, equal_nan=True), scores


@pytest.mark.trust("numbers", TINY)
def test_anchors_of_any_strength(tries):
    model, processor, event = model_of("qwen2"), processor_of("qwen2"), small_event(14)
    for strength in (5e-324, 1e-12, 1.0, 1e12, 1e300):
        tries.add()
        found = run(model, processor, event, anchored=True, anchor_strength=strength, action="choice", signal="none")
        shares = np.array(found.steps[-1].shares)
        told = [(turn.labels["stance"], turn.weight / 1.375) for turn in event.turns[:8]]  # weights of mean 1
        counts = np.array([sum(weight for label, weight in told if label == k) for k in found.categories])
        pulled = (counts + strength / 3) / (counts.sum() + strength)
        assert np.allclose(shares, pulled, atol=1e-12)  # nothing was tuned: exactly the carry-forward share
    for strength in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="anchor_strength"):
            SimulationConfig(anchor_strength=strength)
    carry, scores = np.array([0.9, 0.1, 0.0]), np.array([[-1e6, 0.0, 0.0], [-math.inf, 0.0, 0.0], [math.nan, 0, 0]])
    with np.errstate(all="raise"):
        found = anchored_probabilities(carry, scores, np.zeros((3, 3)))
    e = math.exp(2)
    assert np.allclose(found[0], [0.9 / e, 0.1 * e, 0] / np.array(0.9 / e + 0.1 * e))  # clipped to +-2
    assert np.isnan(found[1:]).all()


@pytest.mark.trust("numbers", TINY)
def test_draws_are_keyed_and_never_of_what_has_no_share(tries):
    @settings(max_examples=tries.of(60, 3000), derandomize=True, deadline=None, database=None)
    @given(
        st.lists(st.one_of(st.just(0.0), st.floats(5e-324, 1e300)), min_size=1, max_size=8),
        st.integers(0, 2**64 - 1),
    )
    def draw(masses, key):
        tries.add()
        if not 0 < sum(masses) < math.inf:
            return
        p = np.array([masses]) / sum(masses)
        (found,) = draw_categories(p, [key])
        assert p[0, found] > 0
        # Neither who stands beside, nor in which place.
        assert draw_categories(np.concatenate([p[:, ::-1], p]), [key ^ 1, key])[1] == found

    draw()


@pytest.mark.trust("numbers", TINY)
def test_ties_are_broken_by_the_key_alone(tries):
    scores = torch.zeros(1, 300)
    for key in range(tries.of(20, 300)):
        tries.add()
        winner = noisy_scores(scores, torch.tensor([key]), 0).argmax()
        beside = noisy_scores(scores.expand(5, -1), torch.tensor([9, 8, 7, key, 6]), 0)[3].argmax()
        assert winner == beside
    # Drawn evenly: of 300 candidates a thousand keys meet nearly all.
    winners = noisy_scores(scores.expand(1000, -1), torch.arange(1000), 0).argmax(dim=-1)
    assert len(set(winners.tolist())) > 250


@pytest.mark.trust("numbers", TINY)
def test_greedy_ties_do_not_depend_on_the_batch():
    model, processor, event = new_model("llama"), processor_of("llama"), small_event(14)
    with torch.no_grad():
        for parameter in {id(p): p for p in model.parameters()}.values():
            parameter.zero_()  # every token is as likely as every other
    model.generation_config_of("policy").do_sample = False
    wide = run(model, processor, event, action="text", signal="none", batch_tokens=10**6)
    assert outcome(run(model, processor, event, action="text", signal="none", batch_tokens=1)) == outcome(wide)
