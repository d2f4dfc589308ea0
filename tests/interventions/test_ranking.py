"""Effects are paired differences; rankings hold for all candidates together; bad candidates stop early."""

import math

import numpy as np
import pytest
from scipy import stats

from mf_llm import InputError
from mf_llm.interventions import Candidate, Effects, InterventionPlan, Target, TopicLine, rank_candidates
from mf_llm.interventions.effects import paired_interval
from mf_llm.interventions.ranking import rank, rounds_of
from mf_llm.interventions.recommendation import recommendation

STEPS, CATEGORIES = (3, 4, 5), ("support", "oppose")
NEWS = TopicLine(step=3, topic="News.")


def effects_of(differences, seeds=None):
    """Effects on `support` at each step, candidate -> `[S]` or `[S, T]`; oppose moves against it."""
    without, changed, found = {}, {}, {}
    for name, values in differences.items():
        values = np.asarray(values, dtype=float)
        values = np.repeat(values[:, None], len(STEPS), axis=1) if values.ndim == 1 else values
        noise = 0.1 * np.sin(np.arange(len(values)))[:, None] + np.zeros((1, len(STEPS)))
        without[name] = np.stack([0.5 + noise, 0.5 - noise], axis=-1)
        changed[name] = without[name] + np.stack([values, -values], axis=-1)
        found[name] = tuple((seeds or {}).get(name, range(len(values))))
    return Effects(event_id="e", categories=CATEGORIES, steps=STEPS, seeds=found, without=without, changed=changed)


def plan_of(*names, costs=(), placebo=(), **target):
    costs = dict(zip(names, costs, strict=False))
    candidates = [
        Candidate(name=name, interventions=(NEWS,), cost=costs.get(name, 0.0), placebo=name in placebo)
        for name in names
    ]
    target = {"category": "support", "step": 5} | target
    if "steps" in target:
        del target["step"]
    return InterventionPlan(candidates=candidates, target=Target(**target))


def test_a_paired_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=12), rng.normal(0.3, 1, size=12)
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    found = paired_interval(b - a)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert paired_interval(np.array([0.2])).low is None
    assert (lambda one: (one.low, one.high))(paired_interval(np.zeros(5))) == (0.0, 0.0)


def test_effects_are_of_the_target():
    values = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.5]])
    effects = effects_of({"a": values})
    assert effects.at("a", Target(category="support", step=4)) == pytest.approx([0.2, 0.2])
    assert effects.at("a", Target(category="oppose", steps=(4, 5))) == pytest.approx([-0.25, -0.35])
    row = next(row for row in effects.rows() if (row["step"], row["category"]) == (5, "support"))
    assert row["effect"] == pytest.approx(0.4)
    assert row["with"] - row["without"] == pytest.approx(0.4)
    for target, says in [
        (Target(category="deny", step=4), "one of support, oppose, got 'deny'"),
        (Target(category="support", step=9), "simulated steps, 3 to 5, got 9"),
    ]:
        with pytest.raises(InputError, match=says):
            effects.at("a", target)
    effects.changed["a"][1, 2] = np.nan
    with pytest.raises(InputError, match="seed 1; no effect is known"):
        effects.at("a", Target(category="support", step=5))


def test_simultaneous_intervals_cover_all_candidates_together():
    """Over many repetitions without any effect, all intervals contain zero in at least 95 % (exact for one)."""
    rng, n, together, alone = np.random.default_rng(1), 600, 0, 0
    plan = plan_of("a", "b", "c", "d")
    for _ in range(n):
        noise = {name: rng.normal(0, 0.05, 10) for name in "abcd"}
        ranking = rank(plan, effects_of(noise))
        together += all(one.effect.low <= 0 <= one.effect.high for one in ranking.ranked)
        alone += all(
            interval.low <= 0 <= interval.high for interval in (paired_interval(noise[name]) for name in "abcd")
        )
    assert together / n >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / n)
    assert alone / n < 0.9  # one by one they do not


def test_the_best_is_first_and_told_from_the_others_only_if_it_can_be():
    wobble = 0.01 * np.cos(np.arange(12))
    wobble -= wobble.mean()
    made = {"weak": 0.02 + wobble, "strong": 0.201 + wobble, "equal": 0.2 - 2 * wobble, "water": wobble / 9}
    plan = plan_of("weak", "strong", "equal", "water", placebo=("water",), costs=(1, 2, 2))
    ranking = rank(plan, effects_of(made))
    assert [one.name for one in ranking.ranked] == ["strong", "equal", "weak", "water"]
    assert ranking.recommended.name == "strong"
    assert ranking.equals == ("equal",)
    said = recommendation(ranking)
    assert "strong, +20.1" in said
    assert "cannot be told from equal" in said
    assert ranking.ranked[1].dominated_by in (None, "strong")
    # The other way round nothing of this helps.
    against = rank(
        plan_of("weak", "strong", goal="lower"), effects_of({"weak": made["weak"], "strong": made["strong"]})
    )
    assert against.ranked[0].name == "weak"
    assert against.recommended is None
    assert "Nothing clearly does better" in recommendation(against)


def test_costs_count_as_much_as_they_are_said_to():
    wobble = 0.001 * np.cos(np.arange(12))
    made = effects_of({"cheap": 0.1 + wobble, "dear": 0.15 + wobble, "waste": 0.1 - 0.01 + wobble})
    names, costs = ("cheap", "dear", "waste"), (1.0, 10.0, 2.0)
    assert rank(plan_of(*names, costs=costs), made).best.name == "dear"
    by_cost = rank(plan_of(*names, costs=costs, cost_weight=0.01), made)
    assert [one.name for one in by_cost.ranked] == ["cheap", "waste", "dear"]
    assert by_cost.best.net == pytest.approx(0.09, abs=1e-3)
    assert {one.name: one.dominated_by for one in by_cost.ranked} == {"cheap": None, "dear": None, "waste": "cheap"}
    unworthy = rank(plan_of("cheap", costs=(1.0,), cost_weight=0.5), effects_of({"cheap": 0.1 + wobble}))
    assert unworthy.recommended is None
    assert "not one that is worth its cost" in recommendation(unworthy)


def test_a_placebo_that_moves_takes_everything_back():
    wobble = 0.001 * np.cos(np.arange(12))
    made = effects_of({"a": 0.1 + wobble, "water": 0.05 + wobble})
    said = recommendation(rank(plan_of("a", "water", placebo=("water",)), made))
    assert said.startswith("Nothing can be recommended: water")


def test_one_seed_gives_no_interval():
    ranking = rank(plan_of("a"), effects_of({"a": [0.1]}))
    assert ranking.ranked[0].effect.low is None
    assert "With one seed" in recommendation(ranking)


@pytest.mark.parametrize(
    ("candidates", "seeds", "rounds"),
    [
        (1, 20, [20]),
        (2, 20, [20]),
        (3, 20, [10, 20]),
        (4, 20, [10, 20]),
        (8, 20, [5, 10, 20]),
        (9, 7, [7]),
        (4, 1, [1]),
    ],
)
def test_rounds_of_successive_halving(candidates, seeds, rounds):
    assert rounds_of(candidates, seeds) == rounds


def test_bad_candidates_stop_early_and_placebos_go_to_the_end():
    truth = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.0, "e": -0.1, "water": 0.0}
    plan, asked = plan_of(*truth, placebo=("water",)), []

    def measure(wanted):
        asked.append({name: list(seeds) for name, seeds in wanted.items()})
        return effects_of(
            {name: truth[name] + 0.01 * np.cos(np.array(seeds) + len(name)) for name, seeds in wanted.items()},
            seeds=wanted,
        )

    ranking, effects = rank_candidates(plan, range(20, 36), measure)
    assert [len(one["a"]) for one in asked] == [4, 8, 16]
    assert [sorted(name for name, seeds in one.items() if len(seeds) == 4 * 2**n) for n, one in enumerate(asked)] == [
        ["a", "b", "c", "d", "e"],
        ["a", "b", "c"],
        ["a", "b", "water"],
    ]
    assert {name: len(seeds) for name, seeds in effects.seeds.items()} == {
        "a": 16, "b": 16, "c": 8, "d": 4, "e": 4, "water": 16,
    }  # fmt: skip
    assert [one.name for one in ranking.ranked] == ["a", "b", "c", "d", "e", "water"]
    assert ranking.n_intervals == 6 * 3
    asked.clear()
    everything, _ = rank_candidates(plan, range(20, 36), measure, halving=False)
    assert len(asked) == 1
    assert {one.n_seeds for one in everything.ranked} == {16}
    assert everything.best.name == "a"
