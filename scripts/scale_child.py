"""One part of ``benchmark_scale.py``, in a process of its own: ``python scripts/scale_child.py PART SETTINGS REPORT``.

SETTINGS is a JSON (`benchmark_scale.SIZES`, with ``model``, ``dtype`` and ``threads``), REPORT gets what was found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from mf_llm import SimulationConfig, load_events
from mf_llm.atomic_files import write_json
from mf_llm.benchmark.long_horizon import replayed
from mf_llm.events import Event
from mf_llm.models.loading import load_model_and_processor
from mf_llm.models.tiny import save_tiny_backbone
from mf_llm.simulation import Population, Rollout, coarsening_cost, load_bins, simulate
from mf_llm.speed.peak_memory import peak_memory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from simulate_population import BINS, invent_people  # noqa: E402

SURVEY_BINS = ROOT / "examples/configs/vaccine_intention_bins.yaml"
AGES = 80
Settings = dict[str, Any]


def crowd(states: int, people: int) -> Population:
    """People in that many states of age and district, about as many in each."""
    return Population.from_records(
        (
            {"age": 18 + n % AGES, "district": n // AGES + 1, "n": people // states + (n < people % states)}
            for n in range(states)
        ),
        weight="n",
    )


def timed(
    models: tuple[Any, Any], population: Population, config: SimulationConfig, n_steps: int
) -> tuple[Rollout, list[float]]:
    """The rollout of the town's event, kept on disk as the command keeps it, and seconds of its simulated steps."""
    [event] = load_events("bridge-closure")
    with tempfile.TemporaryDirectory() as folder:
        rollout = simulate(
            *models, event, config, population=population, n_steps=n_steps, output=folder, progress=False
        )
        seconds = json.loads((Path(folder) / "timings.json").read_text(encoding="utf-8"))["seconds_per_step"]
    return rollout, seconds[-n_steps:]


def peak_gib(work: Any) -> float | None:
    """Peak memory of the process while it works, in GiB."""
    peak = peak_memory(work, torch.device("cpu"))
    return None if peak is None else peak / 2**30


def step(settings: Settings) -> dict[str, Any]:
    """A step over many people against one over few with the same states, by turns."""
    models = load_model_and_processor(settings["model"], dtype=settings["dtype"], progress=False)
    config = SimulationConfig(signal="statistics", action="choice", option_orders=1)
    sizes = {"many": settings["many_people"], "few": settings["few_people"]}
    timed(models, crowd(16, 16), config, 1)  # once for nothing: kernels are made and memory is touched
    seconds: dict[str, list[float]] = {name: [] for name in sizes}
    tokens = {}
    for turn in range(settings["step_repeats"]):
        for name in list(sizes) if turn % 2 == 0 else list(sizes)[::-1]:
            rollout, spent = timed(models, crowd(settings["step_states"], sizes[name]), config, 1)
            seconds[name] += spent
            tokens[name] = rollout.steps[-1].prompt_tokens
            check_everybody_acted(rollout, sizes[name])
    ratio = median(seconds["many"]) / median(seconds["few"])
    return {"states": settings["step_states"], "people": sizes, "tokens": tokens, "seconds": seconds, "ratio": ratio}


def million(settings: Settings) -> dict[str, Any]:
    """Steps of many people with written signals, and what people write: seconds of all, loading not counted."""
    models = load_model_and_processor(settings["model"], dtype=settings["dtype"], progress=False)
    config = SimulationConfig(
        signal="text", writers=8, max_new_tokens=32, signal_max_tokens=96, option_orders=settings["option_orders"]
    )
    population = crowd(settings["million_states"], settings["million_people"])
    found: dict[str, Any] = {}

    def work() -> None:
        start = time.perf_counter()
        found["rollout"], found["seconds_per_step"] = timed(models, population, config, settings["million_steps"])
        found["seconds"] = time.perf_counter() - start

    peak = peak_gib(work)
    rollout = found.pop("rollout")
    check_everybody_acted(rollout, settings["million_people"])
    return {
        "states": len(population),
        "people": population.n_people,
        "steps": settings["million_steps"],
        "signal_tokens": 96,
        "prompt_tokens": sum(one.prompt_tokens for one in rollout.steps),
        "new_tokens": sum(one.new_tokens for one in rollout.steps),
        **found,
        "peak_gib": peak,
    }


def table(settings: Settings) -> dict[str, Any]:
    """A Parquet table of people is read and merged."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "people.parquet"
        invent_people(path, settings["table_rows"], seed=0)

        def work() -> None:
            start = time.perf_counter()
            found["states"] = len(Population.from_table(path, bins=BINS))
            found["seconds"] = time.perf_counter() - start

        peak = peak_gib(work)
        return {"rows": settings["table_rows"], "bytes": path.stat().st_size, **found, "peak_gib": peak}


def coarsening(settings: Settings) -> dict[str, Any]:
    """The last wave of the packaged survey in few states against all its people."""
    models = load_model_and_processor(settings["model"], dtype=settings["dtype"], progress=False)
    [event] = [event for event in load_events("vaccine-intention") if event.event_id == "vaccine-intention-us"]
    event = thinned(event, "w6", settings["survey_every"])
    population = Population.from_event(event, wave="w6")
    few = population.represented(load_bins(SURVEY_BINS))
    start = time.perf_counter()
    cost = coarsening_cost(*models, event, population, few, SimulationConfig(warm_up="w5", signal="statistics"))
    return {"event": event.event_id, "wave": "w6", "seconds": time.perf_counter() - start, **vars(cost)}


def growth(settings: Settings) -> dict[str, Any]:
    """What a step costs, from the first to the last of many, and with few to many states.

    Steps are those of a tiny random model with written signals; what a step costs the real one for its states beside
    it.
    """
    config = SimulationConfig(signal="both", action="choice", option_orders=1, signal_max_tokens=16)
    with tempfile.TemporaryDirectory() as folder:
        tiny = load_model_and_processor(save_tiny_backbone(folder, "llama"), dtype="float32", progress=False)
    timed(tiny, crowd(10, 1000), config, 2)
    rows = _rows("tiny", "steps", tiny, config, 10, settings["growth_steps"])
    quiet = replace(config, signal="statistics")
    for states in settings["growth_states"]:
        rows += _rows("tiny", "states", tiny, quiet, states, settings["growth_repeats"])
    models = load_model_and_processor(settings["model"], dtype=settings["dtype"], progress=False)
    timed(models, crowd(10, 1000), quiet, 1)
    for states in settings["growth_model_states"]:
        rows += _rows("model", "states", models, quiet, states, 1)
    return {"rows": rows, **_fits(rows)}


def _rows(
    name: str, over: str, models: tuple[Any, Any], config: SimulationConfig, states: int, n_steps: int
) -> list[dict]:
    rollout, seconds = timed(models, crowd(states, 1_000_000), config, n_steps)
    steps = [one for one in rollout.steps if not one.real]
    return [
        {
            "model": name,
            "over": over,
            "states": states,
            "step": n + 1,
            "tokens": one.prompt_tokens + one.new_tokens,
            "seconds": spent,
        }
        for n, (one, spent) in enumerate(zip(steps, seconds, strict=True))
    ]


def _fits(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How flat and how linear it is.

    Returns:
        ``late_over_early``: median seconds and tokens of the last tenth of the steps over those of the first tenth;
        ``states``: for each model slope and intercept of tokens and of seconds against states, and R^2.
    """
    steps = [row for row in rows if row["over"] == "steps"]
    tenth = max(len(steps) // 10, 1)
    early, late = steps[:tenth], steps[-tenth - 1 : -1]  # no signal is written behind the last step
    flat = {
        name: median(row[name] for row in late) / median(row[name] for row in early) for name in ("seconds", "tokens")
    }
    lines: dict[str, Any] = {}
    for model in ("tiny", "model"):
        chosen = [row for row in rows if row["over"] == "states" and row["model"] == model]
        x = np.array([row["states"] for row in chosen], dtype=float)
        for name in ("seconds", "tokens"):
            y = np.array([row[name] for row in chosen], dtype=float)
            slope, first = np.polyfit(x, y, 1)
            r2 = float(np.corrcoef(x, y)[0, 1] ** 2)
            lines.setdefault(model, {})[name] = {"per_state": float(slope), "fixed": float(first), "r2": r2}
    return {"late_over_early": flat, "states": lines}


def replay(settings: Settings) -> dict[str, Any]:
    """Peak memory of replays of one event, shorter and longer ones: what an action more costs is its row."""
    [event] = load_events("bridge-closure")
    # All alike, who are asked once: rows are what there are many of.
    event = replace(event, turns=tuple(replace(turn, state={}) for turn in event.turns))
    with tempfile.TemporaryDirectory() as folder:
        tiny = load_model_and_processor(save_tiny_backbone(folder, "llama"), dtype="float32", progress=False)

    def simulated(n_actions: int) -> None:
        config = SimulationConfig(
            signal="statistics", action="choice", option_orders=1, agents_per_step=64, max_actions=n_actions
        )
        with tempfile.TemporaryDirectory() as folder:
            simulate(*tiny, replayed(event, n_actions), config, output=folder, progress=False)

    sizes = settings["replay_actions"]
    simulated(sizes[0])  # once for nothing: kernels are made and memory is touched
    peaks = [peak_gib(partial(simulated, n)) for n in sizes]
    each = None if peaks[0] is None else (peaks[-1] - peaks[0]) * 2**20 / (sizes[-1] - sizes[0])
    return {"event": event.event_id, "actions": sizes, "peak_gib": peaks, "kib_per_action": each}


def start(settings: Settings) -> dict[str, Any]:
    """Seconds from the command to the first output of the model, whose backbone is cached."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for n in range(settings["start_repeats"]):
            report = Path(folder) / f"{n}.json"
            command = ["simulate", "bridge-closure", "--model", settings["model"], "--dtype", settings["dtype"]]
            begun = [str(report), repr(time.time()), *command, "--output", str(Path(folder) / f"run-{n}")]
            subprocess.run(
                [sys.executable, str(ROOT / "scripts/first_output.py"), *begun], check=True, capture_output=True
            )
            seconds.append(json.loads(report.read_text(encoding="utf-8"))["seconds"])
    return {"mf_llm_command": "mf-llm simulate bridge-closure", "seconds": seconds, "slowest": max(seconds)}


def check_everybody_acted(rollout: Rollout, people: int) -> None:
    """A step that lost somebody would be no measure."""
    for one in rollout.steps:
        if not one.real and (one.n_failed or one.counts is None or sum(one.counts) != people):
            raise RuntimeError(f"step {one.step}: {one.n_failed} failed, counts {one.counts}, not {people} people")


def thinned(event: Event, wave: str, every: int) -> Event:
    """The event with every `every`-th person of its last wave alone."""
    first = next(i for i, turn in enumerate(event.turns) if turn.wave == wave)
    return replace(event, turns=tuple(turn for i, turn in enumerate(event.turns) if i < first or not i % every))


PARTS = {
    "start": start,
    "table": table,
    "step": step,
    "million": million,
    "growth": growth,
    "replay": replay,
    "coarsening": coarsening,
}


def main() -> None:
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    found = PARTS[sys.argv[1]](settings)
    write_json(Path(sys.argv[3]), {"threads": torch.get_num_threads(), **found})


if __name__ == "__main__":
    main()
