"""Trains tiny models in a process of its own, or in several: ``accelerate launch distributed_training.py CASES.json``.

The file holds a list of cases. Each process writes what it has at the end of a case to ``<folder>/rank<n>.json``.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from made_trainer import Changes, history, new_model, rows, trainer_of
from transformers import TrainerCallback


class DieAt(TrainerCallback):
    """Kills its process as soon as the checkpoint of a step has been written."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def gathered_weights(model) -> dict[str, torch.Tensor]:
    """All parameters, in full where they are sharded."""
    parts = {name: parameter.detach() for name, parameter in sorted(model.named_parameters())}
    return {name: part.full_tensor() if hasattr(part, "full_tensor") else part for name, part in parts.items()}


def run(case: dict) -> dict:
    folder, changes, saves = Path(case["folder"]), Changes(), []
    trainer = trainer_of(
        case["base"],
        folder / "run",
        model=new_model(case["base"], **case.get("model", {})),
        data=rows(**case.get("rows", {})),
        evaluated=rows(4, split="validation") if "eval_strategy" in case["config"] else None,
        options={"callbacks": [changes, *([DieAt(case["die_at"])] if "die_at" in case else [])]},
        **case["config"],
    )
    save = trainer.composite.save_pretrained
    trainer.composite.save_pretrained = lambda *args, **kwargs: [saves.append(str(args[0])), save(*args, **kwargs)]
    trainer.train(resume_from_checkpoint=case.get("resume"))
    wrapper = type(trainer.model_wrapped).__name__
    trainer.save_model(str(folder / "saved"))
    weights = gathered_weights(trainer.accelerator.unwrap_model(trainer.model))
    content = b"".join(value.contiguous().view(torch.uint8).numpy().tobytes() for value in weights.values())
    if trainer.args.process_index == 0:
        torch.save({name: value for name, value in weights.items() if "lora_" in name}, folder / "weights.pt")
    return {
        "processes": trainer.args.world_size,
        "wrapper": wrapper,
        "sharded": sum(hasattr(parameter, "full_tensor") for parameter in trainer.model.parameters()),
        "parameters": len(weights),
        "digest": hashlib.sha256(content).hexdigest(),
        "history": history(trainer),
        "changes": changes.steps,
        "tokens": trainer.state.num_input_tokens_seen,
        "saves": len(saves),
    }


def main() -> None:
    cases = json.loads(Path(sys.argv[1]).read_text())
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if sharded:
        # accelerate leaves FSDP out on CPU without a word, although torch has it; it does not look at the device.
        PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    for case in cases:
        case["config"] |= {"accelerator_config": {"use_configured_state": True}} if sharded else {}
        Path(case["folder"]).mkdir(parents=True, exist_ok=True)
        result = run(case)
        path = Path(case["folder"]) / f"rank{PartialState().process_index}.json"
        path.write_text(json.dumps(result, indent=1))
        PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
