"""A population is simulated as its people would be, at the cost of its states."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_events import STANCES, adapted_model, every_input, model_of, outcome, processor_of, small_event, texts_read
from small_populations import (
    SIZES,
    STATES,
    WARM_UP,
    N,
    population,
    run,
    simulated,
    speaker_rows,
    state_rows,
    tokens,
)

from mf_llm import SimulationConfig, Turn, simulate
from mf_llm.simulation import Population, plan_population
from mf_llm.simulation.estimate import estimate

# -- the limit is what its people would do ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orders", "settings"),
    [(1, {}), (2, {}), (3, {}), (2, {"calibrated": True}), (2, {"anchored": True}), (1, {"anchored": True})],
    ids=["1", "2", "3", "calibrated", "anchored", "anchored-1"],
)
def test_shares_are_those_of_the_unmerged_people(orders, settings):
    """Everybody comes `orders` times in a row, so that each state's people take equal turns in the option orders."""
    model = adapted_model("qwen2") if settings.get("anchored") else model_of("qwen2")
    settings = settings | {"option_orders": orders}
    merged = run(n_steps=1, model=model, **settings)
    event = small_event(14)
    crowd = [turn for one, n in zip(STATES, SIZES, strict=True) for turn in [Turn(state=one)] * (n * orders)]
    # The first of them has the order that its place says, whatever the warm-up was.
    everybody = replace(event, turns=event.turns[:WARM_UP] + tuple(crowd))
    config = SimulationConfig(
        signal="none", warm_up=WARM_UP, agents_per_step=len(crowd), action="choice", max_prompt_tokens=600, **settings
    )
    unmerged = simulate(model, processor_of("qwen2"), everybody, config, progress=False)
    np.testing.assert_allclose(merged.steps[-1].shares, unmerged.steps[-1].shares, atol=1e-6)
    assert merged.steps[-1].shares != pytest.approx([1 / 3] * 3, abs=0.02)
    assert len(unmerged.simulated()) == N * orders


def test_shares_are_the_weighted_mean_of_the_states():
    rollout = run(Population(tuple(STATES), (0.3, 1.7, 2.25, 40.5, 0.1, 3)), listed_actions=3)
    rows = state_rows(rollout) + speaker_rows(rollout)
    weights = Counter()
    for row in rows:
        weights[row.turn] += row.weight
    assert sorted(weights.values()) == pytest.approx(sorted([0.3, 1.7, 2.25, 40.5, 0.1, 3]))
    expected = sum(row.weight * np.array(row.probabilities) for row in rows) / sum(weights.values())
    np.testing.assert_allclose(rollout.steps[-1].shares, expected, atol=1e-12)
    assert rollout.steps[-1].n_people == 48 == sum(rollout.steps[-1].counts)


def test_every_step_is_the_whole_population_and_draws_anew():
    rollout = run(n_steps=3, model=adapted_model("qwen2"), anchored=True)
    steps = simulated(rollout)
    assert [step.step for step in rollout.steps] == list(range(6)) and len(steps) == 3
    assert [step.n_people for step in rollout.steps] == [3, 3, 2, N, N, N]
    assert steps[0].shares == pytest.approx(steps[1].shares, abs=1e-12)  # without a signal nothing moves
    assert len({step.counts for step in steps}) == 3
    assert rollout.config["resolved"]["population"] == {"states": 6, "people": N, "steps": 3}


# -- counts -----------------------------------------------------------------------------------------------------------


def test_counts_sum_to_the_people_in_every_state():
    rollout = run(population([n * 1000 for n in SIZES]), n_steps=2)
    for step in (-2, -1):
        people = Counter()
        for row in state_rows(rollout, step):
            people[row.turn] += sum(row.counts)
            assert row.weight == sum(row.counts)
            assert row.label is None and row.text == "" and row.source == "simulated"
        for row in speaker_rows(rollout, step):
            people[row.turn] += 1
            assert row.weight == 1 and row.label in STANCES
        assert sorted(people.values()) == sorted(n * 1000 for n in SIZES)
        assert sum(rollout.steps[step].counts) == 1000 * N == rollout.steps[step].n_people


def test_the_mean_of_counts_over_seeds_is_expected():
    crowd, draws = population([n * 100 for n in SIZES]), []
    off, spread, variance = np.zeros(3), np.zeros(3), np.zeros(3)
    for seed in range(16):
        rollout = run(crowd, n_steps=4, seed=seed, model=adapted_model("qwen2"), anchored=True)
        for step in (-4, -3, -2, -1):
            probabilities = {row.turn: np.array(row.probabilities) for row in state_rows(rollout, step)}
            sizes = Counter({row.turn: sum(row.counts) for row in state_rows(rollout, step)})
            sizes.update(row.turn for row in speaker_rows(rollout, step))
            counts, shares = (np.array(value) for value in (rollout.steps[step].counts, rollout.steps[step].shares))
            off += counts - 100 * N * shares
            spread += (counts - 100 * N * shares) ** 2
            variance += sum(n * probabilities[turn] * (1 - probabilities[turn]) for turn, n in sizes.items())
            draws.append(tuple(counts))
    assert len(set(draws)) == 64 and np.median(variance) > 1000
    assert (np.abs(off) <= 4 * np.sqrt(variance)).all()
    # Neither too regular nor too irregular: the squared distances are those of a multinomial draw.
    frequent = variance > 1000
    assert (spread / variance)[frequent] == pytest.approx(1, abs=4 * np.sqrt(2 / 64))


def test_the_same_seed_gives_the_same_counts_and_another_gives_others():
    assert outcome(run(signal="both")) == outcome(run(signal="both"))
    assert [s.counts for s in simulated(run())] != [s.counts for s in simulated(run(seed=1))]


@pytest.mark.parametrize("batch_tokens", [1, 700, 100_000])
def test_the_batch_changes_nothing(batch_tokens):
    expected, found = (
        run(signal="both", action="label_text"),
        run(signal="both", action="label_text", batch_tokens=batch_tokens),
    )
    assert [s.counts for s in found.steps] == [s.counts for s in expected.steps]
    assert [row.text for row in found.actions] == [row.text for row in expected.actions]
    for a, b in zip(simulated(found), simulated(expected), strict=True):
        assert a.shares == pytest.approx(b.shares, abs=1e-5)


def test_counted_readout_tells_whole_people():
    rollout = run(Population(tuple(STATES), (0.3, 1.7, 2.25, 40.5, 0.1, 3)), readout="sampled", signal="statistics")
    for step in simulated(rollout):
        assert step.shares == pytest.approx(np.array(step.counts) / 48)
    assert all(row.probabilities is None for row in rollout.simulated())
    large = [run(population([n * 10**6 for n in SIZES]), n_steps=1, readout=name) for name in ("sampled", "exact")]
    assert large[0].steps[-1].shares == pytest.approx(large[1].steps[-1].shares, abs=1e-3)


# -- who is heard -----------------------------------------------------------------------------------------------------


def test_a_sample_of_people_is_heard():
    rollouts = [run(n_steps=5, seed=seed, listed_actions=6) for seed in range(8)]
    heard = Counter(row.state for rollout in rollouts for step in range(-5, 0) for row in speaker_rows(rollout, step))
    total = 8 * 5 * 6
    assert sum(heard.values()) == total
    for one, n in zip(STATES, SIZES, strict=True):
        share = n / N
        assert abs(heard[f"age: {one['age']}; town: {one['town']}"] - total * share) < 4 * np.sqrt(total * share) + 1
    assert len({tuple(r.state for r in speaker_rows(rollout)) for rollout in rollouts}) > 1


def test_everybody_is_heard_where_there_are_few():
    rollout = run(listed_actions=1000)
    assert len(speaker_rows(rollout)) == N and all(sum(row.counts) == 0 for row in state_rows(rollout))
    assert Counter(r.label for r in speaker_rows(rollout)) == Counter(
        {label: n for label, n in zip(STANCES, rollout.steps[-1].counts, strict=True) if n}
    )
    np.testing.assert_allclose(rollout.steps[-1].shares, run(listed_actions=1).steps[-1].shares, atol=1e-12)


def test_texts_are_written_by_the_sample_and_reach_the_signal():
    model, processor = model_of("qwen2"), processor_of("qwen2")
    with every_input(model) as seen:
        rollout = run(population([n * 10**5 for n in SIZES]), signal="text", action="label_text", listed_actions=5)
    first = speaker_rows(rollout, -2)
    assert len(first) == 5 and any(row.text for row in first)
    told = texts_read(processor, {"mean_field": seen["mean_field"]})
    for row in first:
        assert (f"- {row.label}: {row.text}" if row.text else f"- {row.label}") in told
    assert rollout.steps[-1].signal
    few = run(signal="text", action="label_text", listed_actions=5, writers=2)
    assert sum(bool(row.text) for row in speaker_rows(few)) <= 2 and len(speaker_rows(few)) == 5
    assert not any(row.text for row in run(action="label_text", writers=0).simulated())


def test_a_choice_lists_states_with_their_labels():
    with every_input(model_of("qwen2")) as seen:
        rollout = run(signal="text")
    told = texts_read(processor_of("qwen2"), {"mean_field": seen["mean_field"]})
    for row in speaker_rows(rollout, -2):
        assert f"- {row.label} ({row.state})" in told


@pytest.mark.parametrize("signal", ["none", "text", "statistics", "both", "recent", "popular"])
@pytest.mark.parametrize("action", ["choice", "label_text"])
def test_all_signals_work(signal, action):
    rollout = run(signal=signal, action=action)
    assert all(sum(step.counts) == N for step in simulated(rollout)) and rollout.n_failed == 0


def test_statistics_count_people_and_nobody_twice():
    rollout = run(population([n * 10**5 for n in SIZES]), n_steps=3, signal="statistics")
    signals = [step.signal for step in rollout.steps]
    assert signals[1].startswith("Of 3 people so far") and signals[3].startswith("Of 8 people so far")
    for later in signals[4:]:
        assert later.startswith("Of 5,800,008 people so far: ") and " Of the latest 5,800,000: " in later


def test_weights_of_a_survey_are_still_respondents():
    event = small_event(waves=(4, 4, 3))
    config = SimulationConfig(signal="statistics", max_prompt_tokens=600, action="choice", warm_up="w2")
    rollout = simulate(model_of("qwen2"), processor_of("qwen2"), event, config, progress=False)
    assert rollout.steps[2].signal.startswith("Of 8 people so far") and rollout.steps[2].n_people == 3
    assert all(row.counts is None for row in rollout.actions) and all(step.counts is None for step in rollout.steps)


# -- cost -------------------------------------------------------------------------------------------------------------


def test_cost_does_not_know_how_many_people_there_are():
    small, large = population([n * 200 for n in SIZES]), population([n * 200_000 for n in SIZES])
    assert (small.n_people, large.n_people) == (11_600, 11_600_000)
    assert tokens(run(small)) == tokens(run(large))
    # With signals, larger numbers and other texts are read in front of the states, and nothing else is.
    states = [{"age": 20 + i} for i in range(60)]
    for signal in ("statistics", "both"):
        some, many = (run(population([n] * 60, states), signal=signal, action="label_text") for n in (200, 200_000))
        assert all(b <= 1.2 * a for a, b in zip(tokens(some), tokens(many), strict=True))


def test_cost_is_linear_in_states():
    """Each state more costs its own tokens in each order, and nothing else."""
    states = [{"age": 100 + i} for i in range(41)]
    costs = [tokens(run(population([1] * n, states[:n]), n_steps=1, option_orders=1))[0] for n in (1, 11, 21, 41)]
    assert costs[2] - costs[1] == costs[1] - costs[0] and costs[3] - costs[2] == 2 * (costs[1] - costs[0])
    both = [tokens(run(population([1] * n, states[:n]), n_steps=1))[0] for n in (1, 11)]
    assert both[1] - both[0] == 2 * (costs[1] - costs[0])


def test_cost_is_flat_in_the_length_of_history():
    short, long = (tokens(run(n_steps=n, signal="statistics", agents_per_step=1)) for n in (2, 12))
    assert len(long) == 12 and max(long) <= 1.1 * min(long) and long[:2] == short
    none = tokens(run(n_steps=6))
    assert len(set(none[1:])) == 1 and none[0] > none[1]  # the shared part is encoded once


def test_rows_do_not_grow_with_people():
    rollout = run(population([n * 10**6 for n in SIZES]))
    assert len(rollout.simulated()) == 2 * (len(SIZES) + 4)


def test_the_estimate_counts_states_and_people():
    config = SimulationConfig(warm_up=WARM_UP, agents_per_step=3, action="choice", signal="none")
    planned = [plan_population(small_event(14), population([n * k for n in SIZES]), config, 3) for k in (1, 10**6)]
    small, large = (estimate([event], [plan], config) for event, plan in planned)
    assert (small.people, large.people) == (3 * N, 3 * N * 10**6) and small.prompt_tokens == large.prompt_tokens
    event, plan = plan_population(small_event(14), population(), config, 6)
    longer = estimate([event], [plan], config)
    assert longer.prompt_tokens == 2 * small.prompt_tokens
    text = replace(config, action="label_text", listed_actions=5)
    event, plan = plan_population(small_event(14), population(), text, 3)
    assert estimate([event], [plan], text).new_tokens == 3 * 5 * 50
