"""Makes the small checkpoints that later versions must go on reading: ``make_checkpoints.py [FOLDER]``.

Run it once for each version that is released, with that version, and commit what it writes into
``tests/data/checkpoints/VERSION``: ``tied``, ``untied`` and ``adapters`` on ``base``, and what each of them answered
(``expected.json``). Folders of earlier versions are never made anew.
"""

from __future__ import annotations

import sys
from contextlib import chdir
from pathlib import Path

import torch

from mf_llm import MFLLMForSimulation, MFLLMProcessor, __version__
from mf_llm.atomic_files import write_json
from mf_llm.models.tiny import tiny_backbone, tiny_tokenizer

KINDS = ("tied", "untied", "adapters")
TEXT = "Two towns, one bridge: who pays? 谁 <|im_end|>"
PLACES = (0, 5, 11)  # tokens whose logits are kept
WORDS = slice(40, 440, 50)  # and of which words


def answers(model: MFLLMForSimulation) -> dict[str, list]:
    """Logits of both roles on fixed tokens, ``[place, word]``, computed in float32."""
    ids = (torch.arange(12) * 37 % 400 + 8)[None]
    with torch.no_grad():
        logits = model.float()(ids, mean_field_input_ids=ids.flip(1))
    kept = {"policy": logits.policy_logits, "mean_field": logits.mean_field_logits}
    return {role: values[0, list(PLACES), WORDS].tolist() for role, values in kept.items()}


def make(folder: Path) -> None:
    """Writes the checkpoints of this version; weights in bfloat16, half the size and exact in float32."""
    from peft import LoraConfig, get_peft_model

    backbone = tiny_backbone("qwen3").to(torch.bfloat16)
    backbone.save_pretrained(folder / "base")
    MFLLMForSimulation.from_backbones(backbone).save_pretrained(folder / "tied")
    tokenizer = tiny_tokenizer("qwen3")
    MFLLMProcessor(tokenizer).save_pretrained(folder / "tied")
    other = tiny_backbone("llama", seed=1).to(torch.bfloat16)
    MFLLMForSimulation.from_backbones(tiny_backbone("qwen3", seed=1).to(torch.bfloat16), other).save_pretrained(
        folder / "untied"
    )
    with chdir(folder):  # whoever loads the adapters stands in the folder that holds their base, too
        model = MFLLMForSimulation.from_backbones("base", dtype=torch.bfloat16)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=r"(policy|mean_field)\..*\.(q_proj|down_proj)")
    wrapped, generator = get_peft_model(model, config), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(wrapped.named_parameters()):
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    adapted = wrapped.get_base_model().to(torch.bfloat16).eval()
    adapted.config.simulation = {"signal": "both", "signal_max_tokens": 48}
    adapted.save_pretrained(folder / "adapters")
    expected = {"tokens": tokenizer(TEXT).input_ids}
    for kind in ("tied", "untied"):
        expected[kind] = answers(MFLLMForSimulation.from_pretrained(folder / kind))
    with chdir(folder):
        expected["adapters"] = answers(MFLLMForSimulation.from_pretrained("adapters"))
    write_json(folder / "expected.json", expected)


if __name__ == "__main__":
    here = Path(__file__).parents[1] / "data/checkpoints" / __version__
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
