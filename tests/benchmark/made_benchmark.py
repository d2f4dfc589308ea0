"""A small benchmark: data, a list of methods, and checkpoints as training would leave them."""

from __future__ import annotations

import json
from pathlib import Path

from mf_llm import MFLLMForSimulation, MFLLMProcessor

STANCES = ["support", "deny", "query"]
TABLE = """
options: {readout: exact, action: choice, agents_per_step: 8, signal_max_tokens: 4}
data_sets:
  threads: {}
  poll: {max_people_per_step: 6}
methods:
  uniform: {forecaster: uniform}
  carry: {forecaster: carry}
  carry-regressed: {forecaster: carry-regressed}
  anchored-zero: {forecaster: carry}
  base: {options: {signal: none}}
  base+anchored: {options: {signal: none, anchored: true}}
  mine: {checkpoint: "{checkpoints}/tuned{seed}", seeds: [0, 1], options: {signal: statistics}}
  mf-tuned+anchored:
    {checkpoint: "{checkpoints}/tuned{seed}", seeds: [0, 1], options: {signal: statistics, anchored: true}}
  signal-only: {checkpoint: "{checkpoints}/tuned{seed}", roles: [mean_field], options: {signal: none}}
pairs:
  - [mine, base]
  - [mf-tuned+anchored, anchored-zero]
"""


def write_data(folder: Path) -> Path:
    """Two data sets: threads of 20 turns, and a survey of two waves."""
    folder.mkdir()
    lines = []
    for split, count in (("train", 3), ("test", 4)):
        for number in range(count):
            labels = [STANCES[(i * (number + 1) + i // 5) % 3] for i in range(20)]
            turns = [{"action": f"word {i}", "labels": {"stance": label}} for i, label in enumerate(labels)]
            event = {"event_id": f"{split}-{number}", "topic": f"Bridge {number}", "split": split, "turns": turns}
            lines.append(event | {"dimensions": {"stance": STANCES}})
    (folder / "threads.jsonl").write_text("".join(json.dumps(event) + "\n" for event in lines), encoding="utf-8")
    write_poll(folder, STANCES)
    return folder


def write_poll(folder: Path, stances: list[str]) -> None:
    """A survey of two waves of ten people."""
    turns = [
        {"state": {"age": str(20 + i)}, "labels": {"stance": stances[(i + i // 4) % 3]}, "wave": f"w{1 + i // 10}"}
        for i in range(20)
    ]
    event = {"event_id": "poll", "topic": "Bridge", "split": "test", "turns": turns, "dimensions": {"stance": stances}}
    (folder / "poll.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")


def save_tuned(base: Path, folder: Path, seed: int) -> None:
    """A checkpoint with random LoRA on both roles, as training would leave it."""
    import peft
    import torch

    model = MFLLMForSimulation.from_backbones(base, dtype="float32")
    config = peft.LoraConfig(r=2, target_modules=r"(policy|mean_field)\..*\.(q_proj|v_proj|down_proj)")
    wrapped = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(wrapped.named_parameters()):
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    wrapped.get_base_model().save_pretrained(folder)
    MFLLMProcessor.from_backbones(base).save_pretrained(folder)
