"""A small population and its simulations, shared by the tests of populations."""

from __future__ import annotations

from small_events import model_of, processor_of, small_event

from mf_llm import Rollout, SimulationConfig, simulate
from mf_llm.simulation import Population

STATES = [{"age": 20 + 7 * i, "town": f"town {i % 3}"} for i in range(6)]
SIZES = [1, 5, 2, 40, 7, 3]
N = sum(SIZES)
WARM_UP = 8


def population(sizes=SIZES, states=STATES) -> Population:
    return Population.from_records([one | {"n": n} for one, n in zip(states, sizes, strict=True)], weight="n")


def run(crowd=None, n_steps=2, *, event=None, model=None, output=None, resume=False, **settings) -> Rollout:
    quick = {"max_new_tokens": 5, "signal_max_tokens": 8, "agents_per_step": 3, "warm_up": WARM_UP, "signal": "none"}
    config = SimulationConfig(**quick | {"max_prompt_tokens": 600, "listed_actions": 4, "action": "choice"} | settings)
    where = {"output": output, "resume": resume, "progress": False}
    crowd = population() if crowd is None else crowd
    model, event = model or model_of("qwen2"), event or small_event(14)
    return simulate(model, processor_of("qwen2"), event, config, population=crowd, n_steps=n_steps, **where)


def simulated(rollout):
    return [step for step in rollout.steps if not step.real]


def state_rows(rollout, step=-1):
    index = rollout.steps[step].step
    return [row for row in rollout.actions if row.step == index and row.counts is not None]


def speaker_rows(rollout, step=-1):
    index = rollout.steps[step].step
    return [row for row in rollout.actions if row.step == index and row.counts is None]


def tokens(rollout):
    return [step.prompt_tokens + step.new_tokens for step in simulated(rollout)]
