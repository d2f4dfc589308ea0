"""Small events, tiny models and a spy on what reaches them, shared by the tests of the simulation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch

from mf_llm import Event, MFLLMForSimulation, MFLLMProcessor, Rollout, SimulationConfig, Turn
from mf_llm.models.tiny import tiny_backbone, tiny_tokenizer
from mf_llm.simulation import simulate

FAMILIES = ("qwen2", "qwen3", "llama", "gemma3", "mistral", "gpt2")
STANCES = ("support", "deny", "query")
TEXTS = (
    "I do not believe this story.",
    "Is there any official statement?",
    "This is false, do not share it!",
    "Finally somebody says it.",
    "Who told you that?",
    "",
    "My sister works there; it is true.",
)


@cache
def model_of(family: str, mean_field: str | None = None, *, tied: bool = True) -> MFLLMForSimulation:
    """A tiny model: tied, untied (the same weights twice) or of two families. Not to be changed."""
    return new_model(family, mean_field, tied=tied)


def new_model(family: str, mean_field: str | None = None, *, tied: bool = True) -> MFLLMForSimulation:
    """As `model_of`, to be changed at will."""
    if mean_field is None and tied:
        return MFLLMForSimulation.from_backbones(tiny_backbone(family))
    return MFLLMForSimulation.from_backbones(tiny_backbone(family), tiny_backbone(mean_field or family, seed=1))


@cache
def processor_of(family: str, mean_field: str | None = None) -> MFLLMProcessor:
    """The processor of `model_of`."""
    return MFLLMProcessor(tiny_tokenizer(family), tiny_tokenizer(mean_field) if mean_field else None)


@cache
def adapted_model(family: str, *, scale: float = 0.3) -> MFLLMForSimulation:
    """A tied tiny model whose policy carries random LoRA weights. Not to be changed."""
    from peft import LoraConfig, inject_adapter_in_model

    model = new_model(family)
    names = "c_attn|c_proj|c_fc" if family == "gpt2" else "q_proj|v_proj|down_proj"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=rf"policy\..*\.({names})"), model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def small_event(n: int = 14, *, waves: tuple[int, ...] = (), event_id: str = "rumour-1", **fields) -> Event:
    """`n` people who react to a rumour, 40 seconds apart; with `waves`, the sizes of survey waves w1, w2, ..."""
    n = sum(waves) or n
    wave_of = [f"w{number}" for number, size in enumerate(waves, 1) for _ in range(size)] or [None] * n
    turns = [
        Turn(
            state={"age": 20 + 3 * i, "followers_count": (i * 37) % 90, "location": f"town {i % 5}"},
            action=TEXTS[i % len(TEXTS)],
            labels={"stance": STANCES[(i * i) % 3]},
            time=1000.0 + 40.0 * i,
            parent=None if i < 2 or i % 3 else i // 2,
            wave=wave_of[i],
            weight=1.0 + 0.25 * (i % 4),
        )
        for i in range(n)
    ]
    topic = "A rumour says that the bridge will be closed for eighteen months."
    arguments = {"dimensions": {"stance": STANCES}} | fields
    return Event(event_id=event_id, topic=topic, turns=tuple(turns), **arguments)


def several_events() -> list[Event]:
    """Events of different lengths, 3 to 7 steps of three people behind 8 turns of warm-up."""
    sizes = {"one": 14, "two": 9, "three": 20, "four": 11, "five": 17}
    return [
        replace(small_event(n, event_id=name), topic=f"A rumour about bridge {name}. " + "It is old. " * (n % 4))
        for name, n in sizes.items()
    ]


def run(model, processor, event, output=None, resume=False, together=1, **settings) -> Rollout:
    """A rollout with settings that are quick with tiny models; `together`: see `events_together` of `simulate`."""
    quick = {"max_new_tokens": 5, "signal_max_tokens": 8, "agents_per_step": 3, "warm_up": 8, "max_prompt_tokens": 600}
    config = SimulationConfig(**quick | settings)
    where = {"output": output, "resume": resume, "events_together": together}
    return simulate(model, processor, event, config, progress=False, **where)


def outcome(rollout: Rollout) -> tuple:
    """Everything that came out of a rollout, for exact comparison."""
    return rollout.actions, rollout.steps


def with_turns(event: Event, **changes) -> Event:
    """`event` with fields of single turns changed: ``with_turns(event, {3: {"action": "no"}})`` by keyword `at`."""
    at = changes.pop("at")
    turns = [replace(turn, **at.get(i, {})) for i, turn in enumerate(event.turns)]
    return replace(event, turns=tuple(turns), **changes)


@contextmanager
def every_input(model: MFLLMForSimulation) -> Iterator[dict[str, list[list[int]]]]:
    """Within this context, the token ids of each row that either backbone reads, by role."""
    seen: dict[str, list[list[int]]] = {"policy": [], "mean_field": []}
    hooks = []
    for role, rows in seen.items():

        def record(module, args, kwargs, rows=rows):
            rows.extend(kwargs["input_ids"].tolist())

        hooks.append(model.backbone(role).register_forward_pre_hook(record, with_kwargs=True))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def texts_read(processor: MFLLMProcessor, seen: dict[str, list[list[int]]]) -> str:
    """What `every_input` saw, as text."""
    rows = [(role, tuple(row)) for role, all_rows in seen.items() for row in all_rows if len(row) > 1]
    return "\n".join(processor.tokenizer_of(role).decode(list(row)) for role, row in dict.fromkeys(rows))
